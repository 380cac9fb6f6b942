//! `wasmlet-engine compile`: Wasm from standard input to an artifact on disk.
//!
//! Two processes. The outer one always answers with one JSON document; the inner one compiles, may be ended by its
//! memory cap at any allocation on any thread, and dies with the outer one. The artifact is an unnamed file until it
//! is whole, so that no end of either leaves anything half-written.

use crate::allocator;
use crate::artifact::sha256;
use crate::command::{ENTRY_POINT, Function};
use crate::confine;
use crate::guest::Guest;
use crate::inspect::{self, Binary};
use crate::program::Linkers;
use crate::protocol::{Compiled, Error, ErrorReason, Format, Kind};
use crate::settings;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Engine, ExternType, Module};

/// The inner process's subcommand; not for people.
pub const INNER: &str = "compile-inner";

/// A panic this near the cap is the cap's: the stacks of two threads, of which one may be there already.
const STACKS_BYTES: u64 = 2 * 2 * 1024 * 1024 + 64 * 1024;

/// CPU seconds of all threads together. A module of 69 MB takes two minutes; what takes longer than this was made to.
const CPU_SECONDS: u64 = 30 * 60;

/// Of an artifact: engines of other users map it too, and the directories above say who else comes here.
const MODE: u32 = 0o644;

/// A thread panicked near the cap.
static PANICKED_FULL: AtomicBool = AtomicBool::new(false);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Where the artifact goes.
    pub output: PathBuf,
    /// Which export is to be run; `None` is the usual one.
    pub function: Option<String>,
    /// Bytes of data the compilation may have; `None` is no limit.
    pub memory_limit: Option<u64>,
    /// CPU seconds that it may take; `None` is half an hour.
    pub cpu_seconds: Option<u64>,
}

/// Runs the inner process and prints its answer, or one in its stead.
pub fn outer(task: &Task) -> ExitCode {
    match run_inner(task) {
        Ok(answer) => print(&answer, ExitCode::SUCCESS),
        Err(error) => print(&error, ExitCode::FAILURE),
    }
}

/// Compiles, in the process that [`outer`] started, and prints the answer.
pub fn inner(task: &Task) -> ExitCode {
    let answer = confine(task).and_then(|()| {
        std::panic::catch_unwind(|| compile(task)).unwrap_or_else(|_| {
            Err(if PANICKED_FULL.load(Ordering::Relaxed) {
                out_of_memory(task.memory_limit)
            } else {
                Error::new(ErrorReason::Internal, "the compiler panicked on this file")
            })
        })
    });
    match answer {
        Ok(compiled) => print(&compiled, ExitCode::SUCCESS),
        Err(error) => print(&error, ExitCode::FAILURE),
    }
}

/// Prints a helper's one document.
pub fn print(document: &impl serde::Serialize, code: ExitCode) -> ExitCode {
    let written = serde_json::to_vec(document)
        .map_err(io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            io::stdout().write_all(&line)
        });
    if written.is_ok() {
        code
    } else {
        ExitCode::FAILURE
    }
}

fn run_inner(task: &Task) -> Result<Compiled, Error> {
    let internal = |error: io::Error| {
        Error::new(
            ErrorReason::Internal,
            format!("cannot run the compiler: {error}"),
        )
    };
    let mut arguments = vec![
        OsString::from(INNER),
        "--output".into(),
        task.output.clone().into(),
    ];
    if let Some(function) = &task.function {
        arguments.extend(["--function".into(), function.into()]);
    }
    if let Some(limit) = task.memory_limit {
        arguments.extend(["--memory-limit".into(), limit.to_string().into()]);
    }
    if let Some(seconds) = task.cpu_seconds {
        arguments.extend(["--cpu-seconds".into(), seconds.to_string().into()]);
    }
    let child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(internal)?;
    let temporary = named_temporary(&task.output, child.id());
    let output = child.wait_with_output().map_err(internal)?;
    if !output.status.success() {
        let _ = std::fs::remove_file(temporary);
    }
    if output.status.success()
        && let Ok(compiled) = serde_json::from_slice(&output.stdout)
    {
        return Ok(compiled);
    }
    if let Ok(error) = serde_json::from_slice(&output.stdout) {
        return Err(error);
    }
    if output.status.signal() == Some(Signal::XCPU.as_raw()) {
        return Err(out_of_time(task));
    }
    // SIGKILL comes from the kernel when the machine or the control group has no memory left.
    let memory = [allocator::EXHAUSTED, Signal::KILL].map(|signal| Some(signal.as_raw()));
    Err(if memory.contains(&output.status.signal()) {
        out_of_memory(task.memory_limit)
    } else {
        Error::new(
            ErrorReason::Internal,
            format!("the compiler ended without an answer: {}", output.status),
        )
    })
}

