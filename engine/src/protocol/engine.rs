//! An engine as its clients see it.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Who an engine is, and how much of its budgets is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// The engine's release.
    pub version: String,
    /// The protocol's number.
    pub protocol: u32,
    /// Made anew at each start.
    pub incarnation: String,
    /// The process.
    pub pid: u32,
    /// When the process began to serve.
    pub started_at: Timestamp,
    /// Artifacts compiled under another value cannot be mapped.
    pub compatibility: String,
    /// Sandboxes known, running or ended.
    pub sandboxes: usize,
    /// Sandboxes that have not ended.
    pub running: usize,
    /// Open file descriptors.
    pub descriptors: Budget,
    /// Memory maps.
    pub maps: Budget,
    /// Connections of clients to http guests; `None` of an engine that does not tell.
    #[serde(default)]
    pub connections: Option<Budget>,
    /// Bytes of linear memory of all guests; `None` of an engine that does not tell.
    #[serde(default)]
    pub memory: Option<Budget>,
    /// What holds the process; `None` of an engine that knows of no such thing.
    #[serde(default)]
    pub confinement: Option<Confinement>,
}

/// What holds an engine, should a guest break out into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confinement {
    /// The process's user.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// The version of Landlock that holds its files; 0: none does.
    pub landlock: i32,
    /// Whether its system calls are filtered.
    pub seccomp: bool,
    /// What the kernel could not do, in words.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// Something that is limited for the whole engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// How many there are.
    pub used: u64,
    /// What the kernel allows.
    pub limit: u64,
}

/// What `wasmlet-engine version` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// The engine's release.
    pub version: &'static str,
    /// The protocol's number.
    pub protocol: u32,
    /// See [`Engine::compatibility`].
    pub compatibility: String,
}
