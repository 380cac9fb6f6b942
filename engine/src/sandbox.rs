//! One sandbox: its facts, and the table of its life.
//!
//! ```text
//! Starting --Started--> Running --Ended--> Exited
//! ```
//! A sandbox whose start is refused was never one: it leaves the registry from Starting, and nothing of it remains.

use crate::exec::Execs;
use crate::exit::OutOfMemory;
use crate::meter::Account;
use crate::protocol::{self, Error, ErrorReason, Exit, SandboxSpec, State};
use crate::stdin::{Hold, Stdin, Unavailable};
use crate::sync::lock;
use crate::time::Timestamp;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The guest's first instruction is about to run.
    Started,
    /// The guest is over, and its exit is on disk.
    Exited,
}

/// Everything that may happen, and what it leads to.
const TABLE: [(State, Moment, State); 2] = [
    (State::Starting, Moment::Started, State::Running),
    (State::Running, Moment::Exited, State::Exited),
];

/// Something happened that the table does not have; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal {
    state: State,
    moment: Moment,
}

impl fmt::Display for Illegal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:?} cannot happen to a sandbox that is {:?}",
            self.moment, self.state
        )
    }
}

fn next(state: State, moment: Moment) -> Result<State, Illegal> {
    TABLE
        .iter()
        .find(|(from, what, _)| (*from, *what) == (state, moment))
        .map(|&(_, _, to)| to)
        .ok_or(Illegal { state, moment })
}

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A notice; a guest that cannot hear it ends at once, one that serves at this moment at the latest.
    Notice(Instant),
    /// No more grace.
    Now,
    /// No more grace: the engine has no memory for it.
    OutOfMemory(OutOfMemory),
}

impl Stop {
    /// A notice with so much grace; `None` is more than there is time.
    pub fn notice(grace: Option<Duration>) -> Self {
        let grace = grace.unwrap_or(LONGEST_GRACE).min(LONGEST_GRACE);
        Self::Notice(Instant::now() + grace)
    }

    /// Both requests in one: a later one can only make it harder.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Notice(one), Self::Notice(other)) => Self::Notice(one.min(other)),
            (Self::Notice(_), hard) | (hard, _) => hard,
        }
    }
}

/// Nobody waits longer, and clocks can count it.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A sandbox that the engine knows.
pub struct Sandbox {
    /// Chosen by the agent.
    pub id: String,
    /// Whether the first end of a client's stdin is the guest's.
    pub stdin_once: bool,
    /// The guest's stdin, when it has one.
    pub stdin: Option<Arc<Stdin>>,
    /// Further instances in it.
    pub execs: Arc<Execs>,
    names: Names,
    /// SHA-256 of the spec: tells a repeated request from another one without keeping the spec.
    fingerprint: [u8; 32],
    facts: Mutex<Facts>,
    /// Wakes who waits for the start's outcome.
    settled: Notify,
    /// Wakes the guest's task.
    stopped: Notify,
}

struct Names {
    pod_uid: String,
    pod_namespace: String,
    pod_name: String,
    container: String,
    attempt: u32,
}

/// What has happened; the state is derived from it.
#[derive(Default)]
struct Facts {
    started_at: Option<Timestamp>,
    refusal: Option<Error>,
    exit: Option<Arc<Exit>>,
    stop: Option<Stop>,
    meters: Option<Meters>,
    /// It was given up before it started, and cannot any more.
    given_up: bool,
}

/// What counts a sandbox's use.
#[derive(Clone)]
pub struct Meters {
    /// Its CPU time.
    pub cpu: Arc<Account>,
    /// Its requests, if it serves any.
    pub requests: Arc<Requests>,
}

/// Counted requests of an http guest.
#[derive(Default)]
pub struct Requests {
    /// All that it was given.
    pub given: AtomicU64,
    /// Those that came to nothing.
    pub failed: AtomicU64,
}

impl Meters {
    fn read(&self) -> protocol::Usage {
        protocol::Usage {
            cpu_nanoseconds: self.cpu.nanoseconds(),
            requests: self.requests.given.load(Ordering::Relaxed),
            failures: self.requests.failed.load(Ordering::Relaxed),
        }
    }
}

impl Facts {
    fn state(&self) -> State {
        match (&self.started_at, &self.exit) {
            (None, _) => State::Starting,
            (Some(_), None) => State::Running,
            (Some(_), Some(_)) => State::Exited,
        }
    }
}

impl Sandbox {
    /// A sandbox in the state Starting.
    pub fn new(id: String, spec: &SandboxSpec) -> Self {
        Self {
            id,
            stdin_once: spec.stdin_once,
            stdin: spec.stdin.then(|| Arc::new(Stdin::new(spec.tty))),
            execs: Arc::default(),
            names: Names {
                pod_uid: spec.pod_uid.clone(),
                pod_namespace: spec.pod_namespace.clone(),
                pod_name: spec.pod_name.clone(),
                container: spec.container.clone(),
                attempt: spec.attempt,
            },
            fingerprint: fingerprint(spec),
            facts: Mutex::default(),
            settled: Notify::new(),
            stopped: Notify::new(),
        }
    }

