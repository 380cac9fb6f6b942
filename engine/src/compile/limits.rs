//! What holds the process that compiles: its memory cap, its time, and what of the machine it reaches.

use crate::allocator;
use crate::compile::Task;
use crate::compile::output::directory;
use crate::confine;
use crate::protocol::{Error, ErrorReason};
use rustix::process::{Resource, Rlimit, Signal};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A panic this near the cap is the cap's: the stacks of two threads, of which one may be there already.
const STACKS_BYTES: u64 = 2 * 2 * 1024 * 1024 + 64 * 1024;

/// CPU seconds of all threads together. A module of 69 MB takes two minutes; what takes longer than this was made to.
const CPU_SECONDS: u64 = 30 * 60;

/// A thread panicked near the cap.
static PANICKED_FULL: AtomicBool = AtomicBool::new(false);

/// Gives way to everything else on the machine, dies with the outer process, keeps to the memory cap and to the time,
/// and reaches nothing but its output's directory.
pub fn keep(task: &Task) -> Result<(), Error> {
    confine(task).map_err(|error| {
        Error::new(
            ErrorReason::Internal,
            format!("cannot confine the compiler: {error}"),
        )
    })
}

fn confine(task: &Task) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::nice(19)?;
    limit(Resource::Core, 0, 0)?;
    let seconds = task.cpu_seconds.unwrap_or(CPU_SECONDS);
    limit(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    if let Some(bytes) = task.memory_limit {
        allocator::signal_exhaustion();
        // Not RLIMIT_AS: address space that is only reserved (malloc arenas, stacks) costs nothing.
        limit(Resource::Data, bytes, bytes)?;
        note_panics(bytes);
    }
    confine::helper(Some(directory(&task.output)))
        .map_err(|error| io::Error::other(format!("{error:#}")))
}

fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    Ok(rustix::process::setrlimit(resource, limit)?)
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

/// A panic that was caught, in the words of its cause.
pub fn panicked(task: &Task) -> Error {
    if PANICKED_FULL.load(Ordering::Relaxed) {
        return out_of_memory(task.memory_limit);
    }
    Error::new(ErrorReason::Internal, "the compiler panicked on this file")
}

/// It reached its time.
pub fn out_of_time(task: &Task) -> Error {
    let seconds = task.cpu_seconds.unwrap_or(CPU_SECONDS);
    Error::new(
        ErrorReason::CompileTime,
        format!("compiling takes more than {seconds} s of CPU time"),
    )
}

/// It reached its memory cap.
pub fn out_of_memory(limit: Option<u64>) -> Error {
    let message = match limit {
        Some(limit) => {
            format!("compiling takes more than the {limit} bytes that it may have; raise the limit")
        }
        None => "compiling takes more memory than there is".to_owned(),
    };
    Error::new(ErrorReason::CompileMemory, message)
}
