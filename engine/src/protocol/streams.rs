//! Clients at the streams of a running container: exec and attach.

use crate::protocol::{Artifact, ExitReason, Fault};
use serde::{Deserialize, Serialize};

/// A further instance in a running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// argv, with `argv[0]`.
    pub args: Vec<String>,
    /// What to run; `None` is what the container runs itself.
    #[serde(default)]
    pub artifact: Option<Artifact>,
    /// False: the guest reads end of file.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal is between the guest and the client.
    #[serde(default)]
    pub tty: bool,
}

/// A client at a running container's own streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Whether it will write to stdin.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it hears stdout.
    #[serde(default = "yes")]
    pub stdout: bool,
    /// Whether it hears stderr.
    #[serde(default = "yes")]
    pub stderr: bool,
}

fn yes() -> bool {
    true
}

/// How an exec, or the container of an attached client, ended: the last frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecExit {
    /// The guest's own code exactly, or 128, 134, 137.
    pub exit_code: u32,
    /// One word.
    pub reason: ExitReason,
    /// `None` when it is nobody's fault.
    pub fault: Option<Fault>,
    /// For people, and written to stderr before; at most 4096 bytes.
    #[serde(default)]
    pub message: String,
}

/// A client's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// In columns.
    pub width: u16,
    /// In lines.
    pub height: u16,
}
