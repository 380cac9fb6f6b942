//! Names, by the pod's own hosts file and resolv.conf.

use crate::traffic::policy::Policy;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::time::Duration;

/// What glibc reads of a resolv.conf.
const MOST_SERVERS: usize = 3;

/// Answers that one container keeps, each for its time to live.
const CACHED: u64 = 64;

/// How long a name that is not there may be kept.
const NEGATIVE: Duration = Duration::from_secs(5);

const DNS_PORT: u16 = 53;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is no name.
    Invalid,
    /// There is none, or it has no addresses.
    NotFound,
    /// No server answered.
    Timeout,
    /// The servers answered with this code, or could not be asked.
    Failed(String),
}

impl NameError {
    /// Whether it may be otherwise the next time.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Failed(why) => why == "SERVFAIL",
            Self::Invalid | Self::NotFound => false,
        }
    }
}

/// A pod's names. The resolver is made by the first that asks for one.
pub struct Names {
    hosts: Box<str>,
    resolv_conf: Box<str>,
    resolver: OnceLock<Option<TokioResolver>>,
}

impl Names {
    /// By the content of both files.
    pub fn new(hosts: String, resolv_conf: String) -> Self {
        Self {
            hosts: hosts.into(),
            resolv_conf: resolv_conf.into(),
            resolver: OnceLock::new(),
        }
    }

    /// A name's addresses, IPv4 first. An address is its own.
    pub async fn look_up(&self, name: &str, policy: &Policy) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let known = in_hosts(&self.hosts, name);
        if !known.is_empty() {
            return Ok(known);
        }
        if is_localhost(name) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let Ok(name) = Name::from_utf8(name) else {
            return Err(NameError::Invalid);
        };
        if name.num_labels() == 0 {
            return Err(NameError::Invalid);
        }
        let resolver = self.resolver.get_or_init(|| {
            let file = ResolvConf::parse(&self.resolv_conf);
            file.resolver(policy)
        });
        let Some(resolver) = resolver else {
            return Err(NameError::Failed("no name server".to_owned()));
        };
        let found = resolver.lookup_ip(name).await.map_err(|it| failure(&it))?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() {
            return Err(NameError::NotFound);
        }
        Ok(addresses)
    }
}

fn failure(error: &NetError) -> NameError {
    match error {
        NetError::Timeout => NameError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => NameError::NotFound,
            code => NameError::Failed(spelled(code)),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => NameError::Failed(spelled(*code)),
        error => NameError::Failed(error.to_string()),
    }
}

/// As DNS tools spell it.
fn spelled(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        code => format!("{code:?}").to_uppercase(),
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The addresses that a hosts file has for a name, in its order.
fn in_hosts(file: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in file.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|it| it.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// What counts of a resolv.conf.
#[derive(Debug, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<SocketAddr>,
    search: Vec<Name>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
    rotate: bool,
    tcp_only: bool,
}

impl ResolvConf {
    /// As resolv.conf(5); what cannot be understood is passed over. A server may have a port, `[ADDRESS]:PORT`.
    fn parse(file: &str) -> Self {
        let mut this = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp_only: false,
        };
        for line in file.lines() {
            let mut words = line
                .split(['#', ';'])
                .next()
                .unwrap_or("")
                .split_whitespace();
            match words.next() {
                Some("nameserver") if this.servers.len() < MOST_SERVERS => {
                    this.servers.extend(words.next().and_then(server));
                }
                Some("search" | "domain") => {
                    this.search = words.filter_map(|it| Name::from_utf8(it).ok()).collect();
                }
                Some("options") => words.for_each(|it| this.option(it)),
                _ => {}
            }
        }
        this
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = |most: usize| value.parse().ok().map(|it: usize| it.min(most));
        match name {
            "ndots" => self.ndots = number(15).unwrap_or(self.ndots),
            "attempts" => self.attempts = number(5).unwrap_or(self.attempts).max(1),
            "timeout" => {
                let seconds = number(30).unwrap_or(5).max(1);
                self.timeout = Duration::from_secs(seconds as u64);
            }
            "rotate" => self.rotate = true,
            "use-vc" => self.tcp_only = true,
            _ => {}
        }
    }

    /// `None` without servers.
    fn resolver(&self, policy: &Policy) -> Option<TokioResolver> {
        if self.servers.is_empty() {
            return None;
        }
        let connection = |mut connection: ConnectionConfig, server: &SocketAddr| {
            connection.port = server.port();
            connection.bind_addr = policy.source(server.ip()).map(|it| (it, 0).into());
            connection
        };
        let servers = self.servers.iter().map(|server| {
            let mut ways = vec![connection(ConnectionConfig::tcp(), server)];
            if !self.tcp_only {
                ways.insert(0, connection(ConnectionConfig::udp(), server));
            }
            NameServerConfig::new(server.ip(), true, ways)
        });
        let config = ResolverConfig::from_parts(None, self.search.clone(), servers.collect());
        let mut options = ResolverOpts::default();
        options.ndots = self.ndots;
        options.timeout = self.timeout;
        options.attempts = self.attempts;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = CACHED;
        options.negative_max_ttl = Some(NEGATIVE);
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = if self.rotate {
            ServerOrderingStrategy::RoundRobin
        } else {
            ServerOrderingStrategy::UserProvidedOrder
        };
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .inspect_err(|error| tracing::warn!(%error, "resolver failed to be made"))
            .ok()
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = IpAddr::from_str(word) {
        return Some((address, DNS_PORT).into());
    }
    let (address, port) = word.strip_prefix('[')?.split_once("]:")?;
    Some((IpAddr::from_str(address).ok()?, port.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_manual_says() {
        let file = "# made by hand\nnameserver 10.0.0.10\nnameserver [127.0.0.1]:5300 ; here\nnameserver x\n\
            nameserver fd00::a\nnameserver 10.0.0.11\nsearch a.test\nsearch b.test c.test # last\n\
            options ndots:5 timeout:2 attempts:9 rotate nonsense:1\n";
        let read = ResolvConf::parse(file);
        let servers: Vec<SocketAddr> = ["10.0.0.10:53", "127.0.0.1:5300", "[fd00::a]:53"]
            .map(|it| it.parse().expect("address"))
            .into();
        assert_eq!(read.servers, servers);
        let search: Vec<String> = read.search.iter().map(Name::to_string).collect();
        assert_eq!(search, ["b.test", "c.test"]);
        assert_eq!((read.ndots, read.attempts, read.rotate), (5, 5, true));
        assert_eq!(read.timeout, Duration::from_secs(2));
    }

    #[test]
    fn a_hosts_file_knows_names_in_any_case() {
        let file = "# c\n127.0.0.1\tlocalhost\n10.1.2.3 Db.test db # db.no\nx y\n10.1.2.4 DB\n";
        let ip = |text: &str| -> IpAddr { text.parse().expect("address") };
        assert_eq!(in_hosts(file, "db"), [ip("10.1.2.3"), ip("10.1.2.4")]);
        assert_eq!(in_hosts(file, "DB.TEST."), [ip("10.1.2.3")]);
        assert!(in_hosts(file, "db.no").is_empty() && in_hosts(file, "").is_empty());
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(file in "[ -~\n\\[\\]:;#]{0,200}", name in "\\PC{0,30}") {
            ResolvConf::parse(&file);
            in_hosts(&file, &name);
            is_localhost(&name);
        }
    }
}
