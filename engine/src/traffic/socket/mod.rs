//! One socket of a guest: what is known of it, and what it may do with addresses as they really are.
//!
//! - `addresses`: between those that its guest names and those that it really has

mod addresses;

pub use addresses::unspecified;

use crate::sync::lock;
use crate::traffic::Network;
use crate::traffic::room::Place;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtx};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

/// Strangers that one UDP socket can answer.
const CALLERS: usize = 256;

/// What a socket's guest and its checks know of it.
pub struct Socket {
    network: Arc<Network>,
    is_ipv4: bool,
    bound: Mutex<Bound>,
    /// It has the machine's address instead of the pod's.
    is_outside: AtomicBool,
    /// Wakes who receives when it gets that.
    moved: Notify,
    /// Clients that its guest has not seen yet, where wasmtime hands them over by itself.
    clients: Mutex<Option<VecDeque<Arc<Socket>>>>,
    is_listening: AtomicBool,
    /// Datagrams have been sent.
    is_used: AtomicBool,
    /// The numbers of its resources: a UDP socket and its streams.
    streams: Mutex<Option<[u32; 3]>>,
    /// The guest calls the pod's own address localhost.
    says_localhost: AtomicBool,
    /// Who sent something from an address that is closed to the guest, as programs of the machine do, or was sent something
    /// from the machine's address: the newest last.
    callers: Mutex<VecDeque<SocketAddr>>,
    _place: Place,
}

/// What a guest has bound a socket to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Nothing, or the engine has.
    Nothing,
    /// 0.0.0.0 or ::, and a port that the guest chose.
    Any,
    /// The same and any port, as clients do.
    Whatever,
    /// 127.0.0.1 or ::1
    Localhost,
    /// One of the pod's addresses.
    Own,
}

impl Socket {
    /// A new one.
    pub fn new(network: &Arc<Network>, is_ipv4: bool, place: Place) -> Arc<Self> {
        Self::with(network, is_ipv4, Bound::Nothing, place)
    }

    /// A client that came to this listener; `None` when there are too many.
    pub fn accepted(&self) -> Option<Arc<Self>> {
        let place = self.network.clients.try_take_fairly()?;
        // What the guest sees of an accepted socket is its whole address.
        let bound = match self.bound() {
            Bound::Any | Bound::Whatever => Bound::Own,
            bound => bound,
        };
        Some(Self::with(&self.network, self.is_ipv4, bound, place))
    }

    fn with(network: &Arc<Network>, is_ipv4: bool, bound: Bound, place: Place) -> Arc<Self> {
        Arc::new(Self {
            network: Arc::clone(network),
            is_ipv4,
            bound: Mutex::new(bound),
            is_outside: AtomicBool::new(false),
            moved: Notify::new(),
            clients: Mutex::default(),
            is_listening: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
            streams: Mutex::default(),
            says_localhost: AtomicBool::new(bound == Bound::Localhost),
            callers: Mutex::default(),
            _place: place,
        })
    }

    /// A context in which wasmtime makes a socket that asks this one about each address.
    pub fn context(self: &Arc<Self>) -> WasiSocketsCtx {
        let this = Arc::clone(self);
        let mut wasi: WasiCtxBuilder = WasiCtx::builder();
        wasi.allow_tcp(true)
            .allow_udp(true)
            .socket_addr_check(move |address, what| {
                Box::pin(std::future::ready(this.permits(address, what)))
            });
        wasi.build().sockets().clone()
    }

