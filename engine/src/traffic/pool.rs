//! Connections of one container that wait for their next request, and those of HTTP/2, which requests share.

use crate::meter::Owned;
use crate::sync::lock;
use crate::traffic::Network;
use crate::traffic::connect::Target;
use crate::traffic::room::Place;
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wasmtime_wasi_http::WasiBody;

/// How long a connection waits for its next request; less than servers do.
const KEPT: Duration = Duration::from_secs(15);

/// How many wait for one target.
const EACH: usize = 16;

/// A connection that takes a request. It ends when dropped; one that others share, with the last of them.
pub struct Connection {
    sender: Sender,
    target: Target,
    owner: Arc<Owner>,
}

/// Who takes the request.
pub enum Sender {
    /// HTTP/1.1: one request after the other.
    One(http1::SendRequest<WasiBody>),
    /// HTTP/2: many at once.
    Many(http2::SendRequest<WasiBody>),
}

struct Owner {
    /// Moves the bytes.
    _task: Owned<()>,
    /// Its right to be.
    _place: Place,
}

impl Connection {
    /// One to the target, whose bytes the task moves.
    pub fn new(sender: Sender, target: &Target, task: Owned<()>, place: Place) -> Self {
        Self {
            sender,
            target: target.clone(),
            owner: Arc::new(Owner {
                _task: task,
                _place: place,
            }),
        }
    }

    /// Whether requests share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Many(_))
    }

    /// Sends a request; what was not sent is given back with the error.
    pub async fn send(
        &mut self,
        request: Request<WasiBody>,
    ) -> Result<hyper::Response<Incoming>, TrySendError<Request<WasiBody>>> {
        match &mut self.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Many(sender) => sender.try_send_request(request).await,
        }
    }

    /// The same once more, if it can be shared.
    fn another(&self) -> Option<Self> {
        let Sender::Many(sender) = &self.sender else {
            return None;
        };
        Some(Self {
            sender: Sender::Many(sender.clone()),
            target: self.target.clone(),
            owner: Arc::clone(&self.owner),
        })
    }

    fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_ready(),
            Sender::Many(sender) => sender.is_ready(),
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Many(sender) => sender.is_closed(),
        }
    }

    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.owner) > 1
    }
}

/// Those that wait, or are shared.
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
    /// One that leads there, if any waits or is shared and is open still.
    pub fn take(&self, target: &Target) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.connections.retain(|(_, it)| !it.is_closed());
        let fits = |(_, it): &(Instant, Connection)| it.target == *target && it.is_ready();
        let position = idle.connections.iter().rposition(fits)?;
        let (since, connection) = &mut idle.connections[position];
        if let Some(another) = connection.another() {
            *since = Instant::now();
            return Some(another);
        }
        Some(idle.connections.remove(position).1)
    }

    /// Ends the one that has waited longest, to make room.
    pub fn drop_oldest(&self) -> bool {
        let mut idle = lock(&self.idle);
        let position = (idle.connections.iter()).position(|(_, it)| !it.is_in_use());
        let oldest = position.map(|position| idle.connections.remove(position));
        drop(idle);
        oldest.is_some()
    }

    /// Drops what has waited too long; true when nothing is left.
    fn sweep(&self) -> bool {
        let mut idle = lock(&self.idle);
        idle.connections
            .retain(|(since, it)| (since.elapsed() < KEPT || it.is_in_use()) && !it.is_closed());
        idle.is_swept = !idle.connections.is_empty();
        !idle.is_swept
    }
}

/// Lets later requests share a new connection, if they can.
pub fn share(network: &Arc<Network>, connection: &Connection) {
    if let Some(another) = connection.another() {
        keep(network, another);
    }
}

/// Keeps a connection whose answer is over; one that is shared is kept already.
pub fn give_back(network: &Arc<Network>, connection: Connection) {
    if !connection.is_shared() {
        keep(network, connection);
    }
}

fn keep(network: &Arc<Network>, connection: Connection) {
    let mut idle = lock(&network.pool.idle);
    let same = |(_, it): &&(Instant, Connection)| it.target == connection.target;
    if connection.is_closed() || idle.connections.iter().filter(same).count() >= EACH {
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
