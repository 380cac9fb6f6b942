//! One connection: HTTP/1.1 or HTTP/2 with prior knowledge, told apart by its first bytes; what a client may send, and how
//! long it may take.

use crate::http::exchange::Exchange;
use crate::http::listen::Place;
use crate::http::{Phase, Server};
use crate::sync::lock;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a request's head may take, and a connection without requests may stay.
const HEAD: Duration = Duration::from_secs(30);

/// How often a connection is looked at, at most.
const LOOK: Duration = Duration::from_millis(100);

/// What a head may have in bytes; more is answered with 431.
const HEAD_BYTES: usize = 64 * 1024;

/// What HTTP/2 heads may have, unpacked.
const HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Of one HTTP/2 request's body, and of those of one connection, this much may wait here for its guest. Twice what a segment
/// has on the loopback device: with less a client without TCP_NODELAY has the window's rest wait for the kernel's late
/// acknowledgement, 40 ms for each window.
const WINDOWS: (u32, u32) = (128 * 1024, 256 * 1024);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Streams that a client has opened and reset before they were looked at; more end its connection.
const RESETS: usize = 20;

/// How often a silent HTTP/2 client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

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
        .max_local_error_reset_streams(RESETS)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_send_buf_size(HEAD_BYTES)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Who is at the other end.
pub struct Client {
    /// Where it found us; what a request of HTTP/1.0 may leave open.
    pub here: Option<SocketAddr>,
    /// Where it is.
    pub there: Option<SocketAddr>,
    asked: AtomicU64,
    open: Mutex<Vec<Weak<Exchange>>>,
    /// `None` once the socket is closed, or may be.
    socket: Mutex<Option<RawFd>>,
}

impl Client {
    fn new(stream: &TcpStream) -> Self {
        Self {
            here: stream.local_addr().ok(),
            there: stream.peer_addr().ok(),
            asked: AtomicU64::new(0),
            open: Mutex::default(),
            socket: Mutex::new(Some(stream.as_raw_fd())),
        }
    }

    /// It has sent a request's head.
    pub fn note_request(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// It will be sent an answer by a guest.
    pub fn note_answer(&self, exchange: &Arc<Exchange>) {
        let mut open = lock(&self.open);
        open.retain(|it| it.upgrade().is_some_and(|it| !it.is_over()));
        open.push(Arc::downgrade(exchange));
    }

    /// Whether it has gone, also while bytes of it wait to be read; then nobody is told by reading.
    pub fn is_gone(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let socket = lock(&self.socket);
        let Some(descriptor) = *socket else {
            return true;
        };
        // SAFETY: the connection, which owns the socket, takes the descriptor away from here before it closes it, and
        // has to wait for the lock.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::RDHUP)];
        poll(&mut descriptors, Some(&now)).is_ok() && descriptors[0].revents().intersects(gone)
    }

    /// Whether it does not take an answer within the time that a guest has for a part of it.
    fn is_stuck(&self, limit: Duration) -> bool {
        let is_late = |it: &Weak<Exchange>| {
            it.upgrade()
                .is_some_and(|it| !it.is_over() && it.deadline(limit) + limit <= Instant::now())
        };
        lock(&self.open).iter().any(is_late)
    }

    fn is_waiting(&self) -> bool {
        let is_open = |it: &Weak<Exchange>| it.upgrade().is_some_and(|it| !it.is_over());
        lock(&self.open).iter().any(is_open)
    }
}

/// Keeps the descriptor of a closed socket from being looked at.
struct Closing(Arc<Client>);

impl Drop for Closing {
    fn drop(&mut self) {
        *lock(&self.0.socket) = None;
    }
}

/// How long a connection has had nothing to do.
struct Idle {
    since: Instant,
    asked: u64,
}

impl Idle {
    fn look(&mut self, client: &Client) -> Duration {
        let asked = client.asked.load(Ordering::Relaxed);
        if asked != self.asked || client.is_waiting() {
            *self = Self {
                since: Instant::now(),
                asked,
            };
        }
        self.since.elapsed()
    }
}

impl Server {
    /// Serves one connection to its end.
    pub async fn connection(self: Arc<Self>, stream: TcpStream, _place: Place) {
        let mut phase = self.phase.subscribe();
        if *phase.borrow() >= Phase::Draining {
            phase.mark_changed();
        }
        // Answers are written whole; waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let client = Arc::new(Client::new(&stream));
        let service = service_fn(|request| {
            client.note_request();
            let (server, client) = (Arc::clone(&self), Arc::clone(&client));
            async move { Ok::<_, Infallible>(server.answer(request, client).await) }
        });
        let limit = self.limit();
        let builder = builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // Dropped before the connection.
        let _closing = Closing(Arc::clone(&client));
        let every = limit.clamp(LOOK, HEAD);
        let mut look = std::pin::pin!(tokio::time::sleep(every));
        let mut idle = Idle {
            since: Instant::now(),
            asked: 0,
        };
        loop {
            tokio::select! {
                biased;
                changed = phase.changed() => match (changed, *phase.borrow()) {
                    (Err(_), _) | (_, Phase::Over) => return,
                    _ => connection.as_mut().graceful_shutdown(),
                },
                // A client that breaks off is no news.
                _ = connection.as_mut() => return,
                () = look.as_mut() => {
                    let unused = idle.look(&client);
                    if client.is_stuck(limit) || unused >= 2 * HEAD {
                        return;
                    }
                    if unused >= HEAD {
                        connection.as_mut().graceful_shutdown();
                    }
                    look.as_mut().reset(tokio::time::Instant::now() + every);
                }
            }
        }
    }
}
