//! The boundary's documents, exactly as `protocol/engine.openapi.yaml` has them.
//!
//! Nothing here decides; unknown fields are ignored, absent optional fields take the schema's default.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The number of the protocol that this engine speaks.
pub const PROTOCOL: u32 = 1;

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

/// Everything that is needed to run one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSpec {
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The container's name.
    pub container: String,
    /// The restart count that this start stands for.
    pub attempt: u32,
    /// What to run.
    pub artifact: Artifact,
    /// As what it runs; the compile helper has told.
    #[serde(default)]
    pub kind: Kind,
    /// Where and how an http guest serves; needed by that kind and no other.
    #[serde(default)]
    pub http: Option<Http>,
    /// The guest's way into the network; `None` is none.
    #[serde(default)]
    pub network: Option<Network>,
    /// argv, with `argv[0]`.
    pub args: Vec<String>,
    /// The guest's whole environment.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// An absolute guest path.
    #[serde(default = "root")]
    pub working_dir: String,
    /// The guest's directories.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// False: the guest reads end of file.
    #[serde(default)]
    pub stdin: bool,
    /// The first client's end of file is the guest's.
    #[serde(default)]
    pub stdin_once: bool,
    /// Its streams are a terminal's for those who attach; the log is not changed by it.
    #[serde(default)]
    pub tty: bool,
    /// Where stdout and stderr go.
    pub log: Log,
    /// Where the [`Exit`] is written, by rename, before its event.
    pub exit_file: PathBuf,
    /// Linear memory of all instances; `None` is no limit.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// What it was promised of linear memory: who is most above it ends first when the engine's budget is used up.
    #[serde(default)]
    pub memory_request_bytes: u64,
    /// CPU time of all instances in thousandths of a core; `None` is no limit.
    #[serde(default)]
    pub cpu_quota_millicores: Option<u64>,
}

/// How a guest is in the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The pod's addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// The pod is in the machine's own network: its localhost is the machine's.
    #[serde(default)]
    pub host: bool,
    /// The content of the pod's /etc/hosts.
    #[serde(default)]
    pub hosts: String,
    /// The content of the pod's /etc/resolv.conf.
    #[serde(default)]
    pub resolv_conf: String,
}

/// Where and how an http guest serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// The pod's addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// TCP ports that the engine listens on.
    pub ports: Vec<u16>,
    /// Requests that one instance may serve in all; `None` is 1, and 128 for one of WASI 0.3, which serves up to 16 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<u32>,
    /// Instances at once.
    #[serde(default = "hundred")]
    pub max_instances: u32,
    /// Requests that wait for an instance; more are answered with 503.
    #[serde(default = "thousand")]
    pub max_queued: u32,
    /// Until the answer has begun, and then between two of its parts.
    #[serde(default = "thirty")]
    pub request_timeout_seconds: f64,
    /// How long requests are still taken after a stop, inside its grace.
    #[serde(default = "second")]
    pub lame_duck_seconds: f64,
    /// An application's parts; without any, every request is for the sandbox's own artifact.
    #[serde(default)]
    pub components: Vec<Component>,
}

impl Http {
    /// How many sockets it listens on, and directories it opens beside the sandbox's own.
    pub fn descriptors(&self) -> usize {
        let mounts = self.components.iter().map(|it| it.mounts.len());
        self.addresses.len() * self.ports.len() + mounts.sum::<usize>()
    }
}

/// A part of an application: a guest of kind http, and what of the application's paths is its.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// What the application calls it.
    pub name: String,
    /// Paths whose segments are literal or `:name`; one at the end may be `...`.
    pub routes: Vec<String>,
    /// What answers.
    pub artifact: Artifact,
    /// Its whole environment.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Its directories.
    #[serde(default)]
    pub mounts: Vec<Mount>,
}

fn hundred() -> u32 {
    100
}

fn thousand() -> u32 {
    1_000
}

fn thirty() -> f64 {
    30.0
}

fn second() -> f64 {
    1.0
}

fn root() -> String {
    "/".to_owned()
}

/// What the compile helper wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Absolute host path.
    pub path: PathBuf,
    /// SHA-256 of the file's content in hexadecimal.
    pub sha256: String,
    /// The export that a command is, where it is not the usual one.
    #[serde(default)]
    pub function: Option<String>,
}

/// One variable of the guest's environment.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// The value; shown by nothing when `secret`.
    pub value: String,
    /// The value came from a Secret.
    #[serde(default)]
    pub secret: bool,
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.secret { "(secret)" } else { &self.value };
        write!(formatter, "{}={value:?}", self.name)
    }
}

/// A directory of the host made visible to the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The directory on the host.
    pub host_path: PathBuf,
    /// Where the guest sees it; absolute.
    pub guest_path: String,
    /// The guest may not change anything in it.
    #[serde(default)]
    pub read_only: bool,
}

/// A log file in CRI format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The file that is appended to.
    pub path: PathBuf,
    /// Rotated when it has grown past this.
    #[serde(default = "ten_mebibytes")]
    pub max_bytes: u64,
    /// Files kept in total, with the current one.
    #[serde(default = "five")]
    pub max_files: usize,
    /// Rotated files are the reader's to delete; while there are `max_files` files the guest's writes wait.
    #[serde(default)]
    pub lossless: bool,
}

/// The kubelet's `containerLogMaxSize`.
fn ten_mebibytes() -> u64 {
    10 * 1024 * 1024
}

/// The kubelet's `containerLogMaxFiles`.
fn five() -> usize {
    5
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

/// Every sandbox that the engine knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxList {
    /// Sorted by id.
    pub items: Vec<Sandbox>,
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

/// A request to end a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// Zero interrupts at once.
    pub grace_seconds: f64,
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

/// What kind of guest it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Runs once until it returns.
    #[default]
    Command,
    /// Serves requests.
    Http,
}

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

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let open = EnvVar {
            name: "A".into(),
            value: "shown".into(),
            secret: false,
        };
        let secret = EnvVar {
            name: "B".into(),
            value: "hidden".into(),
            secret: true,
        };
        let text = format!("{:?}", vec![open, secret]);
        assert!(
            text.contains("shown") && text.contains("B=") && !text.contains("hidden"),
            "{text}"
        );
    }
}