    /// Makes the caller the one client of the guest's stdin; with `once` its end is the guest's end of file.
    pub fn hold_stdin(&self, once: bool) -> Result<Hold, Error> {
        let conflict = |text: &str| {
            let text = format!("sandbox {} {text}", self.id);
            Error::new(ErrorReason::Conflict, text)
        };
        let stdin = (self.stdin.as_ref()).ok_or_else(|| conflict("was made without stdin"))?;
        stdin.hold(once).map_err(|error| {
            conflict(match error {
                Unavailable::Closed => "has ended, or its stdin has",
                Unavailable::Held => "has another client on its stdin",
            })
        })
    }

    /// Whether it was made from this spec.
    pub fn is_of(&self, spec: &SandboxSpec) -> bool {
        self.fingerprint == fingerprint(spec)
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        lock(&self.facts).state()
    }

    /// `namespace/name` of its pod, for logs.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.names.pod_namespace, self.names.pod_name)
    }

    /// The container's name, for logs.
    pub fn container(&self) -> &str {
        &self.names.container
    }

    /// Records that the guest begins now.
    pub fn set_started(&self, at: Timestamp) -> Result<(), Illegal> {
        let mut facts = lock(&self.facts);
        let state = facts.state();
        if facts.given_up {
            let moment = Moment::Started;
            return Err(Illegal { state, moment });
        }
        next(state, Moment::Started)?;
        facts.started_at = Some(at);
        drop(facts);
        self.settled.notify_waiters();
        Ok(())
    }

    /// Makes a later start impossible; false when it has started already.
    pub fn give_up(&self) -> bool {
        let mut facts = lock(&self.facts);
        facts.given_up = facts.started_at.is_none();
        facts.given_up
    }

    /// Records how the guest ended.
    pub fn set_exited(&self, exit: Arc<Exit>) -> Result<(), Illegal> {
        let mut facts = lock(&self.facts);
        next(facts.state(), Moment::Exited)?;
        facts.exit = Some(exit);
        Ok(())
    }

    /// Records that it was never started.
    pub fn set_refused(&self, refusal: Error) {
        lock(&self.facts).refusal = Some(refusal);
        self.settled.notify_waiters();
    }

    /// When the guest began.
    pub fn started_at(&self) -> Option<Timestamp> {
        lock(&self.facts).started_at
    }

    /// Waits until the start has succeeded or was refused.
    pub async fn settled(&self) -> Result<(), Error> {
        loop {
            let settled = self.settled.notified();
            {
                let facts = lock(&self.facts);
                if let Some(refusal) = &facts.refusal {
                    return Err(refusal.clone());
                }
                if facts.started_at.is_some() {
                    return Ok(());
                }
            }
            settled.await;
        }
    }

    /// Asks it to end; a later request can only make it harder.
    pub fn stop(&self, stop: Stop) {
        let mut facts = lock(&self.facts);
        facts.stop = Some(facts.stop.map_or(stop, |earlier| earlier.and(stop)));
        drop(facts);
        self.stopped.notify_waiters();
    }

    /// Waits until it is asked to end.
    pub async fn stopped(&self) -> Stop {
        loop {
            let stopped = self.stopped.notified();
            if let Some(stop) = lock(&self.facts).stop {
                return stop;
            }
            stopped.await;
        }
    }

    /// Waits until its grace is over, and tells by what.
    pub async fn out_of_grace(&self) -> Stop {
        loop {
            let stopped = self.stopped.notified();
            let until = match lock(&self.facts).stop {
                Some(stop @ (Stop::Now | Stop::OutOfMemory(_))) => return stop,
                Some(Stop::Notice(until)) => Some(until),
                None => None,
            };
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return Stop::Now,
                () = stopped => {}
            }
        }
    }

    /// Gives it the account of what it uses.
    pub fn set_meters(&self, meters: Meters) {
        lock(&self.facts).meters = Some(meters);
    }

    /// It as clients see it now.
    pub fn document(&self) -> protocol::Sandbox {
        let facts = lock(&self.facts);
        protocol::Sandbox {
            usage: facts.meters.as_ref().map(Meters::read),
            ..self.render(&facts, facts.state())
        }
    }

    /// It as clients saw it when `moment` had just happened.
    pub fn document_at(&self, moment: Moment) -> protocol::Sandbox {
        let facts = lock(&self.facts);
        let state = match moment {
            Moment::Started => State::Running,
            Moment::Exited => State::Exited,
        };
        self.render(&facts, state)
    }

    fn render(&self, facts: &Facts, state: State) -> protocol::Sandbox {
        let exit = facts.exit.as_deref().filter(|_| state == State::Exited);
        protocol::Sandbox {
            id: self.id.clone(),
            state,
            pod_uid: self.names.pod_uid.clone(),
            pod_namespace: self.names.pod_namespace.clone(),
            pod_name: self.names.pod_name.clone(),
            container: self.names.container.clone(),
            attempt: self.names.attempt,
            started_at: facts.started_at,
            exit: exit.cloned(),
            usage: None,
        }
    }
}

fn fingerprint(spec: &SandboxSpec) -> [u8; 32] {
    // Two specs with the same document are the same; a document that cannot be made (which no parsed spec has)
    // would only make all such specs equal.
    Sha256::digest(serde_json::to_vec(spec).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_happens() {
        for state in [State::Starting, State::Running, State::Exited] {
            for moment in [Moment::Started, Moment::Exited] {
                let expected = match (state, moment) {
                    (State::Starting, Moment::Started) => Ok(State::Running),
                    (State::Running, Moment::Exited) => Ok(State::Exited),
                    _ => Err(Illegal { state, moment }),
                };
                assert_eq!(next(state, moment), expected);
            }
        }
    }
}
