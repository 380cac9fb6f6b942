//! Guests that serve HTTP: their listeners and connections, an instance for each request, their end.
//!
//! - `listen`: sockets; `connection`: one client's; `request`: from a request to its answer; `body`: what goes each way
//! - `exchange`: one request and what comes of it; `failure`: why nothing did; `health`: whether the guest is worth going on
//! - `instances`: those at work, those kept for another request, and who waits for one; `instance`: one of them
//! - of those that serve several requests at once `workers` are all, `worker` is one from outside, `service` from inside
//! - `application`: several guests of one server; `route`: which paths are whose

mod application;
mod body;
mod connection;
mod exchange;
mod failure;
mod health;
mod instance;
mod instances;
mod listen;
mod request;
mod route;
mod service;
mod worker;
mod workers;

pub use application::Component;
pub use listen::Connections;
pub use route::check;

use crate::exit::Ending;
use crate::guest::World;
use crate::life::UNWIND;
use crate::log::Log;
use crate::meter::{Account, Owned, Threads};
use crate::program::Handler;
use crate::protocol::{self, Error};
use crate::sandbox::{Requests, Sandbox, Stop};
use application::Application;
use health::Health;
use instances::Instances;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use workers::Workers;

/// How long connections may take to send what is left when the last answer is made.
const FLUSH: Duration = Duration::from_millis(500);

/// Where a server is in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everything is taken.
    Serving,
    /// Everything is taken still, but each connection is told that it is the last request.
    LameDuck,
    /// Nothing new is taken.
    Draining,
    /// What is left is dropped.
    Over,
}

/// What a server is made of.
#[derive(Clone)]
pub struct Parts {
    /// The guest.
    pub program: Handler,
    /// What its instances see.
    pub world: Arc<World>,
    /// Where and how it serves.
    pub settings: protocol::Http,
    /// Where its output goes.
    pub log: Arc<Log>,
    /// What it computes.
    pub account: Arc<Account>,
    /// What it is asked.
    pub requests: Arc<Requests>,
    /// Where it computes.
    pub threads: Threads,
    /// Bounds the connections of the whole engine.
    pub connections: Connections,
}

/// One container's server.
pub struct Server {
    parts: Parts,
    instances: Instances,
    workers: Workers,
    health: Arc<Health>,
    phase: watch::Sender<Phase>,
    /// Connections that it has.
    connections: AtomicUsize,
    /// Requests whose answers are not over.
    open: AtomicUsize,
    most_open: usize,
    /// Wakes who waits for the last of them.
    closed: Notify,
    /// `None`: every request is for this guest.
    application: Option<Application>,
}

impl Server {
    /// Makes an instance for trial, or one of each component, and listens. The server takes connections from
    /// [`Server::serve`] on.
    pub async fn start(
        parts: Parts,
        components: Vec<Component>,
    ) -> Result<(Arc<Self>, Vec<TcpListener>), Error> {
        let server = if components.is_empty() {
            let instance_bytes = instance::trial(&parts).await?;
            Self::new(parts, instance_bytes)
        } else {
            application::start(&parts, components).await?
        };
        let listeners = listen::bind(&server.parts)?;
        Ok((Arc::new(server), listeners))
    }

    fn new(parts: Parts, instance_bytes: u64) -> Self {
        let instances = Instances::new(&parts.settings, parts.world.memory_limit(), instance_bytes);
        let workers = Workers::new(parts.settings.reuse, parts.settings.max_queued);
        let most_open = instances.most().saturating_add(parts.settings.max_queued);
        Self {
            parts,
            instances,
            workers,
            health: Arc::default(),
            phase: watch::Sender::new(Phase::Serving),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: most_open as usize,
            closed: Notify::new(),
            application: None,
        }
    }

    /// Serves until the sandbox is stopped or the guest is not worth it.
    pub async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>, sandbox: &Sandbox) -> Ending {
        let accepting: Vec<Owned<()>> = listeners
            .into_iter()
            .map(|listener| {
                let accepting = Arc::clone(&self).accept(listener);
                Owned::new(self.parts.threads.fast.spawn(accepting))
            })
            .collect();
        let ending = tokio::select! {
            biased;
            ending = self.health.given_up() => ending,
            stop = sandbox.stopped() => self.end(stop, sandbox).await,
        };
        self.phase.send_replace(Phase::Draining);
        if !matches!(ending, Ending::Killed | Ending::OutOfMemory(_)) {
            // The last answers are on their way.
            let _ = tokio::time::timeout(FLUSH, self.phase.closed()).await;
        }
        self.phase.send_replace(Phase::Over);
        let gone = async {
            // The ports are free for the next attempt.
            futures::future::join_all(accepting).await;
            self.all_back().await;
        };
        let _ = tokio::time::timeout(UNWIND, gone).await;
        ending
    }

    /// Lame duck, then what is in flight; as long as the grace lasts.
    async fn end(&self, stop: Stop, sandbox: &Sandbox) -> Ending {
        let gentle = async {
            if let Stop::Notice(until) = stop {
                let grace = until.saturating_duration_since(Instant::now());
                let lame_duck = seconds(self.parts.settings.lame_duck_seconds).min(grace / 2);
                self.phase.send_replace(Phase::LameDuck);
                tokio::time::sleep(lame_duck).await;
            }
            self.phase.send_replace(Phase::Draining);
            self.all_back().await;
            self.all_closed().await;
        };
        tokio::select! {
            biased;
            stop = sandbox.out_of_grace() => return stop.into(),
            () = gentle => {}
        }
        Ending::Code(0)
    }

    /// Waits until no guest is at work.
    async fn all_back(&self) {
        self.instances.all_back().await;
        for other in self.others() {
            other.instances.all_back().await;
        }
    }

    /// Waits until every answer is over.
    async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            if self.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            closed.await;
        }
    }

    /// How long a guest may take for a part of its answer.
    fn limit(&self) -> Duration {
        seconds(self.parts.settings.request_timeout_seconds)
    }
}

/// A duration that the spec's check has seen.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
