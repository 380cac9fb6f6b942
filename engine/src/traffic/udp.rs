//! `wasi:sockets/udp` on translated addresses.

use crate::guest::Guest;
use crate::traffic::sockets::same;
use std::net::SocketAddr;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    IpAddressFamily, IpSocketAddress, Network as Capability,
};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostIncomingDatagramStream as Incoming, HostOutgoingDatagramStream as Outgoing, HostUdpSocket,
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi::p2::{SocketResult, UdpSocket};
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
        let socket = self.traffic().make(family)?;
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
        let real = match asked {
            Some(asked) => Some(socket.destination(asked.into())?.into()),
            None => None,
        };
        let (incoming, outgoing) = self.sockets().stream(this, real).await?;
        self.traffic().keep(&incoming, &socket);
        self.traffic().keep(&outgoing, &socket);
        Ok((incoming, outgoing))
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
    pub fn send(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
        mut datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let socket = self.traffic().get(&this)?;
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
