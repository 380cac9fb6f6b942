//! What guests do in the network: requests that they send, sockets that they have, names that they look up.
//!
//! - `policy`: where a guest may go, and as whom; `names`: by the pod's hosts file and resolv.conf
//! - `connect`: from a name to a connection; `tls`: whom to trust; `pool`: connections kept or shared
//! - `outgoing`: requests of `wasi:http`; `letter`: one that may be sent twice; `heads`: what their heads may cost
//! - `sockets`: those of a guest; `socket`: one of them, and its addresses; `tcp`, `udp`: what guests do with them;
//!   `lookup`: names that they ask for
//! - `room`: how much of all that there may be; `imports`: functions of WASI that are not wasmtime's own; `p3`: those of 0.3

mod connect;
mod heads;
mod imports;
mod letter;
mod lookup;
mod names;
mod outgoing;
pub mod p3;
mod policy;
mod pool;
mod room;
mod socket;
mod sockets;
mod tcp;
pub mod tls;
mod udp;

pub use heads::Heads;
pub use imports::add_to_linker;
pub use outgoing::Outgoing;
pub use sockets::Sockets;

use crate::protocol;
use crate::traffic::names::Names;
use crate::traffic::policy::Policy;
use crate::traffic::pool::Pool;
use crate::traffic::room::Room;
use crate::traffic::tls::Trust;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Sockets that one container may make.
const EACH: usize = 256;

/// What all containers of an engine share.
pub struct Shared {
    trust: Trust,
    room: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    most_clients: usize,
    threads: Handle,
}

impl Shared {
    /// At most so many sockets of guests, which `threads` wait for. Those of `clients`, who come, are counted apart, with
    /// all others who come to the engine.
    pub fn new(most: usize, clients: &Arc<Semaphore>, threads: Handle) -> Arc<Self> {
        Arc::new(Self {
            trust: Trust::default(),
            room: Arc::new(Semaphore::new(most)),
            clients: Arc::clone(clients),
            most_clients: clients.available_permits(),
            threads,
        })
    }
}

/// One container's network.
pub struct Network {
    policy: Policy,
    names: Names,
    pool: Pool,
    room: Room,
    clients: Room,
    /// Sockets that listen.
    listeners: AtomicUsize,
    shared: Arc<Shared>,
}

impl Network {
    /// As the spec says.
    pub fn new(spec: protocol::Network, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            policy: Policy::new(spec.addresses, spec.host),
            names: Names::new(spec.hosts, spec.resolv_conf),
            pool: Pool::default(),
            room: Room::new(&shared.room, EACH),
            clients: Room::new(&shared.clients, shared.most_clients),
            listeners: AtomicUsize::new(0),
            shared: Arc::clone(shared),
        })
    }

    /// Whether a guest has a socket that others connect to.
    pub fn is_listening(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }
}
