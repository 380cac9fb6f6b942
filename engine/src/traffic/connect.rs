//! From a name to a connection: its addresses, those that are open to the guest, the first that answers.

use crate::traffic::Network;
use crate::traffic::names::NameError;
use crate::traffic::policy::{Policy, Refusal};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

/// How long one address is tried before the next one is, too (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// What a server says by ALPN that speaks HTTP/2.
pub const HTTP2: &[u8] = b"h2";

/// What a request goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Whether by TLS.
    pub is_secure: bool,
    /// A name, or an address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

impl Target {
    /// From a whole URI.
    pub fn of(uri: &hyper::Uri) -> Result<Self, Error> {
        let is_secure = uri.scheme_str() == Some("https");
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = authority.host();
        // Whatever is before an @ would go nowhere, and deceive who reads it.
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let unbracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let port = match authority.port_u16() {
            Some(port) => port,
            // What follows the host is no port.
            None if authority.as_str() != host => return Err(Error::HttpRequestUriInvalid),
            None if is_secure => 443,
            None => 80,
        };
        Ok(Self {
            is_secure,
            host: unbracketed.unwrap_or(host).to_ascii_lowercase().into(),
            port,
        })
    }
}

/// Connects by TCP, to none but addresses that the policy opens to the guest.
pub async fn tcp(network: &Network, target: &Target) -> Result<TcpStream, Error> {
    let named = network.names.look_up(&target.host, &network.policy).await;
    let mut open = Vec::new();
    let mut refusal = Error::DnsError {
        rcode: None,
        info_code: None,
    };
    for address in named.map_err(unnamed)? {
        match network.policy.destination(address) {
            Ok(address) if open.contains(&address) => {}
            Ok(address) => open.push(address),
            Err(Refusal::Prohibited) => refusal = Error::DestinationIpProhibited,
            Err(Refusal::Unreachable) => refusal = Error::DestinationIpUnroutable,
        }
    }
    open.truncate(MOST_ADDRESSES);
    if open.is_empty() {
        return Err(refusal);
    }
    first(&network.policy, &open, target.port)
        .await
        .map_err(|error| unconnected(&error))
}

/// TLS on a connection.
pub async fn tls(
    network: &Network,
    target: &Target,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Error> {
    let connector = TlsConnector::from(network.shared.trust.config().await?);
    let name =
        ServerName::try_from(target.host.to_string()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| unsecured(&error))
}

/// The first that connects; a later one begins when those before it are slow, or have failed.
async fn first(policy: &Policy, addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut rest = addresses.iter();
    let mut tried = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match rest.next() {
            Some(&address) => tried.push(open(policy, (address, port).into())),
            None if tried.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            biased;
            Some(done) = tried.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            },
            () = tokio::time::sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

/// Connects to an address that the policy has given, from the pod's own.
async fn open(policy: &Policy, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(own) = policy.source(address.ip()) {
        socket.bind((own, 0).into())?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unnamed(error: NameError) -> Error {
    let code = |rcode: &str| Error::DnsError {
        rcode: Some(rcode.to_owned()),
        info_code: None,
    };
    match error {
        NameError::Invalid => Error::HttpRequestUriInvalid,
        NameError::Timeout => Error::DnsTimeout,
        NameError::NotFound => code("NXDOMAIN"),
        NameError::Failed(why) => code(&why),
    }
}

fn unconnected(error: &io::Error) -> Error {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => Error::ConnectionRefused,
        Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => Error::ConnectionTerminated,
        Some(Errno::TIMEDOUT) => Error::ConnectionTimeout,
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::AFNOSUPPORT) => {
            Error::DestinationIpUnroutable
        }
        // A firewall's word.
        Some(Errno::ACCESS | Errno::PERM) => Error::DestinationIpProhibited,
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => {
            Error::ConnectionLimitReached
        }
        _ => Error::DestinationUnavailable,
    }
}

fn unsecured(error: &io::Error) -> Error {
    let Some(why) = (error.get_ref()).and_then(|it| it.downcast_ref::<rustls::Error>()) else {
        return Error::ConnectionTerminated;
    };
    match why {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Error::TlsCertificateError
        }
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

/// A connection's first steps, on the threads that wait for sockets.
pub async fn on_threads<T: Send + 'static>(
    network: &Arc<Network>,
    steps: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let task = crate::meter::Owned::new(network.shared.threads.spawn(steps));
    task.await.unwrap_or(Err(Error::InternalError(None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<Target, Error> {
        Target::of(&uri.parse().expect("URI"))
    }

    #[test]
    fn targets_are_what_uris_say() {
        let found = |uri| target(uri).map(|it| (it.is_secure, it.host.to_string(), it.port));
        assert!(matches!(found("http://A.test/x"), Ok((false, host, 80)) if host == "a.test"));
        assert!(matches!(found("https://a.test"), Ok((true, _, 443))));
        assert!(matches!(found("http://[::1]:81/"), Ok((false, host, 81)) if host == "::1"));
        for wrong in ["/x", "http://a@b/", "http://a:99999/", "http://:80/"] {
            let parsed = wrong.parse::<hyper::Uri>();
            assert!(parsed.is_err() || target(wrong).is_err(), "{wrong}");
        }
    }
}
