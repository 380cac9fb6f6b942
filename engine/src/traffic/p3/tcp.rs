//! TCP sockets of WASI 0.3. A guest gets its listener's clients, and the bytes of both, as streams of wasmtime's: what is
//! known of a client is met at the first call that names it, and a socket's place is held until its streams have ended.

use crate::guest::Guest;
use crate::traffic::imports::{Store, answer};
use crate::traffic::p3::{access, at_once, family, sockets};
use crate::traffic::socket::{Bound, Socket};
use crate::traffic::sockets::{Refused, same};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime::component::{
    Accessor, FutureConsumer, FutureReader, LinkerInstance, Resource, ResourceTable, ResourceType,
    Source, StreamReader,
};
use wasmtime::{AsContextMut as _, Result};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket as _, HostTcpSocketWithStore, IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{TcpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _};

/// How a stream ended.
type End = std::result::Result<(), ErrorCode>;

pub fn add(types: &mut LinkerInstance<'_, Guest>) -> Result<()> {
    let kind = ResourceType::host::<TcpSocket>();
    types.resource("tcp-socket", kind, |mut store, number| {
        forget(store.data_mut(), Resource::new_own(number))
    })?;
    types.func_wrap(
        "[static]tcp-socket.create",
        |mut store: Store<'_>, (family,)| answer(create(store.data_mut(), family)),
    )?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: Store<'_>, (this, asked): (_, IpSocketAddress)| {
            Box::new(async move { answer(bind(store.data_mut(), &this, asked.into())) })
        },
    )?;
    types.func_wrap_concurrent("[method]tcp-socket.connect", |accessor, (this, asked)| {
        Box::pin(async move { answer(connect(accessor, this, asked).await) })
    })?;
    types.func_wrap_async("[method]tcp-socket.listen", |store: Store<'_>, (this,)| {
        Box::new(async move { answer(listen(store, this).await) })
    })?;
    types.func_wrap("[method]tcp-socket.send", send)?;
    types.func_wrap("[method]tcp-socket.receive", receive)?;
    types.func_wrap(
        "[method]tcp-socket.get-local-address",
        |mut store: Store<'_>, (this,)| answer(local(store.data_mut(), &this)),
    )?;
    types.func_wrap(
        "[method]tcp-socket.get-remote-address",
        |mut store: Store<'_>, (this,)| answer(remote(store.data_mut(), &this)),
    )
}

/// A new socket of wasmtime's that asks `socket` about each address.
fn fresh(socket: &Arc<Socket>) -> SocketResult<TcpSocket> {
    let (ctx, table) = (&mut socket.context(), &mut ResourceTable::new());
    let made = WasiSocketsCtxView { ctx, table }.create(family(socket))?;
    table.delete(made).map_err(SocketError::trap)
}

fn create(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
    let is_ipv4 = matches!(family, IpAddressFamily::Ipv4);
    let socket = guest.traffic().make(is_ipv4)?;
    let made = guest.sockets().table.push(fresh(&socket)?);
    let made = made.map_err(SocketError::trap)?;
    guest.traffic().keep(&made, &socket);
    Ok(made)
}

/// What is known of a socket, also of a client that wasmtime has handed over.
fn known(guest: &mut Guest, this: &Resource<TcpSocket>) -> SocketResult<Arc<Socket>> {
    if let Ok(socket) = guest.traffic().get(this) {
        return Ok(socket);
    }
    let own = guest.sockets().get_local_address(same(this))?;
    let client = guest.traffic().arrived(own.into());
    let client = client.ok_or(Refused::Unknown)?;
    guest.traffic().keep(this, &client);
    Ok(client)
}

fn bind(guest: &mut Guest, this: &Resource<TcpSocket>, asked: SocketAddr) -> SocketResult<()> {
    let socket = known(guest, this)?;
    let (real, bound) = socket.binding(asked)?;
    at_once(guest.sockets().bind(same(this), real.into()))?;
    socket.set_bound(bound);
    Ok(())
}

async fn connect(
    accessor: &Accessor<Guest>,
    this: Resource<TcpSocket>,
    asked: IpSocketAddress,
) -> SocketResult<()> {
    let real = accessor.with(|mut store| aim(store.data_mut(), &this, asked.into()))?;
    let sockets = &sockets(accessor);
    <WasiSockets as HostTcpSocketWithStore<Guest>>::connect(sockets, this, real.into()).await
}

