//! Sockets, and how many connections there may be.

use crate::http::{Parts, Phase, Server};
use crate::protocol::{Budget, Error, ErrorReason, Http};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The first and the longest wait after accept failed (no descriptors left, say).
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Connections that are told at once that there are too many; beyond these they are closed without a word.
const TURNED_AWAY: usize = 64;

/// How long it may take to tell them.
const TELL: Duration = Duration::from_millis(500);

/// What they are told.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 31\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\nthere are too many connections\n";

/// Bounds the connections of one engine.
///
/// A container may take another one while at least as many are free as it has: the first that is flooded gets a half,
/// the next one a quarter, and there is always something left for others.
#[derive(Clone)]
pub struct Connections {
    most: usize,
    free: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

/// One connection's place; given back when dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    server: Arc<Server>,
}

impl Connections {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
        }
    }

    /// How many there are, and may be.
    pub fn read(&self) -> Budget {
        Budget {
            used: self.most.saturating_sub(self.free.available_permits()) as u64,
            limit: self.most as u64,
        }
    }

    /// The free places.
    pub fn free(&self) -> &Arc<Semaphore> {
        &self.free
    }

    fn enter(&self, server: &Arc<Server>) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let others = server.connections.fetch_add(1, Ordering::Relaxed);
        // Dropped if it is one too many.
        let place = Place {
            _permit: permit,
            server: Arc::clone(server),
        };
        (others <= self.free.available_permits()).then_some(place)
    }

    /// Says that there are too many, to as many at once as that takes no room.
    fn turn_away(&self, stream: TcpStream) {
        if let Ok(permit) = Arc::clone(&self.turned_away).try_acquire_owned() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TELL, tell_too_many(stream)).await;
                drop(permit);
            });
        }
    }
}

/// What a client has sent is read first: closing over unread bytes would take the answer from it.
async fn tell_too_many(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let mut count = stream.read(&mut request).await?;
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await?;
    while count > 0 {
        count = stream.read(&mut request).await?;
    }
    Ok(())
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Listens on every port of the pod's addresses.
pub fn bind(parts: &Parts) -> Result<Vec<TcpListener>, Error> {
    // Sockets belong to the threads that wait for them.
    let _fast = parts.threads.fast.enter();
    let listen = |address: SocketAddr| {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        socket
            .and_then(|socket| {
                // An earlier container's closed connections are not in the way.
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                socket.listen(BACKLOG)
            })
            .map_err(|error| {
                let what = match error.kind() {
                    std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
                    _ => error.to_string(),
                };
                Error::new(
                    ErrorReason::Address,
                    format!("cannot listen on {address}: {what}"),
                )
            })
    };
    let Http {
        addresses, ports, ..
    } = &parts.settings;
    addresses
        .iter()
        .flat_map(|&address| {
            ports
                .iter()
                .map(move |&port| SocketAddr::new(address, port))
        })
        .map(listen)
        .collect()
}

impl Server {
    /// Takes connections until the server drains.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut phase = self.phase.subscribe();
        let mut backoff = ACCEPT_BACKOFF.0;
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        backoff = ACCEPT_BACKOFF.0;
                        match self.parts.connections.enter(&self) {
                            Some(place) => {
                                tokio::spawn(Arc::clone(&self).connection(stream, place));
                            }
                            None => self.parts.connections.turn_away(stream),
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(ACCEPT_BACKOFF.1);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            _ = phase.wait_for(|it| *it >= Phase::Draining) => {}
            () = accept => {}
        }
    }
}
