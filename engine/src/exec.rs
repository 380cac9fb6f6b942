//! Further instances inside a running container, each with a client on its streams: what `exec` runs.
//!
//! They share the container's mounts, environment, limits and accounts, and end with it or with their client.

use crate::client::{Intake, Leave};
use crate::command::Outcome;
use crate::exit::{Ending, Verdict};
use crate::frame;
use crate::guest::World;
use crate::life::{START, UNWIND};
use crate::meter::{Account, Owned};
use crate::outbox::Outbox;
use crate::program::Program;
use crate::protocol::{Artifact, Error, ErrorReason, ExecExit, ExecSpec, ExitReason, Kind};
use crate::registry::Registry;
use crate::stdin::{Hold, Stdin};
use crate::sync::lock;
use bytes::BytesMut;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

/// In one container at once.
const PER_CONTAINER: usize = 32;

/// What a shell shows for a program that Ctrl-C ended.
const INTERRUPTED: u32 = 130;

/// What a container has that its execs share.
#[derive(Clone)]
pub struct Inside {
    /// What it runs itself.
    pub program: Arc<Program>,
    /// What it sees.
    pub world: Arc<World>,
    /// What it computes.
    pub account: Arc<Account>,
}

/// One container's execs.
#[derive(Default)]
pub struct Execs {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// `None` before the container has started and after it has ended.
    inside: Option<Inside>,
    running: usize,
}

impl Execs {
    /// The container runs.
    pub fn open(&self, inside: Inside) {
        lock(&self.state).inside = Some(inside);
    }

    /// What a running container has.
    pub fn inside(&self) -> Result<Inside, Error> {
        let inside = lock(&self.state).inside.clone();
        inside.ok_or_else(not_running)
    }

    /// One more.
    pub fn enter(self: &Arc<Self>) -> Result<Entered, Error> {
        let mut state = lock(&self.state);
        let inside = state.inside.clone().ok_or_else(not_running)?;
        if state.running >= PER_CONTAINER {
            let text = format!("{PER_CONTAINER} execs run in this container; end one of them");
            return Err(Error::new(ErrorReason::Busy, text));
        }
        state.running += 1;
        Ok(Entered {
            execs: Arc::clone(self),
            inside,
        })
    }

    /// The container has ended, and so have these, unless one's host call does not return.
    pub async fn close(&self, patience: Duration) {
        lock(&self.state).inside = None;
        self.changed.notify_waiters();
        let gone = self.wait_until(|state| state.running == 0);
        let _ = tokio::time::timeout(patience, gone).await;
    }

    async fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(&lock(&self.state)) {
                return;
            }
            changed.await;
        }
    }
}

fn not_running() -> Error {
    Error::new(ErrorReason::Conflict, "the container is not running")
}

/// One exec's place in its container; left when dropped.
pub struct Entered {
    execs: Arc<Execs>,
    /// What it shares.
    pub inside: Inside,
}

impl Entered {
    /// Returns when the container has ended.
    pub async fn container_ended(&self) {
        self.execs.wait_until(|state| state.inside.is_none()).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.execs.state).running -= 1;
        self.execs.changed.notify_waiters();
    }
}

/// A guest that has started, and waits for its client.
pub struct Session {
    /// The guest.
    task: Owned<Outcome>,
    /// Its place.
    entered: Entered,
    /// What it reads.
    stdin: Arc<Stdin>,
    /// What its client writes, if it does.
    hold: Option<Hold>,
    /// Whether a terminal is between them.
    tty: bool,
    /// What it writes.
    outbox: Arc<Outbox>,
    /// Its right to a connection.
    permit: OwnedSemaphorePermit,
}

/// Why an exec is over.
enum End {
    Guest(Ending),
    /// The container has ended.
    Container,
    /// The client has left.
    Client(Leave),
}

impl Session {
    /// Starts a guest in a running container.
    pub async fn start(registry: &Registry, id: &str, spec: ExecSpec) -> Result<Self, Error> {
        let busy = |text: String| Error::new(ErrorReason::Busy, text);
        let entered = registry.get(id)?.execs.enter()?;
        let permit = registry.client()?;
        registry.parts.budgets.admit(1).map_err(busy)?;
        let program = match spec.artifact {
            None => Arc::clone(&entered.inside.program),
            Some(artifact) => load(registry, artifact).await?,
        };
        let stdin = Arc::new(Stdin::new(spec.tty));
        let outbox = Arc::new(Outbox::new(&Arc::default(), spec.tty));
        let hold = spec.stdin.then(|| stdin.hold(true).ok()).flatten();
        if hold.is_none() {
            stdin.end();
        }
        let guest = (entered.inside.world).exec_guest(&spec.args, &stdin, &outbox);
        let (start, started) = oneshot::channel();
        let task = registry
            .parts
            .spawn(&entered.inside.account, program, guest, move || {
                // A client that left meanwhile has dropped the other end.
                let _ = start.send(());
            });
        let session = Self {
            task,
            entered,
            stdin,
            hold,
            tty: spec.tty,
            outbox,
            permit,
        };
        session.started(started).await
    }

