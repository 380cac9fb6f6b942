//! Connections of one container that wait for their next request.

use crate::meter::Owned;
use crate::sync::lock;
use crate::traffic::Network;
use crate::traffic::connect::Target;
use crate::traffic::room::Place;
use hyper::client::conn::http1::SendRequest;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wasmtime_wasi_http::WasiBody;

/// How long a connection waits for its next request; less than servers do.
const KEPT: Duration = Duration::from_secs(15);

/// How many wait for one target.
const EACH: usize = 16;

/// A connection that one request has for itself. It ends when dropped.
pub struct Connection {
    /// Takes the request.
    pub sender: SendRequest<WasiBody>,
    /// Where it leads.
    pub target: Target,
    /// Moves the bytes.
    pub _task: Owned<()>,
    /// Its right to be.
    pub _place: Place,
}

/// Those that wait.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Newest last.
    connections: Vec<(Instant, Connection)>,
    /// Somebody drops those that wait too long.
    is_swept: bool,
}

impl Pool {
    /// One that leads there, if any waits and is open still.
    pub fn take(&self, target: &Target) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.connections.retain(|(_, it)| !it.sender.is_closed());
        let fits = |(_, it): &(Instant, Connection)| it.target == *target && it.sender.is_ready();
        let position = idle.connections.iter().rposition(fits)?;
        Some(idle.connections.remove(position).1)
    }

    /// Ends the one that has waited longest, to make room.
    pub fn drop_oldest(&self) -> bool {
        let mut idle = lock(&self.idle);
        let is_there = !idle.connections.is_empty();
        let oldest = is_there.then(|| idle.connections.remove(0));
        drop(idle);
        oldest.is_some()
    }

    /// Drops what has waited too long; true when nothing is left.
    fn sweep(&self) -> bool {
        let mut idle = lock(&self.idle);
        idle.connections
            .retain(|(since, it)| since.elapsed() < KEPT && !it.sender.is_closed());
        idle.is_swept = !idle.connections.is_empty();
        !idle.is_swept
    }
}

/// Keeps a connection whose answer is over.
pub fn give_back(network: &Arc<Network>, connection: Connection) {
    let mut idle = lock(&network.pool.idle);
    let same = |(_, it): &&(Instant, Connection)| it.target == connection.target;
    if connection.sender.is_closed() || idle.connections.iter().filter(same).count() >= EACH {
        return;
    }
    idle.connections.push((Instant::now(), connection));
    if !std::mem::replace(&mut idle.is_swept, true) {
        let network_of = Arc::downgrade(network);
        network.shared.threads.spawn(async move {
            loop {
                tokio::time::sleep(KEPT / 3).await;
                match network_of.upgrade() {
                    Some(network) if !network.pool.sweep() => {}
                    _ => return,
                }
            }
        });
    }
}
