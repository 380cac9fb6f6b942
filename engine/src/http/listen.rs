//! Sockets and connections: HTTP/1.1 and HTTP/2 with prior knowledge, told apart by their first bytes.

use crate::http::{Parts, Phase, Server};
use crate::protocol::{Error, ErrorReason, Http};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long a request's head may take, and a connection without requests may stay.
const HEAD: Duration = Duration::from_secs(30);

/// What a head may have in bytes; more is answered with 431.
const HEAD_BYTES: usize = 64 * 1024;

/// What HTTP/2 heads may have, unpacked.
const HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Streams that a client has opened and reset before they were looked at; more end its connection.
const RESETS: usize = 20;

/// How often a silent HTTP/2 client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// The first and the longest wait after accept failed (no descriptors left, say).
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// One port may have a half of the engine's connections.
const PART: usize = 2;

/// Bounds connections: those of one engine, and those of each port.
#[derive(Clone)]
pub struct Connections {
    all: Arc<Semaphore>,
    each: usize,
}

impl Connections {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(most)),
            each: (most / PART).max(1),
        }
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

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_send_buf_size(HEAD_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

impl Server {
    /// Takes connections until the server drains.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut phase = self.phase.subscribe();
        let Connections { all, each } = self.parts.connections.clone();
        let each = Arc::new(Semaphore::new(each));
        let mut backoff = ACCEPT_BACKOFF.0;
        let accept = async {
            loop {
                // Closed by nobody. Without permits new connections wait in the backlog.
                let Ok(own) = Arc::clone(&each).acquire_owned().await else {
                    return;
                };
                let Ok(shared) = Arc::clone(&all).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        backoff = ACCEPT_BACKOFF.0;
                        tokio::spawn(Arc::clone(&self).connection(stream, [own, shared]));
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

    async fn connection(self: Arc<Self>, stream: TcpStream, _permits: [OwnedSemaphorePermit; 2]) {
        let mut phase = self.phase.subscribe();
        if *phase.borrow() >= Phase::Draining {
            phase.mark_changed();
        }
        // Answers are written whole; waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let has_asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_asked.store(true, Ordering::Relaxed);
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let builder = builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut first = std::pin::pin!(tokio::time::sleep(HEAD));
        let mut is_checked = false;
        loop {
            tokio::select! {
                biased;
                changed = phase.changed() => match (changed, *phase.borrow()) {
                    (Err(_), _) | (_, Phase::Over) => return,
                    _ => connection.as_mut().graceful_shutdown(),
                },
                // A client that breaks off is no news.
                _ = connection.as_mut() => return,
                // Hyper's own clock starts with the first bytes.
                () = first.as_mut(), if !is_checked => {
                    is_checked = true;
                    if !has_asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}
