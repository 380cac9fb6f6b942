//! Why something was refused.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// One word for programs.
    pub reason: ErrorReason,
    /// For people: what, on what, what to do next.
    pub message: String,
}

impl Error {
    /// A refusal with this reason.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A refusal of what is not as the schema says.
pub fn bad_request(message: impl Into<String>) -> Error {
    Error::new(ErrorReason::BadRequest, message)
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Error {}

/// One word for programs: why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorReason {
    /// The request is not what the schema says.
    BadRequest,
    /// No such sandbox or path.
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// Over a budget, or shutting down.
    Busy,
    /// ELF, text, empty.
    NotWasm,
    /// Truncated or invalid Wasm.
    Malformed,
    /// Nothing in it can be run.
    NoEntryPoint,
    /// It imports what this engine does not provide.
    MissingImport,
    /// The helper reached its memory cap.
    CompileMemory,
    /// The helper reached its bound of CPU time.
    CompileTime,
    /// The artifact is absent, changed or of another engine.
    Artifact,
    /// A mount's host directory cannot be opened.
    Mount,
    /// The log or exit file cannot be written.
    Log,
    /// A port cannot be listened on.
    Address,
    /// The instance could not be made.
    Start,
    /// A client's Ctrl-C.
    Interrupted,
    /// A client does not read.
    TooSlow,
    /// A defect of the engine.
    Internal,
}
