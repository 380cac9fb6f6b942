//! `wasi:sockets` of one guest: wasmtime's own functions on addresses that are translated on their way, both ways.

use crate::traffic::Network;
use crate::traffic::socket::Socket;
use std::collections::HashMap;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::{SocketError, SocketResult};

/// The sockets that a guest has, and its streams of datagrams, by the numbers of their resources.
pub struct Sockets {
    /// `None` closes everything.
    pub network: Option<Arc<Network>>,
    open: HashMap<u32, Arc<Socket>>,
}

impl Sockets {
    /// None yet.
    pub fn new(network: Option<Arc<Network>>) -> Self {
        Self {
            network,
            open: HashMap::new(),
        }
    }

    /// The state of a socket that is about to be made.
    pub fn make(&self, family: IpAddressFamily) -> SocketResult<Arc<Socket>> {
        let network = self.network.as_ref().ok_or(ErrorCode::AccessDenied)?;
        let place = network
            .room
            .try_take()
            .or_else(|| (network.pool.drop_oldest()).then(|| network.room.try_take())?)
            .ok_or(ErrorCode::NewSocketLimit)?;
        let is_ipv4 = matches!(family, IpAddressFamily::Ipv4);
        Ok(Socket::new(network, is_ipv4, place))
    }

    /// What is known of a socket, or of the socket of a stream.
    pub fn get<T: 'static>(&self, resource: &Resource<T>) -> SocketResult<Arc<Socket>> {
        let socket = self.open.get(&resource.rep()).map(Arc::clone);
        socket.ok_or_else(|| SocketError::trap(wasmtime::format_err!("this is no socket")))
    }

    /// Keeps what is known of it.
    pub fn keep<T: 'static>(&mut self, resource: &Resource<T>, socket: &Arc<Socket>) {
        self.open.insert(resource.rep(), Arc::clone(socket));
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
