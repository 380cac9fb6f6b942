//! What becomes of a container: where it is in its life, how it ended, what is told of it.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One sandbox as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Chosen by the agent.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The container's name.
    pub container: String,
    /// The restart count that it stands for.
    pub attempt: u32,
    /// When the guest's first instruction ran.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What it has used so far; not in events.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// Every sandbox that the engine knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxList {
    /// Sorted by id.
    pub items: Vec<Sandbox>,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its instance is being made.
    Starting,
    /// The guest runs.
    Running,
    /// The guest has ended, and its exit is known.
    Exited,
}

/// What a sandbox has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// CPU time of all its instances.
    pub cpu_nanoseconds: u64,
    /// Requests that an http guest was given.
    pub requests: u64,
    /// Those of them that trapped, took too long or had no answer.
    pub failures: u64,
}

/// A request to end a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// Zero interrupts at once.
    pub grace_seconds: f64,
}

/// How a sandbox ended; also the content of the exit file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The sandbox.
    pub id: String,
    /// The guest's own code exactly, or 128, 134, 137, 143.
    pub exit_code: u32,
    /// One word.
    pub reason: ExitReason,
    /// `None` when it is nobody's fault.
    pub fault: Option<Fault>,
    /// For people; at most 4096 bytes.
    #[serde(default)]
    pub message: String,
    /// When the guest's first instruction ran.
    pub started_at: Timestamp,
    /// When the guest was over.
    pub finished_at: Timestamp,
    /// The engine that ran it.
    pub incarnation: String,
}

/// One word for how a sandbox ended, as Kubernetes spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other end.
    Error,
    /// The memory limit was reached.
    #[serde(rename = "OOMKilled")]
    OutOfMemory,
}

/// Whose fault an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The program's.
    Guest,
    /// This software's, or its host's.
    Wasmlet,
}

/// One line of the events stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The engine's start that `sequence` counts in.
    pub incarnation: String,
    /// Counts from 1; of a gap: the number after which this stream goes on.
    pub sequence: u64,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// To whom; `None` for a gap.
    pub sandbox: Option<Sandbox>,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// The guest's first instruction is about to run.
    Started,
    /// The guest is over, and its exit file is in place.
    Exited,
    /// Events were lost to this client; list the sandboxes.
    Gap,
}
