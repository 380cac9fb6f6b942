//! Functions of WASI that take the place of wasmtime's own.

use crate::guest::Guest;
use crate::traffic::heads;
use crate::traffic::lookup::Lookup;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::p2::bindings::sockets::udp::{IncomingDatagramStream, OutgoingDatagramStream};
use wasmtime_wasi::p2::{IoError, TcpSocket, UdpSocket};
use wasmtime_wasi::{TrappableError, WasiView as _};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode as HttpErrorCode;

/// What a function of the engine's own is called with.
pub type Store<'a> = StoreContextMut<'a, Guest>;

/// The release of WASI 0.2 that wasmtime's own functions have; a test tells when they part ways.
const RELEASE: &str = "0.2.12";

/// Adds them to a linker that has wasmtime's.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    interface(linker, "wasi:http/types")?.func_wrap("http-error-code", http_error_code)?;
    add_tcp(linker)?;
    add_udp(linker)?;
    add_names(linker)?;
    heads::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// One of its interfaces.
pub fn interface<'a>(
    linker: &'a mut Linker<Guest>,
    name: &str,
) -> Result<LinkerInstance<'a, Guest>> {
    linker.instance(&format!("{name}@{RELEASE}"))
}

/// What a function returns that ended so.
pub fn answer<T, E: std::error::Error + Send + Sync + 'static>(
    done: std::result::Result<T, TrappableError<E>>,
) -> Result<(std::result::Result<T, E>,)> {
    Ok((match done {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn add_tcp(linker: &mut Linker<Guest>) -> Result<()> {
    interface(linker, "wasi:sockets/tcp-create-socket")?
        .func_wrap("create-tcp-socket", |mut store: Store<'_>, (family,)| {
            answer(store.data_mut().create_tcp(family))
        })?;
    let mut tcp = interface(linker, "wasi:sockets/tcp")?;
    let kind = ResourceType::host::<TcpSocket>();
    tcp.resource("tcp-socket", kind, |mut store, number| {
        store.data_mut().drop_tcp(Resource::new_own(number))
    })?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: Store<'_>, (this, network, address)| {
            Box::new(async move { answer(store.data_mut().bind_tcp(this, network, address).await) })
        },
    )?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: Store<'_>, (this, network, address)| {
            Box::new(
                async move { answer(store.data_mut().connect_tcp(this, network, address).await) },
            )
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.accept",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().accept_tcp(this)),
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.local-address",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().tcp_local(this)),
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.remote-address",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().tcp_remote(this)),
    )
}

fn add_udp(linker: &mut Linker<Guest>) -> Result<()> {
    interface(linker, "wasi:sockets/udp-create-socket")?.func_wrap_async(
        "create-udp-socket",
        |mut store: Store<'_>, (family,)| {
            Box::new(async move { answer(store.data_mut().create_udp(family).await) })
        },
    )?;
    let mut udp = interface(linker, "wasi:sockets/udp")?;
    let kind = ResourceType::host::<UdpSocket>();
    udp.resource("udp-socket", kind, |mut store, number| {
        store.data_mut().drop_udp(Resource::new_own(number))
    })?;
    let kind = ResourceType::host::<IncomingDatagramStream>();
    udp.resource("incoming-datagram-stream", kind, |mut store, number| {
        store.data_mut().drop_incoming(Resource::new_own(number))
    })?;
    let kind = ResourceType::host::<OutgoingDatagramStream>();
    udp.resource_async("outgoing-datagram-stream", kind, |mut store, number| {
        Box::new(async move {
            let stream = Resource::new_own(number);
            store.data_mut().drop_outgoing(stream).await
        })
    })?;
    udp.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: Store<'_>, (this, network, address)| {
            Box::new(async move { answer(store.data_mut().bind_udp(this, network, address).await) })
        },
    )?;
    udp.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: Store<'_>, (this, address)| {
            Box::new(async move { answer(store.data_mut().stream_udp(this, address).await) })
        },
    )?;
    udp.func_wrap(
        "[method]udp-socket.local-address",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().udp_local(this)),
    )?;
    udp.func_wrap(
        "[method]udp-socket.remote-address",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().udp_remote(this)),
    )?;
    udp.func_wrap(
        "[method]incoming-datagram-stream.receive",
        |mut store: Store<'_>, (this, most)| answer(store.data_mut().receive(this, most)),
    )?;
    udp.func_wrap_async(
        "[method]outgoing-datagram-stream.send",
        |mut store: Store<'_>, (this, datagrams)| {
            Box::new(async move { answer(store.data_mut().send(this, datagrams).await) })
        },
    )
}

/// Names, all of whose interface is the engine's own: wasmtime's asks the machine.
fn add_names(linker: &mut Linker<Guest>) -> Result<()> {
    interface(linker, "wasi:sockets/network")?
        .func_wrap("network-error-code", network_error_code)?;
    let mut names = interface(linker, "wasi:sockets/ip-name-lookup")?;
    let kind = ResourceType::host::<Lookup>();
    names.resource("resolve-address-stream", kind, |mut store, number| {
        store.data_mut().drop_lookup(Resource::new_own(number))
    })?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: Store<'_>, (network, name)| answer(store.data_mut().resolve(network, name)),
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (this,)| answer(store.data_mut().next_address(this)),
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Store<'_>, (this,)| Ok((store.data_mut().subscribe_lookup(this)?,)),
    )
}

/// Why a stream of a socket broke off. Wasmtime's own looks for another type than its streams have, and finds nothing.
fn network_error_code(
    mut store: Store<'_>,
    (error,): (Resource<IoError>,),
) -> Result<(Option<ErrorCode>,)> {
    let error = store.data_mut().ctx().table.get(&error)?;
    let code = error.downcast_ref::<ErrorCode>().copied();
    Ok((code.or_else(|| Some(error.downcast_ref::<std::io::Error>()?.into())),))
}

/// Why a body broke off. Wasmtime's own looks for another type than its bodies have, and finds nothing.
fn http_error_code(
    mut store: Store<'_>,
    (error,): (Resource<IoError>,),
) -> Result<(Option<HttpErrorCode>,)> {
    let error = store.data_mut().ctx().table.get(&error)?;
    if let Some(code) = error.downcast_ref::<HttpErrorCode>() {
        return Ok((Some(code.clone()),));
    }
    let code = error.downcast_ref::<Error>().map(|error| match error {
        Error::ConnectionReadTimeout => HttpErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => HttpErrorCode::ConnectionTerminated,
        Error::HttpRequestBodySize(size) => HttpErrorCode::HttpRequestBodySize(*size),
        Error::HttpResponseIncomplete => HttpErrorCode::HttpResponseIncomplete,
        Error::HttpResponseTimeout => HttpErrorCode::HttpResponseTimeout,
        Error::Hyper(_) | Error::HttpProtocolError => HttpErrorCode::HttpProtocolError,
        error => HttpErrorCode::InternalError(Some(error.to_string())),
    });
    Ok((code,))
}