fn out_of_time(task: &Task) -> Error {
    let seconds = task.cpu_seconds.unwrap_or(CPU_SECONDS);
    Error::new(
        ErrorReason::CompileTime,
        format!("compiling takes more than {seconds} s of CPU time"),
    )
}

fn out_of_memory(limit: Option<u64>) -> Error {
    let message = match limit {
        Some(limit) => {
            format!("compiling takes more than the {limit} bytes that it may have; raise the limit")
        }
        None => "compiling takes more memory than there is".to_owned(),
    };
    Error::new(ErrorReason::CompileMemory, message)
}

/// Gives way to everything else on the machine, dies with the outer process, keeps to the memory cap and to the time,
/// and reaches nothing but its output's directory.
fn confine(task: &Task) -> Result<(), Error> {
    let refuse = |error: io::Error| {
        Error::new(
            ErrorReason::Internal,
            format!("cannot confine the compiler: {error}"),
        )
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|it| refuse(it.into()))?;
    rustix::process::nice(19).map_err(|it| refuse(it.into()))?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(|it| refuse(it.into()))?;
    let seconds = task.cpu_seconds.unwrap_or(CPU_SECONDS);
    let seconds = Rlimit {
        current: Some(seconds),
        maximum: Some(seconds + 1),
    };
    rustix::process::setrlimit(Resource::Cpu, seconds).map_err(|it| refuse(it.into()))?;
    if let Some(limit) = task.memory_limit {
        allocator::signal_exhaustion();
        // Not RLIMIT_AS: address space that is only reserved (malloc arenas, stacks) costs nothing.
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(Resource::Data, limit).map_err(|it| refuse(it.into()))?;
        note_panics(limit.current.unwrap_or(u64::MAX));
    }
    confine::helper(Some(directory(&task.output)))
        .map_err(|it| refuse(io::Error::other(format!("{it:#}"))))
}

/// Libraries panic when they cannot start their threads (rayon does), which is told from other panics by how near
/// the cap is before anything is unwound.
fn note_panics(limit: u64) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if data_bytes().is_none_or(|used| used + STACKS_BYTES > limit) {
            PANICKED_FULL.store(true, Ordering::Relaxed);
        }
        usual(panic);
    }));
}

/// What counts against the cap.
fn data_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmData:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn compile(task: &Task) -> Result<Compiled, Error> {
    let begin = Instant::now();
    let bytes = read_input(task)?;
    let binary = inspect::read(&bytes)?;
    let kind = binary.kind_of(task.function.as_deref())?;
    let internal = |error: wasmtime::Error| {
        refuse(
            task,
            ErrorReason::Internal,
            "cannot set up the compiler",
            &error,
        )
    };
    let flavour = binary.flavour();
    let engine = settings::compiling(flavour).map_err(internal)?;
    let linkers = Linkers::new(&engine, flavour).map_err(internal)?;
    let mut store = wasmtime::Store::new(&engine, Guest::empty());
    binary.require_imports(|module, name| linkers.defines(&mut store, module, name))?;
    let compiled = match binary.format {
        Format::Module => engine.precompile_module(&bytes),
        Format::Component => engine.precompile_component(&bytes),
    };
    let artifact = compiled.map_err(|error| {
        refuse(
            task,
            ErrorReason::Malformed,
            "the WebAssembly binary is invalid or not supported",
            &error,
        )
    })?;
    let input_sha256 = sha256(&mut bytes.as_slice()).map_err(|error| unwritable(task, &error))?;
    drop(bytes);
    let sha256 = sha256(&mut artifact.as_slice()).map_err(|error| unwritable(task, &error))?;
    let file = Unnamed::write(&task.output, &artifact).map_err(|error| unwritable(task, &error))?;
    let length = artifact.len() as u64;
    drop(artifact);
    check(task, &engine, &linkers, (&binary, kind), &file.file)?;
    file.publish(&task.output)
        .map_err(|error| unwritable(task, &error))?;
    Ok(Compiled {
        kind,
        format: binary.format,
        wasi: binary.wasi(),
        input_sha256,
        sha256,
        bytes: length,
        compatibility: settings::compatibility().map_err(internal)?,
        milliseconds: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn read_input(task: &Task) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock();
    match input.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            Err(out_of_memory(task.memory_limit))
        }
        Err(error) => Err(Error::new(
            ErrorReason::Internal,
            format!("cannot read the input: {error}"),
        )),
    }
}

