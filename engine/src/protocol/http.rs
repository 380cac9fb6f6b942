//! How a guest serves, and the parts of an application.

use crate::protocol::{Artifact, EnvVar, Mount};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
