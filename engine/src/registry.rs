//! Every sandbox of the engine: which there are, which may come, which have gone.

use crate::life;
use crate::parts::Parts;
use crate::protocol::{self, Error, ErrorReason, SandboxSpec, State};
use crate::sandbox::{Sandbox, Stop};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Execs and attached clients at once.
const CLIENTS: usize = 256;

/// The grace of those that serve when a signal ends the engine, within the 2 seconds that it has.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// The sandboxes by id.
pub struct Registry {
    /// What they share.
    pub parts: Arc<Parts>,
    known: Mutex<Known>,
    /// Rights to a connection for an exec, or to one that is attached.
    clients: Arc<Semaphore>,
    /// Wakes who waits for the last sandbox to end.
    quiet: Notify,
}

#[derive(Default)]
struct Known {
    sandboxes: BTreeMap<String, Arc<Sandbox>>,
    running: usize,
    closing: bool,
}

/// What a put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// This request started it.
    Created,
    /// It was there, with this body.
    Present,
}

impl Registry {
    /// No sandboxes yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts: Arc::new(parts),
            known: Mutex::default(),
            clients: Arc::new(Semaphore::new(CLIENTS)),
            quiet: Notify::new(),
        })
    }

    /// Creates and starts a sandbox, or finds the same one; waits until its start has settled.
    pub async fn put(
        self: &Arc<Self>,
        id: &str,
        spec: SandboxSpec,
    ) -> Result<(Put, Arc<Sandbox>), Error> {
        let (put, sandbox) = self.insert(id, spec)?;
        sandbox.settled().await?;
        Ok((put, sandbox))
    }

    fn insert(self: &Arc<Self>, id: &str, spec: SandboxSpec) -> Result<(Put, Arc<Sandbox>), Error> {
        let mut known = lock(&self.known);
        if let Some(sandbox) = known.sandboxes.get(id) {
            if sandbox.is_of(&spec) {
                return Ok((Put::Present, Arc::clone(sandbox)));
            }
            return Err(Error::new(
                ErrorReason::Conflict,
                format!("sandbox {id} exists with another spec"),
            ));
        }
        if known.closing {
            return Err(Error::new(
                ErrorReason::Busy,
                "the engine is shutting down; use another one",
            ));
        }
        self.parts
            .budgets
            .admit(spec.mounts.len() + spec.http.as_ref().map_or(0, protocol::Http::descriptors))
            .map_err(|text| Error::new(ErrorReason::Busy, text))?;
        let sandbox = Arc::new(Sandbox::new(id.to_owned(), &spec));
        known.sandboxes.insert(id.to_owned(), Arc::clone(&sandbox));
        known.running += 1;
        // The sandbox's own task: a client that goes away in the middle changes nothing.
        tokio::spawn(Arc::clone(self).live(Arc::clone(&sandbox), spec));
        Ok((Put::Created, sandbox))
    }

    /// A right to one of the connections for execs and attached clients.
    pub fn client(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.clients).try_acquire_owned().map_err(|_| {
            let text =
                format!("{CLIENTS} execs and attached clients are in this engine; end one of them");
            Error::new(ErrorReason::Busy, text)
        })
    }

    /// One sandbox.
    pub fn get(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let known = lock(&self.known);
        known.sandboxes.get(id).cloned().ok_or_else(|| {
            Error::new(
                ErrorReason::NotFound,
                format!("no sandbox {id} in this engine"),
            )
        })
    }

    /// All sandboxes, sorted by id.
    pub fn list(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.known).sandboxes.values().cloned().collect()
    }

    /// How many are known, and how many of them have not ended.
    pub fn counts(&self) -> (usize, usize) {
        let known = lock(&self.known);
        (known.sandboxes.len(), known.running)
    }

    /// Forgets an ended sandbox; an unknown one is forgotten already.
    pub fn delete(&self, id: &str) -> Result<(), Error> {
        let mut known = lock(&self.known);
        if known
            .sandboxes
            .get(id)
            .is_some_and(|it| it.state() != State::Exited)
        {
            return Err(Error::new(
                ErrorReason::Conflict,
                format!("sandbox {id} is running; stop it first"),
            ));
        }
        known.sandboxes.remove(id);
        Ok(())
    }

    /// Takes no new sandboxes, if none is running.
    pub fn close_if_quiet(&self) -> Result<(), Error> {
        let mut known = lock(&self.known);
        if known.running > 0 {
            let text = format!("{} sandboxes are running; stop them first", known.running);
            return Err(Error::new(ErrorReason::Conflict, text));
        }
        known.closing = true;
        Ok(())
    }

    /// Takes no new sandboxes, ends all, and waits until their exits are written, at most `patience`.
    pub async fn close(&self, patience: Duration) {
        let all: Vec<_> = {
            let mut known = lock(&self.known);
            known.closing = true;
            known.sandboxes.values().cloned().collect()
        };
        for sandbox in all {
            sandbox.stop(Stop::notice(Some(LAST_GRACE)));
        }
        let quiet = async {
            loop {
                let quiet = self.quiet.notified();
                if lock(&self.known).running == 0 {
                    return;
                }
                quiet.await;
            }
        };
        if tokio::time::timeout(patience, quiet).await.is_err() {
            tracing::error!(
                running = self.counts().1,
                "shutdown failed to wait for all sandboxes"
            );
        }
    }

    /// A sandbox's whole life.
    async fn live(self: Arc<Self>, sandbox: Arc<Sandbox>, spec: SandboxSpec) {
        if let Err(refusal) = life::live(&self.parts, &sandbox, spec).await {
            tracing::warn!(sandbox = sandbox.id, pod = sandbox.pod(), %refusal, "sandbox failed to start");
            lock(&self.known).sandboxes.remove(&sandbox.id);
            sandbox.set_refused(refusal);
        }
        lock(&self.known).running -= 1;
        self.quiet.notify_waiters();
    }
}
