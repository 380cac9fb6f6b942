//! One socket of a guest: between the addresses that its guest names and those that it really has, and what it may do.
//!
//! A guest's "any address" and its localhost are its pod's own address. Who listens on localhost hears the pod alone.

use crate::sync::lock;
use crate::traffic::Network;
use crate::traffic::policy::{Refusal, is_localhost};
use crate::traffic::room::Place;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::sockets::{ErrorCode, SocketAddrUse, WasiSocketsCtx};
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

    /// Where to bind a socket that its guest binds to `asked`. What makes no sense stays so, and is refused by wasmtime.
    pub fn binding(&self, asked: SocketAddr) -> Result<(SocketAddr, Bound), ErrorCode> {
        let policy = &self.network.policy;
        let ip = asked.ip();
        if policy.is_host() || !self.fits(ip) || is_many(ip) {
            return Ok((asked, Bound::Own));
        }
        let bound = if ip.is_unspecified() && asked.port() == 0 {
            Bound::Whatever
        } else if ip.is_unspecified() {
            Bound::Any
        } else if is_localhost(ip) {
            Bound::Localhost
        } else if policy.is_own(ip) {
            Bound::Own
        } else {
            return Err(ErrorCode::AddressNotBindable);
        };
        let own = policy.own(ip).ok_or(ErrorCode::AddressNotBindable)?;
        Ok((with_ip(asked, own), bound))
    }

    /// Where something goes that its guest sends to `asked`. What is closed stays so, and is refused by the check.
    pub fn destination(&self, asked: SocketAddr) -> Result<SocketAddr, ErrorCode> {
        let policy = &self.network.policy;
        let ip = asked.ip();
        if policy.is_host() || !self.fits(ip) || self.has_called(asked) {
            return Ok(asked);
        }
        let there = match policy.destination(ip) {
            Ok(there) => there,
            Err(Refusal::Prohibited) => return Ok(asked),
            Err(Refusal::Unreachable) => return Err(ErrorCode::RemoteUnreachable),
        };
        if policy.is_own(there) {
            let says_localhost = is_localhost(ip);
            self.says_localhost.store(says_localhost, Ordering::Relaxed);
        }
        // What would be an invalid argument to the kernel: loopback addresses and others do not lead to each other.
        let is_bound = self.bound() != Bound::Nothing;
        if is_bound && self.is_outside() != policy.source(there).is_none() {
            return Err(ErrorCode::RemoteUnreachable);
        }
        Ok(with_ip(asked, there))
    }

    /// Whether it goes where its pod's address does not lead, and has not shown its own to anybody yet: then it gets the
    /// machine's, as those have that are not bound.
    pub fn has_to_move(&self, asked: SocketAddr) -> bool {
        let policy = &self.network.policy;
        let ip = asked.ip();
        self.bound() == Bound::Whatever
            && !self.is_outside()
            && !self.is_used.load(Ordering::Relaxed)
            && self.fits(ip)
            && policy.destination(ip) == Ok(ip)
            && policy.source(ip).is_none()
    }

    /// Where to bind it then.
    pub fn anywhere(&self) -> SocketAddr {
        (unspecified(self.is_ipv4), 0).into()
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

    /// The pod's address from which an unbound socket has to go there; `None` leaves it to the kernel.
    pub fn source(&self, there: SocketAddr) -> Option<SocketAddr> {
        let policy = &self.network.policy;
        let is_sensible = self.bound() == Bound::Nothing && self.fits(there.ip());
        if !is_sensible || there.port() == 0 || policy.destination(there.ip()) != Ok(there.ip()) {
            return None;
        }
        policy.source(there.ip()).map(|own| (own, 0).into())
    }

    /// A remote address as its guest calls it.
    pub fn shown(&self, real: SocketAddr) -> SocketAddr {
        let policy = &self.network.policy;
        let says_localhost = self.says_localhost.load(Ordering::Relaxed);
        if policy.is_host() || !says_localhost || !policy.is_own(real.ip()) {
            return real;
        }
        with_ip(real, like(real, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST))
    }

    /// Its local address as its guest calls it.
    pub fn shown_local(&self, real: SocketAddr, is_connected: bool) -> SocketAddr {
        if matches!(self.bound(), Bound::Any | Bound::Whatever) && !is_connected {
            let any = like(real, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
            return with_ip(real, any);
        }
        self.shown(real)
    }

    /// Whether its kind of socket takes the address. Wasmtime refuses IPv4 in IPv6, and so it stays.
    fn fits(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4 && ip.to_canonical() == ip
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if *self.is_listening.get_mut() {
            self.network.listeners.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// 0.0.0.0 or ::
pub fn unspecified(is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn is_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn like(address: SocketAddr, four: Ipv4Addr, six: Ipv6Addr) -> IpAddr {
    if address.is_ipv4() {
        four.into()
    } else {
        six.into()
    }
}

fn with_ip(mut address: SocketAddr, ip: IpAddr) -> SocketAddr {
    address.set_ip(ip);
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol;
    use crate::traffic::Shared;
    use proptest::prelude::*;
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

    fn socket(addresses: &[&str], is_ipv4: bool) -> Arc<Socket> {
        let network = network(addresses);
        let place = network.room.try_take().expect("place");
        Socket::new(&network, is_ipv4, place)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn addresses_go_there_and_back() {
        for (is_ipv4, own, localhost, any) in [
            (true, "10.244.0.5:80", "127.0.0.1:80", "0.0.0.0:80"),
            (false, "[fd00:1::5]:80", "[::1]:80", "[::]:80"),
        ] {
            let pod = ["10.244.0.5", "fd00:1::5"];
            for (asked, bound) in [
                (own, Bound::Own),
                (localhost, Bound::Localhost),
                (any, Bound::Any),
            ] {
                let socket = socket(&pod, is_ipv4);
                assert_eq!(socket.binding(at(asked)).ok(), Some((at(own), bound)));
                socket.set_bound(bound);
                assert_eq!(socket.shown_local(at(own), false), at(asked));
            }
            let client = socket(&pod, is_ipv4);
            for asked in [localhost, own] {
                assert_eq!(client.destination(at(asked)).ok(), Some(at(own)));
                assert_eq!(client.shown(at(own)), at(asked));
            }
        }
        let four = socket(&["10.244.0.5"], false);
        assert!(matches!(
            four.binding(at("[::]:80")),
            Err(ErrorCode::AddressNotBindable)
        ));
        assert!(matches!(
            four.destination(at("[::1]:80")),
            Err(ErrorCode::RemoteUnreachable)
        ));
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

    proptest! {
        /// Whatever a guest says: nothing is bound but the pod's addresses, and nothing closed is reached.
        #[test]
        fn nothing_closed_comes_through(bits in any::<u128>(), four in any::<u32>(), form in 0..5, port in any::<u16>()) {
            let ip: IpAddr = match form {
                0 => Ipv4Addr::from_bits(four).into(),
                1 => Ipv4Addr::from_bits(127 << 24 | four & 0xff_ffff).into(),
                2 => Ipv6Addr::from_bits(0xffff_0000_0000 | u128::from(four)).into(),
                3 => Ipv6Addr::from_bits(u128::from(four)).into(),
                _ => Ipv6Addr::from_bits(bits).into(),
            };
            let asked = SocketAddr::new(ip, port);
            for is_ipv4 in [true, false] {
                let socket = socket(&["10.244.0.5", "fd00:1::5"], is_ipv4);
                if let Ok((real, _)) = socket.binding(asked)
                    && socket.permits(real, SocketAddrUse::TcpBind)
                {
                    let is_implicit = real.ip().is_unspecified() && real.port() == 0;
                    prop_assert!(socket.network.policy.is_own(real.ip()) || is_implicit);
                }
                if let Ok(real) = socket.destination(asked)
                    && socket.permits(real, SocketAddrUse::TcpConnect)
                {
                    prop_assert!(!real.ip().is_loopback() && !real.ip().is_unspecified());
                    prop_assert_eq!(real.ip(), real.ip().to_canonical());
                }
            }
        }
    }
}