    /// It, once its guest's first instruction is about to run.
    async fn started(mut self, started: oneshot::Receiver<()>) -> Result<Self, Error> {
        let why = tokio::select! {
            biased;
            () = self.entered.container_ended() => "the container has ended".to_owned(),
            started = started => match started {
                Ok(()) => return Ok(self),
                Err(_) => return Err(match (&mut self.task).await {
                    Ok(Outcome::Refused(refusal)) => refusal,
                    _ => Error::new(ErrorReason::Internal, "the engine panicked at the exec's start"),
                }),
            },
            () = tokio::time::sleep(START) => {
                format!("its start function did not end within {} s", START.as_secs())
            }
        };
        self.task.abort();
        let _ = tokio::time::timeout(UNWIND, self.task).await;
        let text = format!("cannot make the instance: {why}");
        Err(Error::new(ErrorReason::Start, text))
    }

    /// Connects the guest with its client until the end of either, or of the container.
    pub async fn converse(self, client: UnixStream, early: BytesMut) {
        let Self {
            mut task,
            entered,
            stdin,
            hold,
            tty,
            outbox,
            permit,
        } = self;
        let echo = tty.then_some(|keys: &[u8]| outbox.write(frame::STDOUT, keys));
        let (mut receive, mut send) = client.into_split();
        let mut sending = std::pin::pin!(outbox.send_to(&mut send));
        let mut feeding = std::pin::pin!(Intake::new(hold, echo).feed(&mut receive, early));
        let end = tokio::select! {
            biased;
            outcome = &mut task => End::Guest(ending(outcome)),
            () = entered.container_ended() => End::Container,
            left = &mut feeding => End::Client(left),
            // It has no end yet: the client takes no more.
            _ = &mut sending => End::Client(Leave::Gone),
        };
        if !task.is_finished() {
            task.abort();
            if tokio::time::timeout(UNWIND, task).await.is_err() {
                tracing::warn!("exec'd guest does not yield, abandoned");
            }
        }
        // Nothing of it is left in the container, however slowly its client reads.
        stdin.close();
        drop(entered);
        let has_left = matches!(end, End::Client(_));
        if let Some(verdict) = verdict(end) {
            write_verdict(&outbox, verdict);
            outbox.end();
            if has_left {
                let _ = sending.await;
            } else {
                // What the client still sends is read, so that it never waits for us and can read the end.
                tokio::select! {
                    _ = &mut sending => {}
                    _ = &mut feeding => {}
                }
            }
        } else {
            outbox.end();
        }
        drop(permit);
    }
}

async fn load(registry: &Registry, artifact: Artifact) -> Result<Arc<Program>, Error> {
    let artifacts = Arc::clone(&registry.parts.artifacts);
    let load = move || artifacts.load(&artifact, Kind::Command);
    let loaded = registry.parts.opener.spawn_blocking(load).await;
    loaded.unwrap_or_else(|error| Err(Error::new(ErrorReason::Internal, error.to_string())))
}

fn ending(outcome: Result<Outcome, tokio::task::JoinError>) -> Ending {
    match outcome {
        Ok(Outcome::Ended(ending)) => ending,
        Ok(Outcome::Refused(error)) => Ending::Failed(error.to_string()),
        Err(_) => Ending::Failed("the engine panicked in a host call of this guest".to_owned()),
    }
}

/// `None` when nobody is there to hear it.
fn verdict(end: End) -> Option<Verdict> {
    let killed = |code, message: &str| Verdict {
        code,
        reason: ExitReason::Error,
        fault: None,
        message: message.to_owned(),
    };
    match end {
        End::Guest(ending) => Some(ending.verdict()),
        End::Container => Some(killed(137, "the container has ended")),
        End::Client(Leave::Malformed(what)) => {
            Some(killed(128, &format!("the client is at fault: {what}")))
        }
        End::Client(Leave::Interrupted) => Some(killed(INTERRUPTED, "")),
        End::Client(Leave::Gone) => None,
    }
}

fn write_verdict(outbox: &Outbox, verdict: Verdict) {
    if !verdict.message.is_empty() {
        outbox.show(frame::STDERR, format!("{}\n", verdict.message).as_bytes());
    }
    outbox.write_document(frame::EXIT, &ExecExit::from(verdict));
}
