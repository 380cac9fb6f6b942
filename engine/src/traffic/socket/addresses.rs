//! Between the addresses that a guest names and those that its socket really has.
//!
//! A guest's "any address" and its localhost are its pod's own address. Who listens on localhost hears the pod alone.

use super::{Bound, Socket};
use crate::traffic::policy::{Refusal, is_localhost};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use wasmtime_wasi::sockets::ErrorCode;

impl Socket {
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
    use super::super::tests::{at, socket};
    use super::*;
    use proptest::prelude::*;
    use wasmtime_wasi::sockets::SocketAddrUse;

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
