//! The boundary's documents, exactly as `protocol/engine.openapi.yaml` has them.
//!
//! Nothing here decides; unknown fields are ignored, absent optional fields take the schema's default.
//!
//! - `engine`: who an engine is; `file`: what its helper processes tell; `error`: refusals
//! - `spec`: what a container is to be, and `http`, how it serves; `sandbox`: what becomes of it; `streams`: who comes in

mod engine;
mod error;
mod file;
mod http;
mod sandbox;
mod spec;
mod streams;

pub use engine::{Budget, Confinement, Engine, Version};
pub use error::{Error, ErrorReason, bad_request};
pub use file::{Compiled, Format, Inspected, Wasi};
pub use http::{Component, Http};
pub use sandbox::{
    Event, EventType, Exit, ExitReason, Fault, Sandbox, SandboxList, State, Stop, Usage,
};
pub use spec::{Artifact, EnvVar, Kind, Log, Mount, Network, SandboxSpec};
pub use streams::{AttachSpec, ExecExit, ExecSpec, TerminalSize};

/// The number of the protocol that this engine speaks.
pub const PROTOCOL: u32 = 1;
