//! `wasi:sockets/udp` on translated addresses.

use crate::guest::Guest;
use crate::traffic::socket::Socket;
use crate::traffic::sockets::same;
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::instance_network::Host as _;
use wasmtime_wasi::p2::bindings::sockets::network::{
    IpAddressFamily, IpSocketAddress, Network as Capability,
};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostIncomingDatagramStream as Incoming, HostOutgoingDatagramStream as Outgoing, HostUdpSocket,
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi::p2::{SocketError, SocketResult, UdpSocket};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView as _};

/// Both streams of a UDP socket.
type Datagrams = (
    Resource<IncomingDatagramStream>,
    Resource<OutgoingDatagramStream>,
);

impl Guest {
    pub async fn create_udp(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        let is_ipv4 = matches!(family, IpAddressFamily::Ipv4);
        let socket = self.traffic().make(is_ipv4)?;
        let made = WasiSocketsCtxView {
            ctx: &mut socket.context(),
            table: self.sockets().table,
        }
        .create_udp_socket(family)
        .await?;
        self.traffic().keep(&made, &socket);
        Ok(made)
    }

    pub async fn bind_udp(
        &mut self,
        this: Resource<UdpSocket>,
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

    pub async fn stream_udp(
        &mut self,
        this: Resource<UdpSocket>,
        asked: Option<IpSocketAddress>,
    ) -> SocketResult<Datagrams> {
        let socket = self.traffic().get(&this)?;
        if let Some(asked) = asked
            && socket.has_to_move(asked.into())
        {
            self.move_out(&socket, &this).await?;
        }
        let real = match asked {
            Some(asked) => Some(socket.destination(asked.into())?.into()),
            None => None,
        };
        let number = this.rep();
        let (incoming, outgoing) = self.sockets().stream(this, real).await?;
        socket.set_streams([number, incoming.rep(), outgoing.rep()]);
        self.traffic().keep(&incoming, &socket);
        self.traffic().keep(&outgoing, &socket);
        Ok((incoming, outgoing))
    }

    /// Puts a socket with the machine's address in the place of one with the pod's, and of its streams.
    async fn move_out(
        &mut self,
        socket: &Arc<Socket>,
        this: &Resource<UdpSocket>,
    ) -> SocketResult<()> {
        let mut context = socket.context();
        let mut sockets = WasiSocketsCtxView {
            ctx: &mut context,
            table: self.sockets().table,
        };
        let made = sockets.create_udp_socket(socket.family()).await?;
        let network = sockets.instance_network().map_err(SocketError::trap)?;
        let anywhere = socket.anywhere().into();
        sockets
            .start_bind(same(&made), same(&network), anywhere)
            .await?;
        sockets.finish_bind(same(&made))?;
        sockets.table.delete(network)?;
        if let Some([_, incoming, outgoing]) = socket.streams() {
            let (incoming, outgoing) = (
                Resource::new_borrow(incoming),
                Resource::new_borrow(outgoing),
            );
            let (receives, sends) = sockets.stream(same(&made), None).await?;
            let (receives, sends) = (
                sockets.table.delete(receives)?,
                sockets.table.delete(sends)?,
            );
            *sockets.table.get_mut::<IncomingDatagramStream>(&incoming)? = receives;
            *sockets.table.get_mut::<OutgoingDatagramStream>(&outgoing)? = sends;
            // The guest has asked whether it may send.
            sockets.check_send(outgoing)?;
        }
        let made = sockets.table.delete(made)?;
        *sockets.table.get_mut(this)? = made;
        socket.set_outside();
        Ok(())
    }

    pub fn udp_local(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.traffic().get(&this)?;
        let is_connected = self.sockets().remote_address(same(&this)).is_ok();
        let real = SocketAddr::from(self.sockets().local_address(this)?);
        Ok(socket.shown_local(real, is_connected).into())
    }

    pub fn udp_remote(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = self.traffic().get(&this)?;
        let real = self.sockets().remote_address(this)?;
        Ok(socket.shown(real.into()).into())
    }

    pub fn drop_udp(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.traffic().forget(&this);
        HostUdpSocket::drop(&mut self.sockets(), this)
    }

    pub fn receive(
        &mut self,
        this: Resource<IncomingDatagramStream>,
        most: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let socket = self.traffic().get(&this)?;
        let mut datagrams = self.sockets().receive(this, most)?;
        for datagram in &mut datagrams {
            let real = datagram.remote_address.into();
            datagram.remote_address = socket.shown(real).into();
        }
        Ok(datagrams)
    }

    /// As many as have somewhere to go; the first that has not is an error, or will be the next time.
    pub async fn send(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
        mut datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let socket = self.traffic().get(&this)?;
        if let Some(asked) = datagrams.first().and_then(|it| it.remote_address)
            && socket.has_to_move(asked.into())
            && let Some([number, ..]) = socket.streams()
        {
            self.move_out(&socket, &Resource::new_borrow(number))
                .await?;
        }
        for index in 0..datagrams.len() {
            let Some(asked) = datagrams[index].remote_address else {
                continue;
            };
            match socket.destination(asked.into()) {
                Ok(real) => datagrams[index].remote_address = Some(real.into()),
                Err(error) if index == 0 => return Err(error.into()),
                Err(_) => {
                    datagrams.truncate(index);
                    break;
                }
            }
        }
        socket.set_used();
        self.sockets().send(this, datagrams)
    }

    pub fn drop_incoming(
        &mut self,
        this: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<()> {
        self.traffic().forget(&this);
        Incoming::drop(&mut self.sockets(), this)
    }

    pub async fn drop_outgoing(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<()> {
        self.traffic().forget(&this);
        Outgoing::drop(&mut self.sockets(), this).await
    }
}
