//! The network namespace that the engine lives in: its guests' sockets are there, its own socket is a file.

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Joins the namespace that `path` names. Threads that are there already stay where they are.
pub fn join(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let joined = rustix::fs::open(path, flags, Mode::empty()).and_then(|namespace| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
    });
    joined.with_context(|| format!("cannot join the network namespace {}", path.display()))
}
