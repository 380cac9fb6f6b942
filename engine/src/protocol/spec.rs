//! What a container is to be.

use crate::protocol::Http;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

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

fn root() -> String {
    "/".to_owned()
}

/// The kubelet's `containerLogMaxSize`.
fn ten_mebibytes() -> u64 {
    10 * 1024 * 1024
}

/// The kubelet's `containerLogMaxFiles`.
fn five() -> usize {
    5
}

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
