//! What all sandboxes of the engine share.

use crate::artifact::Artifacts;
use crate::budget::Budgets;
use crate::command::Outcome;
use crate::disk::Disk;
use crate::events::Events;
use crate::guest::Guest;
use crate::http::Connections;
use crate::meter::{Account, Owned, Threads};
use crate::program::Program;
use crate::protocol::{Error, ErrorReason};
use crate::traffic::Shared;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What all sandboxes share.
pub struct Parts {
    /// Writes their files.
    pub disk: Disk,
    /// Their programs.
    pub artifacts: Arc<Artifacts>,
    /// Tells of them.
    pub events: Arc<Events>,
    /// Bounds them.
    pub budgets: Budgets,
    /// The threads that they compute on; what must go on whatever they do has another.
    pub guests: Threads,
    /// Bounds the connections of those that serve.
    pub connections: Connections,
    /// What guests' ways into the network share.
    pub traffic: Arc<Shared>,
    /// Blocks for the engine's own sake, on threads that no guest's file operations can take.
    pub opener: Handle,
    /// This start of the engine.
    pub incarnation: Arc<str>,
}

impl Parts {
    /// Runs a command on threads that only guests compute on, so that whatever they do, its owner's task goes on.
    pub fn spawn(
        &self,
        account: &Arc<Account>,
        program: Arc<Program>,
        guest: Guest,
        started: impl FnOnce() + Send + 'static,
    ) -> Owned<Outcome> {
        let running = async move {
            match &*program {
                Program::Command(command) => command.run(guest, started).await,
                Program::Http(_) => Outcome::Refused(Error::new(
                    ErrorReason::NoEntryPoint,
                    "it serves HTTP and has nothing to run",
                )),
            }
        };
        self.guests.spawn(account, running)
    }
}