/// Where a connection goes, and its socket bound to the pod's own address, where that leads there.
fn aim(
    guest: &mut Guest,
    this: &Resource<TcpSocket>,
    asked: SocketAddr,
) -> SocketResult<SocketAddr> {
    let socket = known(guest, this)?;
    let is_listening = guest.sockets().get_is_listening(same(this));
    if socket.has_to_move(asked) && !is_listening.map_err(SocketError::trap)? {
        let table = guest.sockets().table;
        *table.get_mut(this).map_err(SocketError::trap)? = fresh(&socket)?;
        socket.set_bound(Bound::Nothing);
    }
    let real = socket.destination(asked)?;
    let mut sockets = guest.sockets();
    if let Some(source) = socket.source(real)
        && sockets.get_local_address(same(this)).is_err()
    {
        at_once(sockets.bind(same(this), source.into()))?;
    }
    Ok(real)
}

/// At any address of the pod's, if it is not bound.
async fn listen(
    mut store: Store<'_>,
    this: Resource<TcpSocket>,
) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
    let guest = store.data_mut();
    let socket = known(guest, &this)?;
    if guest.sockets().get_local_address(same(&this)).is_err() {
        bind(guest, &this, socket.anywhere())?;
    }
    let own = guest.sockets().get_local_address(same(&this))?;
    guest.traffic().keep_listener(own.into(), &socket);
    let access = access(store.as_context_mut());
    <WasiSockets as HostTcpSocketWithStore<Guest>>::listen(access, this).await
}

fn send(
    mut store: Store<'_>,
    (this, bytes): (Resource<TcpSocket>, StreamReader<u8>),
) -> Result<(FutureReader<End>,)> {
    let socket = known(store.data_mut(), &this).ok();
    let access = access(store.as_context_mut());
    let end = <WasiSockets as HostTcpSocketWithStore<Guest>>::send(access, this, bytes)?;
    Ok((hold(store, end, socket)?,))
}

/// A stream of bytes, and how it ended.
type Received = (StreamReader<u8>, FutureReader<End>);

fn receive(mut store: Store<'_>, (this,): (Resource<TcpSocket>,)) -> Result<(Received,)> {
    let socket = known(store.data_mut(), &this).ok();
    let access = access(store.as_context_mut());
    let (bytes, end) = <WasiSockets as HostTcpSocketWithStore<Guest>>::receive(access, this)?;
    Ok(((bytes, hold(store, end, socket)?),))
}

/// Holds a socket's place until its stream has ended, whatever becomes of the socket.
fn hold(
    mut store: Store<'_>,
    end: FutureReader<End>,
    socket: Option<Arc<Socket>>,
) -> Result<FutureReader<End>> {
    let Some(socket) = socket else {
        return Ok(end);
    };
    let (send, ended) = oneshot::channel();
    end.pipe(&mut store, Held(Some((send, socket))))?;
    FutureReader::new(&mut store, ended)
}

struct Held(Option<(oneshot::Sender<End>, Arc<Socket>)>);

impl FutureConsumer<Guest> for Held {
    type Item = End;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: Store<'_>,
        mut source: Source<'_, End>,
        _: bool,
    ) -> Poll<Result<()>> {
        let mut end = None;
        source.read(store, &mut end)?;
        if let (Some((send, _socket)), Some(end)) = (self.0.take(), end) {
            // Who does not want to know has dropped the future.
            let _ = send.send(end);
        }
        Poll::Ready(Ok(()))
    }
}

fn local(guest: &mut Guest, this: &Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
    let socket = known(guest, this)?;
    let mut sockets = guest.sockets();
    let is_connected = sockets.get_remote_address(same(this)).is_ok();
    let real = sockets.get_local_address(same(this))?;
    Ok(socket.shown_local(real.into(), is_connected).into())
}

fn remote(guest: &mut Guest, this: &Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
    let socket = known(guest, this)?;
    let real = guest.sockets().get_remote_address(same(this))?;
    Ok(socket.shown(real.into()).into())
}

fn forget(guest: &mut Guest, this: Resource<TcpSocket>) -> Result<()> {
    // A client that was never named gives its place back, too.
    let _ = known(guest, &this);
    guest.traffic().forget(&this);
    guest.sockets().drop(this)
}
