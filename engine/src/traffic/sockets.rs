//! `wasi:sockets` of one guest: wasmtime's own functions on addresses that are translated on their way, both ways.

use crate::traffic::Network;
use crate::traffic::socket::{Socket, unspecified};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::network as p2;
use wasmtime_wasi::p3;

/// The sockets that a guest has, and its streams of datagrams, by the numbers of their resources.
pub struct Sockets {
    /// `None` closes everything.
    pub network: Option<Arc<Network>>,
    open: HashMap<u32, Arc<Socket>>,
    /// Those of WASI 0.3 that listen, by their own addresses: wasmtime hands their clients over by itself.
    listening: HashMap<(IpAddr, u16), Weak<Socket>>,
}

/// Why there is no socket.
pub enum Refused {
    /// The resource is none.
    Unknown,
    /// The guest has no network.
    Closed,
    /// It has as many as it may have.
    Full,
}

impl From<Refused> for SocketError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::trap(no_socket()),
            Refused::Closed => p2::ErrorCode::AccessDenied.into(),
            Refused::Full => p2::ErrorCode::NewSocketLimit.into(),
        }
    }
}

impl From<Refused> for p3::sockets::SocketError {
    fn from(refused: Refused) -> Self {
        use p3::bindings::sockets::types::ErrorCode;
        match refused {
            Refused::Unknown => Self::trap(no_socket()),
            Refused::Closed => ErrorCode::AccessDenied.into(),
            // WASI 0.3 has no word for it.
            Refused::Full => ErrorCode::Other(Some("new-socket-limit".to_owned())).into(),
        }
    }
}

fn no_socket() -> wasmtime::Error {
    wasmtime::format_err!("this is no socket")
}

impl Sockets {
    /// None yet.
    pub fn new(network: Option<Arc<Network>>) -> Self {
        Self {
            network,
            open: HashMap::new(),
            listening: HashMap::new(),
        }
    }

    /// The state of a socket that is about to be made.
    pub fn make(&self, is_ipv4: bool) -> Result<Arc<Socket>, Refused> {
        let network = self.network.as_ref().ok_or(Refused::Closed)?;
        let place = network
            .room
            .try_take()
            .or_else(|| (network.pool.drop_oldest()).then(|| network.room.try_take())?)
            .ok_or(Refused::Full)?;
        Ok(Socket::new(network, is_ipv4, place))
    }

    /// What is known of a socket, or of the socket of a stream.
    pub fn get<T: 'static>(&self, resource: &Resource<T>) -> Result<Arc<Socket>, Refused> {
        let socket = self.open.get(&resource.rep());
        socket.map(Arc::clone).ok_or(Refused::Unknown)
    }

    /// Keeps what is known of it.
    pub fn keep<T: 'static>(&mut self, resource: &Resource<T>, socket: &Arc<Socket>) {
        self.open.insert(resource.rep(), Arc::clone(socket));
    }

    /// One that will listen at its own address, and whose clients come by themselves.
    pub fn keep_listener(&mut self, own: SocketAddr, socket: &Arc<Socket>) {
        self.listening.retain(|_, it| it.strong_count() > 0);
        socket.expect_clients();
        let key = (own.ip(), own.port());
        self.listening.insert(key, Arc::downgrade(socket));
    }

    /// A client that came to the listener at this address.
    pub fn arrived(&self, own: SocketAddr) -> Option<Arc<Socket>> {
        // A pod of the host's network may listen at any address.
        [own.ip(), unspecified(own.is_ipv4())]
            .iter()
            .find_map(|&ip| {
                self.listening
                    .get(&(ip, own.port()))?
                    .upgrade()?
                    .next_client()
            })
    }

    /// It is no more.
    pub fn forget<T: 'static>(&mut self, resource: &Resource<T>) {
        self.open.remove(&resource.rep());
    }
}

/// The same resource once more: wasmtime's functions take it with them.
pub fn same<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}
