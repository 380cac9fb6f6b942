//! Where a guest may go, and as whom. Pure.
//!
//! A guest's localhost is its pod's own address: containers of one pod meet there, other pods and the machine's own
//! loopback do not. Pods of the host's network see the machine's loopback, as with a Linux container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of pods that run without a cluster: 127.88.0.0/16.
const POD_LOOPBACK: [u8; 2] = [127, 88];

/// Metadata and management services of clouds beside link-local ones, which give credentials to whoever asks.
const METADATA: [IpAddr; 4] = [
    // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // EC2
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Google Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why a guest does not come to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is closed to guests.
    Prohibited,
    /// The pod has no address of that family.
    Unreachable,
}

/// One pod's policy.
#[derive(Clone, Debug)]
pub struct Policy {
    own: Vec<IpAddr>,
    is_host: bool,
}

impl Policy {
    /// Of a pod with these addresses, one of each family; or of one in the host's network.
    pub fn new(own: Vec<IpAddr>, is_host: bool) -> Self {
        Self { own, is_host }
    }

    /// Whether the pod is in the host's own network.
    pub fn is_host(&self) -> bool {
        self.is_host
    }

    /// Where a guest comes to that asks for `to`.
    pub fn destination(&self, to: IpAddr) -> Result<IpAddr, Refusal> {
        let to = to.to_canonical();
        if !self.is_host && is_localhost(to) {
            return self.own(to).ok_or(Refusal::Unreachable);
        }
        if self.is_open(to) && embedded(to).is_none_or(|it| self.is_open(IpAddr::V4(it))) {
            Ok(to)
        } else {
            Err(Refusal::Prohibited)
        }
    }

    fn is_open(&self, to: IpAddr) -> bool {
        if is_nowhere(to) || is_link_local(to) || METADATA.contains(&to) {
            return false;
        }
        !to.is_loopback() || self.is_host || self.is_own(to) || self.is_neighbour(to)
    }

    /// A pod of the same agent, where pods have loopback addresses.
    fn is_neighbour(&self, to: IpAddr) -> bool {
        is_pod_loopback(to) && self.own.iter().copied().any(is_pod_loopback)
    }

    /// The address to come from; `None` leaves it to the kernel, since a loopback address leads nowhere else.
    pub fn source(&self, to: IpAddr) -> Option<IpAddr> {
        if self.is_host {
            return None;
        }
        self.own(to)
            .filter(|own| to.is_loopback() || !own.is_loopback())
    }

    /// The pod's address of the same family.
    pub fn own(&self, like: IpAddr) -> Option<IpAddr> {
        (self.own.iter().copied()).find(|own| own.is_ipv4() == like.is_ipv4())
    }

    /// Whether it is one of the pod's addresses.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address.to_canonical())
    }
}

/// 127.0.0.1 or ::1
pub fn is_localhost(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

fn is_pod_loopback(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(it) if it.octets()[..2] == POD_LOOPBACK)
}

/// No single machine: unspecified, multicast, broadcast, the IPv4 network 0.
fn is_nowhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => it.octets()[0] == 0 || it.is_multicast() || it.is_broadcast(),
        IpAddr::V6(it) => it.is_unspecified() || it.is_multicast(),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => it.is_link_local(),
        IpAddr::V6(it) => it.is_unicast_link_local(),
    }
}

