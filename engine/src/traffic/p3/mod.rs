//! `wasi:sockets` of WASI 0.3: wasmtime's own functions, as in `imports`, on addresses that are translated on their way.
//!
//! - `tcp`, `udp`: what guests do with sockets; `names`: what they look up

mod names;
mod tcp;
mod udp;

use crate::guest::Guest;
use crate::traffic::heads;
use crate::traffic::imports::Store;
use crate::traffic::socket::Socket;
use futures::FutureExt as _;
use wasmtime::Result;
use wasmtime::component::{Access, Accessor, Linker};
use wasmtime_wasi::p3::bindings::sockets::types::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p3::sockets::SocketResult;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};

/// The release of WASI 0.3 that wasmtime's own functions have; a test tells when they part ways.
pub const RELEASE: &str = "0.3.0";

/// Adds them to a linker that has wasmtime's.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    add(linker)?;
    heads::add_to_concurrent_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn add(linker: &mut Linker<Guest>) -> Result<()> {
    let mut types = linker.instance(&format!("wasi:sockets/types@{RELEASE}"))?;
    tcp::add(&mut types)?;
    udp::add(&mut types)?;
    names::add(&mut linker.instance(&format!("wasi:sockets/ip-name-lookup@{RELEASE}"))?)
}

/// What wasmtime's functions see of the guest.
fn sockets(accessor: &Accessor<Guest>) -> Accessor<Guest, WasiSockets> {
    accessor.with_getter(|guest| guest.sockets())
}

/// The same, at once.
fn access(store: Store<'_>) -> Access<'_, Guest, WasiSockets> {
    Access::new(store, |guest| guest.sockets())
}

/// The end of what never waits, though wasmtime has it as a future: our check of addresses is ready.
fn at_once<T>(done: impl Future<Output = SocketResult<T>>) -> SocketResult<T> {
    done.now_or_never()
        .unwrap_or(Err(ErrorCode::InvalidState.into()))
}

/// A socket's family, in the words of WASI 0.3.
fn family(socket: &Socket) -> IpAddressFamily {
    if socket.is_ipv4() {
        IpAddressFamily::Ipv4
    } else {
        IpAddressFamily::Ipv6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{self, Flavour};

    #[test]
    fn nothing_is_shadowed_but_what_there_is() {
        let engine = settings::serving(Flavour::Concurrent).expect("engine");
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p3::add_to_linker(&mut linker).expect("p3");
        assert!(add(&mut linker).is_err());
    }
}
