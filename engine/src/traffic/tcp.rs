//! `wasi:sockets/tcp` on translated addresses.

use crate::guest::Guest;
use crate::traffic::socket::{Bound, Socket};
use crate::traffic::sockets::same;
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network as Capability,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket as _;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, SocketError, SocketResult, TcpSocket};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView as _};

/// Clients that one call closes for want of room, so that a flood of them does not hold the thread.
const TURNED_AWAY: usize = 64;

/// A socket that was accepted, and its streams.
type Accepted = (
    Resource<TcpSocket>,
    Resource<DynInputStream>,
    Resource<DynOutputStream>,
);

/// A new socket of wasmtime's that asks `socket` about each address.
fn fresh(socket: &Arc<Socket>) -> SocketResult<TcpSocket> {
    let (ctx, table) = (&mut socket.context(), &mut ResourceTable::new());
    let made = WasiSocketsCtxView { ctx, table }.create_tcp_socket(socket.family())?;
    Ok(table.delete(made)?)
}

impl Guest {
    pub fn create_tcp(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let is_ipv4 = matches!(family, IpAddressFamily::Ipv4);
        let socket = self.traffic().make(is_ipv4)?;
        let made = self.sockets().table.push(fresh(&socket)?)?;
        self.traffic().keep(&made, &socket);
        Ok(made)
    }

    pub async fn bind_tcp(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Capability>,
        asked: IpSocketAddress,
    ) -> SocketResult<()> {
        let socket = self.traffic().get(&this)?;
        let (real, bound) = socket.binding(asked.into())?;
        let done = self.sockets().start_bind(this, network, real.into()).await;
        if done.is_ok() {
            socket.set_bound(bound);
        }
        done
    }

    /// From the pod's own address, where that leads.
    pub async fn connect_tcp(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Capability>,
        asked: IpSocketAddress,
    ) -> SocketResult<()> {
        let socket = self.traffic().get(&this)?;
        if socket.has_to_move(asked.into())
            && !self
                .sockets()
                .is_listening(same(&this))
                .map_err(SocketError::trap)?
        {
            *self.sockets().table.get_mut(&this)? = fresh(&socket)?;
            socket.set_bound(Bound::Nothing);
        }
        let real = socket.destination(asked.into())?;
        let mut sockets = self.sockets();
        if let Some(source) = socket.source(real)
            && sockets.local_address(same(&this)).is_err()
        {
            sockets
                .start_bind(same(&this), same(&network), source.into())
                .await?;
            sockets.finish_bind(same(&this))?;
        }
        sockets.start_connect(this, network, real.into())
    }

    /// The next client that the container has room for; others are turned away, so that they do not wait for nothing.
    pub fn accept_tcp(&mut self, this: Resource<TcpSocket>) -> SocketResult<Accepted> {
        let listener = self.traffic().get(&this)?;
        for _ in 0..TURNED_AWAY {
            let (client, input, output) = self.sockets().accept(same(&this))?;
            if let Some(accepted) = listener.accepted() {
                self.traffic().keep(&client, &accepted);
                return Ok((client, input, output));
            }
            let table = self.sockets().table;
            table.delete(input)?;
            table.delete(output)?;
            table.delete(client)?;
        }
        Err(ErrorCode::WouldBlock.into())
    }

    pub fn tcp_local(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.traffic().get(&this)?;
        let is_connected = self.sockets().remote_address(same(&this)).is_ok();
        let real = SocketAddr::from(self.sockets().local_address(this)?);
        Ok(socket.shown_local(real, is_connected).into())
    }

    pub fn tcp_remote(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.traffic().get(&this)?;
        let real = self.sockets().remote_address(this)?;
        Ok(socket.shown(real.into()).into())
    }

    pub fn drop_tcp(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.traffic().forget(&this);
        self.sockets().drop(this)
    }
}
