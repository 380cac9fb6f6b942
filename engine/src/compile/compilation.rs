//! From the bytes on standard input to an artifact that an engine will map.

use crate::artifact::sha256;
use crate::command::{ENTRY_POINT, Function};
use crate::compile::Task;
use crate::compile::limits::out_of_memory;
use crate::compile::output::Unnamed;
use crate::guest::Guest;
use crate::inspect::{self, Binary};
use crate::program::Linkers;
use crate::protocol::{Compiled, Error, ErrorReason, Format, Kind};
use crate::settings;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Engine, ExternType, Module};

/// Compiles, checks and publishes.
pub fn compile(task: &Task) -> Result<Compiled, Error> {
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