/// Maps the artifact as an engine will, so that a wrong import type or entry point is told now.
fn check(
    task: &Task,
    engine: &Engine,
    linkers: &Linkers,
    (binary, kind): (&Binary, Kind),
    file: &File,
) -> Result<(), Error> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let unmappable = |error: wasmtime::Error| {
        refuse(
            task,
            ErrorReason::Internal,
            "cannot map the artifact",
            &error,
        )
    };
    let function = task.function.as_deref();
    // SAFETY: this process has just written the file, which has no name yet.
    let linked = match binary.format {
        Format::Module => {
            let module = unsafe { Module::deserialize_file(engine, &path) }.map_err(unmappable)?;
            require_entry_type(&module, function.unwrap_or(ENTRY_POINT))?;
            linkers.module(&module, function)
        }
        Format::Component => {
            let component =
                unsafe { Component::deserialize_file(engine, &path) }.map_err(unmappable)?;
            if let Some(name) = function
                && Function::find(&component, name).is_none()
            {
                let text = format!(
                    "the component's {name} is no function that can be called as a program: without parameters, \
                     and with nothing, a result or an integer for the exit status"
                );
                return Err(Error::new(ErrorReason::NoEntryPoint, text));
            }
            linkers.component(&component, kind, function)
        }
    };
    linked.map(drop).map_err(|error| {
        refuse(
            task,
            ErrorReason::MissingImport,
            "this engine cannot link the file",
            &error,
        )
    })
}

fn require_entry_type(module: &Module, entry: &str) -> Result<(), Error> {
    let is_right = matches!(
        module.get_export(entry),
        Some(ExternType::Func(it)) if it.params().len() == 0 && it.results().len() == 0
    );
    if is_right {
        return Ok(());
    }
    let message = format!("the module's {entry} is no function without parameters and results");
    Err(Error::new(ErrorReason::NoEntryPoint, message))
}

fn refuse(task: &Task, reason: ErrorReason, what: &str, error: &wasmtime::Error) -> Error {
    // A map that the cap forbids comes back as an error, not through the allocator.
    let is_memory = error.chain().any(|cause| {
        cause.is::<wasmtime::OutOfMemory>()
            || cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
            || cause
                .downcast_ref::<io::Error>()
                .is_some_and(|it| it.kind() == io::ErrorKind::OutOfMemory)
    });
    if is_memory {
        return out_of_memory(task.memory_limit);
    }
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    Error::new(reason, format!("{what}: {}", causes.join(": ")))
}

fn unwritable(task: &Task, error: &io::Error) -> Error {
    Error::new(
        ErrorReason::Internal,
        format!("cannot write {}: {error}", task.output.display()),
    )
}

fn directory(output: &Path) -> &Path {
    let parent = output.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The name before the rename; of an inner process, so that two for one output do not meet.
fn named_temporary(output: &Path, process: u32) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".{process}.new"));
    name.into()
}

/// A file that nobody sees until it is published.
struct Unnamed {
    file: File,
    /// Its name, where it needs one.
    name: Option<PathBuf>,
}

impl Unnamed {
    fn write(output: &Path, content: &[u8]) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(MODE);
        let unnamed = rustix::fs::open(
            directory(output),
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            mode,
        );
        let mut this = match unnamed {
            Ok(descriptor) => Self {
                file: descriptor.into(),
                name: None,
            },
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = named_temporary(output, std::process::id());
                let _ = std::fs::remove_file(&name);
                let mut options = File::options();
                let file = options
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(MODE)
                    .open(&name)?;
                Self {
                    file,
                    name: Some(name),
                }
            }
            Err(error) => return Err(error.into()),
        };
        this.file.write_all(content)?;
        this.file.rewind()?;
        Ok(this)
    }

    fn publish(mut self, output: &Path) -> io::Result<()> {
        let name = match self.name.take() {
            Some(name) => name,
            None => {
                let name = named_temporary(output, std::process::id());
                let _ = std::fs::remove_file(&name);
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, unnamed, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
                name
            }
        };
        let renamed = std::fs::rename(&name, output);
        if renamed.is_err() {
            let _ = std::fs::remove_file(&name);
        }
        renamed
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}
