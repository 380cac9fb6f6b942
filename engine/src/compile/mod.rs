//! `wasmlet-engine compile`: Wasm from standard input to an artifact on disk.
//!
//! Two processes. The outer one always answers with one JSON document; the inner one compiles, may be ended by its
//! memory cap at any allocation on any thread, and dies with the outer one. The artifact is an unnamed file until it
//! is whole, so that no end of either leaves anything half-written.
//!
//! - `compilation`: the work; `output`: its file; `limits`: what holds the process that does it

mod compilation;
mod limits;
mod output;

use crate::allocator;
use crate::protocol::{Compiled, Error, ErrorReason};
use limits::{out_of_memory, out_of_time};
use rustix::process::Signal;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// The inner process's subcommand; not for people.
pub const INNER: &str = "compile-inner";

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
    print(&run_inner(task))
}

/// Compiles, in the process that [`outer`] started, and prints the answer.
pub fn inner(task: &Task) -> ExitCode {
    print(&limits::keep(task).and_then(|()| {
        std::panic::catch_unwind(|| compilation::compile(task))
            .unwrap_or_else(|_| Err(limits::panicked(task)))
    }))
}

/// Prints a helper's one document: its answer, or why there is none.
pub fn print(answer: &Result<impl serde::Serialize, Error>) -> ExitCode {
    let document = match answer {
        Ok(answer) => serde_json::to_vec(answer),
        Err(error) => serde_json::to_vec(error),
    };
    let written = document.map_err(io::Error::from).and_then(|mut line| {
        line.push(b'\n');
        io::stdout().write_all(&line)
    });
    if answer.is_ok() && written.is_ok() {
        ExitCode::SUCCESS
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
    let temporary = output::named_temporary(&task.output, child.id());
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
