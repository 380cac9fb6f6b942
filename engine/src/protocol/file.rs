//! What the helper processes tell of a Wasm file.

use crate::protocol::Kind;
use serde::{Deserialize, Serialize};

/// What the compile helper prints when it has written an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compiled {
    /// What kind of guest it is.
    pub kind: Kind,
    /// How it is packed.
    pub format: Format,
    /// Which WASI it was built for.
    pub wasi: Wasi,
    /// SHA-256 of the input in hexadecimal.
    pub input_sha256: String,
    /// SHA-256 of the artifact in hexadecimal.
    pub sha256: String,
    /// The artifact's size.
    pub bytes: u64,
    /// The engines that can map it.
    pub compatibility: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// What `wasmlet-engine inspect` prints of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspected {
    /// As what it would run; `None` when it would not.
    pub kind: Option<Kind>,
    /// How it is packed.
    pub format: Format,
    /// Which WASI it was built for.
    pub wasi: Wasi,
    /// The newest release of the WASI interfaces that it names; empty where they have none.
    pub wasi_version: String,
    /// Whether this version runs it for trial only: its WASI's implementation is not finished.
    #[serde(default)]
    pub experimental: bool,
    /// The file's size.
    pub bytes: u64,
    /// What has to be linked, `module.name` of a module's.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
    /// Those of its exports that can be called as programs ([`Artifact::function`]).
    #[serde(default)]
    pub functions: Vec<String>,
    /// The imports that this engine has not.
    pub missing: Vec<String>,
    /// Why it would not run; empty when it would.
    pub problem: String,
}

/// How the guest is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A core module.
    Module,
    /// A component.
    Component,
}

/// Which WASI the guest was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wasi {
    /// It imports nothing.
    None,
    /// `wasi_unstable`.
    P0,
    /// `wasi_snapshot_preview1`.
    P1,
    /// `wasi:cli` 0.2.
    P2,
    /// `wasi:cli` 0.3, alone or beside 0.2; experimental.
    P3,
}