    /// Whether something may be done with an address as it really is: the last word, whatever was translated before.
    fn permits(&self, address: SocketAddr, what: SocketAddrUse) -> bool {
        let policy = &self.network.policy;
        let ip = address.ip();
        match what {
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                // Without a port it is what a connecting socket gets from the kernel.
                let is_implicit = ip.is_unspecified() && address.port() == 0;
                policy.is_host() || policy.is_own(ip) || is_implicit
            }
            SocketAddrUse::TcpListen => {
                let is_own = policy.is_host() || policy.is_own(ip);
                if is_own && !self.is_listening.swap(true, Ordering::Relaxed) {
                    self.network.listeners.fetch_add(1, Ordering::Relaxed);
                }
                is_own
            }
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => {
                let is_open = policy.destination(ip) == Ok(ip);
                if is_open && self.is_outside() {
                    self.note_caller(address);
                }
                is_open || self.has_called(address)
            }
            SocketAddrUse::TcpAccept => self.hears(ip) && self.admits(),
            // Its port is open to the machine's network, which is none of the guest's business.
            SocketAddrUse::UdpReceive if self.is_outside() => self.has_called(address),
            SocketAddrUse::UdpReceive => {
                let is_heard = self.hears(ip);
                if is_heard && policy.destination(ip) != Ok(ip) {
                    self.note_caller(address);
                }
                is_heard
            }
        }
    }

    fn hears(&self, ip: IpAddr) -> bool {
        let policy = &self.network.policy;
        policy.is_host() || self.bound() != Bound::Localhost || policy.is_own(ip)
    }

    /// Wasmtime hands its clients over by itself: each takes its place when it comes.
    pub fn expect_clients(&self) {
        lock(&self.clients).get_or_insert_default();
    }

    /// The next of them.
    pub fn next_client(&self) -> Option<Arc<Self>> {
        lock(&self.clients).as_mut()?.pop_front()
    }

    fn admits(&self) -> bool {
        let mut clients = lock(&self.clients);
        let Some(clients) = clients.as_mut() else {
            return true;
        };
        let client = self.accepted();
        let is_admitted = client.is_some();
        clients.extend(client);
        is_admitted
    }

    fn has_called(&self, address: SocketAddr) -> bool {
        lock(&self.callers).contains(&address)
    }

    fn note_caller(&self, address: SocketAddr) {
        let mut callers = lock(&self.callers);
        if callers.contains(&address) {
            return;
        }
        if callers.len() >= CALLERS {
            callers.pop_front();
        }
        callers.push_back(address);
    }

    /// What the guest has bound it to.
    pub fn bound(&self) -> Bound {
        *lock(&self.bound)
    }

    /// It is bound now.
    pub fn set_bound(&self, bound: Bound) {
        *lock(&self.bound) = bound;
        if bound == Bound::Localhost {
            self.says_localhost.store(true, Ordering::Relaxed);
        }
    }

    /// It has the machine's address now.
    pub fn set_outside(&self) {
        self.is_outside.store(true, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Waits until it does.
    pub fn moved(&self) -> impl Future<Output = ()> {
        self.moved.notified()
    }

    fn is_outside(&self) -> bool {
        self.is_outside.load(Ordering::Relaxed)
    }

    /// A datagram has left.
    pub fn set_used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// The numbers of a UDP socket, and of its streams once it has them.
    pub fn streams(&self) -> Option<[u32; 3]> {
        *lock(&self.streams)
    }

    /// See [`Socket::streams`].
    pub fn set_streams(&self, numbers: [u32; 3]) {
        *lock(&self.streams) = Some(numbers);
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.is_ipv4
    }

    /// Its family, in the words of WASI.
    pub fn family(&self) -> IpAddressFamily {
        if self.is_ipv4 {
            IpAddressFamily::Ipv4
        } else {
            IpAddressFamily::Ipv6
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if *self.is_listening.get_mut() {
            self.network.listeners.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol;
    use crate::traffic::Shared;
    use std::sync::OnceLock;
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::Semaphore;

    fn network(addresses: &[&str]) -> Arc<Network> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let runtime =
            RUNTIME.get_or_init(|| Builder::new_current_thread().build().expect("runtime"));
        let clients = Arc::new(Semaphore::new(1));
        let shared = Shared::new(1, &clients, runtime.handle().clone());
        let spec = protocol::Network {
            addresses: addresses
                .iter()
                .map(|it| it.parse().expect("address"))
                .collect(),
            host: false,
            hosts: String::new(),
            resolv_conf: String::new(),
        };
        Network::new(spec, &shared)
    }

    pub fn socket(addresses: &[&str], is_ipv4: bool) -> Arc<Socket> {
        let network = network(addresses);
        let place = network.room.try_take().expect("place");
        Socket::new(&network, is_ipv4, place)
    }

    pub fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn who_listens_on_localhost_hears_the_pod_alone() {
        let socket = socket(&["10.244.0.5"], true);
        let (own, other) = (at("10.244.0.5:1"), at("10.244.0.6:1"));
        for what in [SocketAddrUse::TcpAccept, SocketAddrUse::UdpReceive] {
            socket.set_bound(Bound::Any);
            assert!(socket.permits(own, what) && socket.permits(other, what));
            socket.set_bound(Bound::Localhost);
            assert!(socket.permits(own, what) && !socket.permits(other, what));
        }
    }

    #[test]
    fn clients_that_come_by_themselves_take_their_place_at_once() {
        let listener = socket(&["10.244.0.5"], true);
        let client = at("10.244.0.6:1");
        assert!(listener.permits(client, SocketAddrUse::TcpAccept));
        assert!(listener.next_client().is_none(), "its guest accepts them");
        listener.expect_clients();
        assert!(listener.permits(client, SocketAddrUse::TcpAccept));
        // There is room for one.
        assert!(!listener.permits(client, SocketAddrUse::TcpAccept));
        drop(listener.next_client().expect("a client"));
        assert!(listener.next_client().is_none());
        assert!(listener.permits(client, SocketAddrUse::TcpAccept));
    }

    #[test]
    fn only_callers_from_closed_addresses_are_answered_and_so_many() {
        let socket = socket(&["127.88.0.1"], true);
        let caller = at("127.0.0.1:53");
        assert!(!socket.permits(caller, SocketAddrUse::UdpSend));
        assert!(socket.permits(caller, SocketAddrUse::UdpReceive));
        assert!(socket.permits(caller, SocketAddrUse::UdpSend));
        assert_eq!(socket.destination(caller).ok(), Some(caller));
        assert!(!socket.permits(at("127.0.0.1:54"), SocketAddrUse::UdpSend));
        for port in 1000..1000 + CALLERS as u16 {
            let other = SocketAddr::new(caller.ip(), port);
            assert!(socket.permits(other, SocketAddrUse::UdpReceive));
        }
        assert!(!socket.permits(caller, SocketAddrUse::UdpSend));
        assert_eq!(socket.destination(caller).ok(), Some(at("127.88.0.1:53")));
    }
}