/// The IPv4 address that a gateway, or the kernel, finds in an IPv6 address: compatible, NAT64, 6to4.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let (high, low) = match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] if g != 0 => (g, h),
        [0x64, 0xff9b, 0, 0, 0, 0] => (g, h),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn policy(own: &[&str]) -> Policy {
        Policy::new(own.iter().map(|it| ip(it)).collect(), false)
    }

    const CLOSED: [&str; 26] = [
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "127.0.0.2",
        "127.0.0.53",
        "127.255.255.255",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:127.0.0.2",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "::127.0.0.1",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::127.0.0.1",
        "2002:a9fe:a9fe::1",
    ];

    #[test]
    fn what_is_closed_is_closed_in_every_form() {
        for pod in [
            policy(&["10.244.0.5", "fd00:1::5"]),
            policy(&["127.88.0.1"]),
        ] {
            for closed in CLOSED {
                let refused = pod.destination(ip(closed));
                assert_eq!(refused, Err(Refusal::Prohibited), "{closed}");
            }
        }
    }

    #[test]
    fn the_rest_is_open() {
        let pod = policy(&["10.244.0.5"]);
        for open in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(pod.destination(ip(open)), Ok(ip(open)), "{open}");
        }
        assert_eq!(pod.destination(ip("::ffff:8.8.8.8")), Ok(ip("8.8.8.8")));
    }

    #[test]
    fn localhost_is_the_pods_own() {
        let pod = policy(&["10.244.0.5"]);
        assert_eq!(pod.destination(ip("127.0.0.1")), Ok(ip("10.244.0.5")));
        assert_eq!(
            pod.destination(ip("::ffff:127.0.0.1")),
            Ok(ip("10.244.0.5"))
        );
        assert_eq!(pod.destination(ip("::1")), Err(Refusal::Unreachable));
        let pod = policy(&["10.244.0.5", "fd00:1::5"]);
        assert_eq!(pod.destination(ip("::1")), Ok(ip("fd00:1::5")));
    }

    #[test]
    fn pods_without_a_cluster_reach_each_other_and_no_other_loopback() {
        let pod = policy(&["127.88.0.1"]);
        assert_eq!(pod.destination(ip("127.0.0.1")), Ok(ip("127.88.0.1")));
        assert_eq!(pod.destination(ip("127.88.3.4")), Ok(ip("127.88.3.4")));
        assert!(pod.destination(ip("127.89.0.1")).is_err());
        assert!(policy(&["10.0.0.5"]).destination(ip("127.88.3.4")).is_err());
    }

    #[test]
    fn sockets_come_from_the_pods_address_where_it_leads() {
        let pod = policy(&["10.244.0.5"]);
        assert_eq!(pod.source(ip("8.8.8.8")), Some(ip("10.244.0.5")));
        assert_eq!(pod.source(ip("2001:db8::1")), None);
        let pod = policy(&["127.88.0.1"]);
        assert_eq!(pod.source(ip("127.88.0.2")), Some(ip("127.88.0.1")));
        assert_eq!(pod.source(ip("8.8.8.8")), None);
    }

    #[test]
    fn the_hosts_network_has_the_hosts_loopback_and_no_metadata() {
        let pod = Policy::new(vec![ip("192.168.1.2")], true);
        assert_eq!(pod.destination(ip("127.0.0.1")), Ok(ip("127.0.0.1")));
        assert_eq!(pod.destination(ip("127.0.0.53")), Ok(ip("127.0.0.53")));
        assert!(pod.destination(ip("169.254.169.254")).is_err());
        assert_eq!(pod.source(ip("8.8.8.8")), None);
    }

    proptest! {
        /// Nothing that a guest says leads to the node's loopback or a link.
        #[test]
        fn no_form_leads_to_the_nodes_own(bits in any::<u128>(), four in any::<u32>(), form in 0..6) {
            let four_bits = u128::from(four);
            let address = match form {
                0 => IpAddr::V4(Ipv4Addr::from_bits(four)),
                1 => Ipv6Addr::from_bits(0xffff_0000_0000 | four_bits).into(),
                2 => Ipv6Addr::from_bits(four_bits).into(),
                3 => Ipv4Addr::from_bits(127 << 24 | four & 0xff_ffff).into(),
                4 => Ipv4Addr::from_bits(0xa9fe_0000 | four & 0xffff).into(),
                _ => Ipv6Addr::from_bits(bits).into(),
            };
            if let Ok(there) = policy(&["10.244.0.5"]).destination(address) {
                prop_assert!(!there.is_loopback() && !is_link_local(there) && !is_nowhere(there));
                prop_assert_eq!(there, there.to_canonical());
            }
        }
    }
}
