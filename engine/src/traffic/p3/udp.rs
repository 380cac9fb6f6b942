//! UDP sockets of WASI 0.3.

use crate::guest::Guest;
use crate::traffic::imports::{Store, answer};
use crate::traffic::p3::{at_once, family, sockets};
use crate::traffic::socket::Socket;
use crate::traffic::sockets::same;
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::Result;
use wasmtime::component::{Accessor, LinkerInstance, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::p3::bindings::sockets::types::{
    HostUdpSocket as _, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{UdpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _};

pub fn add(types: &mut LinkerInstance<'_, Guest>) -> Result<()> {
    let kind = ResourceType::host::<UdpSocket>();
    types.resource("udp-socket", kind, |mut store, number| {
        forget(store.data_mut(), Resource::new_own(number))
    })?;
    types.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: Store<'_>, (family,)| {
            Box::new(async move { answer(create(store.data_mut(), family).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: Store<'_>, (this, asked): (_, IpSocketAddress)| {
            Box::new(async move { answer(bind(store.data_mut(), &this, asked.into())) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: Store<'_>, (this, asked): (_, IpSocketAddress)| {
            Box::new(async move { answer(connect(store.data_mut(), this, asked.into()).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor, (this, bytes, asked)| {
            Box::pin(async move { answer(send(accessor, this, bytes, asked).await) })
        },
    )?;
    types.func_wrap_concurrent("[method]udp-socket.receive", |accessor, (this,)| {
        Box::pin(async move { answer(receive(accessor, this).await) })
    })?;
    types.func_wrap(
        "[method]udp-socket.get-local-address",
        |mut store: Store<'_>, (this,)| answer(local(store.data_mut(), &this)),
    )?;
    types.func_wrap(
        "[method]udp-socket.get-remote-address",
        |mut store: Store<'_>, (this,)| answer(remote(store.data_mut(), &this)),
    )
}

/// A new socket of wasmtime's that asks `socket` about each address, bound if an address is given.
async fn fresh(socket: &Arc<Socket>, at: Option<SocketAddr>) -> SocketResult<UdpSocket> {
    let (ctx, table) = (&mut socket.context(), &mut ResourceTable::new());
    let mut sockets = WasiSocketsCtxView { ctx, table };
    let made = sockets.create(family(socket)).await?;
    if let Some(at) = at {
        sockets.bind(same(&made), at.into()).await?;
    }
    sockets.table.delete(made).map_err(SocketError::trap)
}

async fn create(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
    let is_ipv4 = matches!(family, IpAddressFamily::Ipv4);
    let socket = guest.traffic().make(is_ipv4)?;
    let made = fresh(&socket, None).await?;
    let made = guest.sockets().table.push(made);
    let made = made.map_err(SocketError::trap)?;
    guest.traffic().keep(&made, &socket);
    Ok(made)
}

fn bind(guest: &mut Guest, this: &Resource<UdpSocket>, asked: SocketAddr) -> SocketResult<()> {
    let socket = guest.traffic().get(this)?;
    let (real, bound) = socket.binding(asked)?;
    at_once(guest.sockets().bind(same(this), real.into()))?;
    socket.set_bound(bound);
    Ok(())
}

/// The socket, bound to any address of the pod's if it is not yet: the kernel would give it the machine's.
fn bound(guest: &mut Guest, this: &Resource<UdpSocket>) -> SocketResult<Arc<Socket>> {
    let socket = guest.traffic().get(this)?;
    if guest.sockets().get_local_address(same(this)).is_err() {
        bind(guest, this, socket.anywhere())?;
    }
    Ok(socket)
}

/// A socket with the machine's address for one that goes where the pod's does not lead.
async fn moved(socket: &Arc<Socket>, asked: SocketAddr) -> SocketResult<Option<UdpSocket>> {
    if !socket.has_to_move(asked) {
        return Ok(None);
    }
    fresh(socket, Some(socket.anywhere())).await.map(Some)
}

/// Puts it in the place of the one with the pod's address.
fn replace(
    guest: &mut Guest,
    this: &Resource<UdpSocket>,
    socket: &Socket,
    moved: Option<UdpSocket>,
) -> SocketResult<()> {
    if let Some(moved) = moved {
        let table = guest.sockets().table;
        *table.get_mut(this).map_err(SocketError::trap)? = moved;
        socket.set_outside();
    }
    Ok(())
}

async fn connect(
    guest: &mut Guest,
    this: Resource<UdpSocket>,
    asked: SocketAddr,
) -> SocketResult<()> {
    let socket = bound(guest, &this)?;
    let moved = moved(&socket, asked).await?;
    replace(guest, &this, &socket, moved)?;
    let real = socket.destination(asked)?;
    guest.sockets().connect(this, real.into()).await
}

async fn send(
    accessor: &Accessor<Guest>,
    this: Resource<UdpSocket>,
    bytes: Vec<u8>,
    asked: Option<IpSocketAddress>,
) -> SocketResult<()> {
    let socket = accessor.with(|mut store| bound(store.data_mut(), &this))?;
    let mut real = None;
    if let Some(asked) = asked.map(SocketAddr::from) {
        let moved = moved(&socket, asked).await?;
        accessor.with(|mut store| replace(store.data_mut(), &this, &socket, moved))?;
        real = Some(socket.destination(asked)?.into());
    }
    socket.set_used();
    let sockets = &sockets(accessor);
    <WasiSockets as HostUdpSocketWithStore<Guest>>::send(sockets, this, bytes, real).await
}

async fn receive(
    accessor: &Accessor<Guest>,
    this: Resource<UdpSocket>,
) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
    let socket = accessor.with(|mut store| store.data_mut().traffic().get(&this))?;
    let sockets = &sockets(accessor);
    loop {
        let moved = socket.moved();
        let received =
            <WasiSockets as HostUdpSocketWithStore<Guest>>::receive(sockets, same(&this));
        tokio::select! {
            biased;
            received = received => {
                let (bytes, real) = received?;
                return Ok((bytes, socket.shown(real.into()).into()));
            }
            // Another one is in its place.
            () = moved => {}
        }
    }
}

fn local(guest: &mut Guest, this: &Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
    let socket = guest.traffic().get(this)?;
    let mut sockets = guest.sockets();
    let is_connected = sockets.get_remote_address(same(this)).is_ok();
    let real = sockets.get_local_address(same(this))?;
    Ok(socket.shown_local(real.into(), is_connected).into())
}

fn remote(guest: &mut Guest, this: &Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
    let socket = guest.traffic().get(this)?;
    let real = guest.sockets().get_remote_address(same(this))?;
    Ok(socket.shown(real.into()).into())
}

fn forget(guest: &mut Guest, this: Resource<UdpSocket>) -> Result<()> {
    guest.traffic().forget(&this);
    guest.sockets().drop(this)
}
