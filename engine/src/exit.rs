//! How a guest's end becomes an exit code, a reason and an owner of the fault: one table.

use crate::protocol::{ExecExit, ExitReason, Fault};
use crate::sandbox::Stop;
use rustix::io::Errno;
use std::fmt;
use wasmtime::{GcHeapOutOfMemory, PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Kubernetes keeps at most this much of a termination message.
const MESSAGE_BYTES: usize = 4096;

/// The ways in which a sandbox ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest returned, or chose this code.
    Code(u32),
    /// The guest did what WebAssembly or its host does not allow.
    Trap(String),
    /// The guest asked for more memory than its limit.
    OutOfMemory(String),
    /// It was asked to end.
    Stopped,
    /// Its grace was over.
    Killed,
    /// The engine could not go on with it.
    Failed(String),
}

/// An [`Ending`] in the protocol's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The process's exit code in Kubernetes' eyes.
    pub code: u32,
    /// One word.
    pub reason: ExitReason,
    /// `None` when it is nobody's.
    pub fault: Option<Fault>,
    /// For people; at most 4096 bytes.
    pub message: String,
}

impl From<Verdict> for ExecExit {
    fn from(verdict: Verdict) -> Self {
        Self {
            exit_code: verdict.code,
            reason: verdict.reason,
            fault: verdict.fault,
            message: verdict.message,
        }
    }
}

impl From<Stop> for Ending {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Notice(_) => Self::Stopped,
            Stop::Now => Self::Killed,
            Stop::OutOfMemory(why) => Self::OutOfMemory(why.to_string()),
        }
    }
}

impl Ending {
    /// 134, 137 and 143 are what a shell shows for SIGABRT, SIGKILL and SIGTERM; 128 is no guest's habit.
    pub fn verdict(self) -> Verdict {
        use ExitReason::{Completed, Error, OutOfMemory};
        let (code, reason, fault, message) = match self {
            Self::Code(0) => (0, Completed, None, String::new()),
            Self::Code(code) => (code, Error, Some(Fault::Guest), String::new()),
            Self::Trap(message) => (134, Error, Some(Fault::Guest), message),
            Self::OutOfMemory(message) => (137, OutOfMemory, Some(Fault::Guest), message),
            Self::Stopped => (143, Error, None, String::new()),
            Self::Killed => (137, Error, None, String::new()),
            Self::Failed(message) => (128, Error, Some(Fault::Wasmlet), message),
        };
        Verdict {
            code,
            reason,
            fault,
            message: truncate(message),
        }
    }

    /// What an error that came out of a guest's call stands for.
    pub fn from_error(error: &wasmtime::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<ProcessExit>() {
            return Self::Code(exit.0);
        }
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::Code(exit.0.cast_unsigned());
        }
        let message = describe(error);
        // Wasmtime asks for memory for the objects that it manages, and keeps why it got none to itself.
        let is_memory = error.downcast_ref::<OutOfMemory>().is_some()
            || error.downcast_ref::<GcHeapOutOfMemory<()>>().is_some();
        if is_memory {
            return Self::OutOfMemory(message);
        }
        // A trap, and a host function's own error (a bad handle, a bad pointer, a path that is too long) are the
        // guest's fault; what the machine ran out of, or cannot do, is not.
        let is_host = error.downcast_ref::<Trap>().is_none() && is_hosts(error);
        if is_host {
            Self::Failed(message)
        } else {
            Self::Trap(message)
        }
    }
}

/// What says of the machine, not of the guest, that it cannot go on.
const MACHINES: [Errno; 11] = [
    Errno::IO,
    Errno::NOMEM,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOBUFS,
    Errno::STALE,
    Errno::NODEV,
    Errno::NXIO,
    Errno::NOSYS,
];

/// Whether the machine or the engine is behind the error. One of the system that has no number is made by the engine.
fn is_hosts(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        let number = (cause.downcast_ref::<Errno>().copied().map(Some)).or_else(|| {
            let error = cause.downcast_ref::<std::io::Error>()?;
            Some(Errno::from_io_error(error))
        });
        number.is_some_and(|it| it.is_none_or(|it| MACHINES.contains(&it)))
            || cause.is::<PoolConcurrencyLimitError>()
    })
}

/// The cause, and below it where in the guest it happened.
fn describe(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // The first line only says that a backtrace follows.
        for line in backtrace.to_string().lines().skip(1) {
            text.push('\n');
            text.push_str(line);
        }
    }
    text
}

fn truncate(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES)
            .rev()
            .find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or(0));
    }
    message
}

/// `proc_exit` with the code as given; wasmtime's own refuses codes from 126 up.
#[derive(Debug)]
pub struct ProcessExit(pub u32);

impl fmt::Display for ProcessExit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "exit code {}", self.0)
    }
}

impl std::error::Error for ProcessExit {}

/// There is no more linear memory for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfMemory {
    /// It asked for more than it may have.
    Container {
        /// What it would have had then.
        wanted: u64,
        /// What it may have.
        limit: u64,
    },
    /// All guests of the engine together have more than they may have, and it is the most above its request.
    Engine {
        /// What it has.
        used: u64,
        /// What it was promised.
        request: u64,
        /// What all may have.
        budget: u64,
    },
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { wanted, limit } => write!(
                formatter,
                "out of memory: it asked for {wanted} bytes, its limit is {limit}"
            ),
            Self::Engine {
                used,
                request,
                budget,
            } => write!(
                formatter,
                "out of memory: the containers of the engine have more than its budget of {budget} bytes, and this \
                 one is the most above its request: {used} bytes, {request} requested"
            ),
        }
    }
}

impl std::error::Error for OutOfMemory {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_verdict() {
        let table = [
            (Ending::Code(0), 0, ExitReason::Completed, None),
            (
                Ending::Code(300),
                300,
                ExitReason::Error,
                Some(Fault::Guest),
            ),
            (
                Ending::Trap("t".into()),
                134,
                ExitReason::Error,
                Some(Fault::Guest),
            ),
            (
                Ending::OutOfMemory("m".into()),
                137,
                ExitReason::OutOfMemory,
                Some(Fault::Guest),
            ),
            (Ending::Stopped, 143, ExitReason::Error, None),
            (Ending::Killed, 137, ExitReason::Error, None),
            (
                Ending::Failed("f".into()),
                128,
                ExitReason::Error,
                Some(Fault::Wasmlet),
            ),
        ];
        for (ending, code, reason, fault) in table {
            let verdict = ending.clone().verdict();
            assert_eq!(
                (verdict.code, verdict.reason, verdict.fault),
                (code, reason, fault),
                "{ending:?}"
            );
        }
    }

    #[test]
    fn messages_are_cut_at_a_character() {
        let verdict = Ending::Trap("ä".repeat(4000)).verdict();
        assert_eq!(verdict.message.len(), MESSAGE_BYTES);
        assert_eq!(
            Ending::Trap(format!("a{}", "ä".repeat(4000)))
                .verdict()
                .message
                .len(),
            MESSAGE_BYTES - 1
        );
    }

    #[test]
    fn the_hosts_errors_are_not_the_guests() {
        for errno in [Errno::IO, Errno::NOMEM, Errno::NOSPC, Errno::MFILE] {
            let io = wasmtime::Error::from(std::io::Error::from(errno)).context("a call");
            assert!(matches!(Ending::from_error(&io), Ending::Failed(_)));
            let bare = wasmtime::Error::from(errno).context("memory");
            assert!(matches!(Ending::from_error(&bare), Ending::Failed(_)));
        }
        for errno in [Errno::INVAL, Errno::NAMETOOLONG, Errno::PIPE, Errno::FBIG] {
            let io = wasmtime::Error::from(std::io::Error::from(errno));
            assert!(matches!(Ending::from_error(&io), Ending::Trap(_)));
        }
        let own = wasmtime::Error::from(std::io::Error::other("the log's end"));
        assert!(matches!(Ending::from_error(&own), Ending::Failed(_)));
        let handle = wasmtime::Error::msg("unknown handle index 7");
        assert!(matches!(Ending::from_error(&handle), Ending::Trap(_)));
        let trap = wasmtime::Error::from(Trap::MemoryOutOfBounds);
        assert!(matches!(Ending::from_error(&trap), Ending::Trap(_)));
    }
}
