//! Requests that a guest sends by `wasi:http`.

use crate::memory::Memory;
use crate::meter::Owned;
use crate::traffic::Network;
use crate::traffic::connect::{self, Target};
use crate::traffic::heads;
use crate::traffic::letter::Letter;
use crate::traffic::pool::{self, Connection, Sender};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::error::Error as _;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, timeout, timeout_at};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Until a connection is there, names and TLS included, for a guest that says nothing.
const CONNECT: Duration = Duration::from_secs(30);

/// Until an answer begins, and between two parts of it: as wasmtime has it.
const ANSWER: Duration = Duration::from_secs(600);

/// What an answer's head may have in bytes, and what waits in the engine of a body that its guest does not read.
const BUFFER_BYTES: usize = 64 * 1024;

/// Of an HTTP/2 answer, and of those of one connection, this much may wait.
const WINDOWS: (u32, u32) = (128 * 1024, 1024 * 1024);

/// How often a silent HTTP/2 server is asked whether it is there, while it owes an answer.
const PING: Duration = Duration::from_secs(20);

/// A response, and what becomes of its connection.
type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

/// A guest's way out.
pub struct Outgoing {
    /// Without a network there is none.
    network: Option<Arc<Network>>,
    memory: Arc<Memory>,
}

impl Outgoing {
    /// By this network; what waits to be sent counts as the container's memory.
    pub fn new(network: Option<Arc<Network>>, memory: &Arc<Memory>) -> Self {
        let memory = Arc::clone(memory);
        Self { network, memory }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let Some(network) = self.network.clone() else {
            return Box::new(ready(Err(Error::HttpRequestDenied)));
        };
        // The guest has given it away, and may send as many as it has handles.
        let mut held = self.memory.hold();
        if let Err(error) = held.set(heads::bytes(request.headers())) {
            return Box::new(ready(Err(Error::InternalError(Some(error.to_string())))));
        }
        let times = Times::from(options.unwrap_or_default());
        Box::new(async move {
            let response = send(network, request, times).await?;
            drop(held);
            // Its connection has an owner already.
            let over: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(ready(Ok(())));
            Ok((response, over))
        })
    }

    /// Twice this much of an answer waits in the engine for a slow client.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        64 * 1024
    }

    /// The same for WASI 0.3.
    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        64 * 1024
    }
}

struct Times {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl From<RequestOptions> for Times {
    fn from(options: RequestOptions) -> Self {
        Self {
            connect: options.connect_timeout.unwrap_or(CONNECT),
            first_byte: options.first_byte_timeout.unwrap_or(ANSWER),
            between_bytes: options.between_bytes_timeout.unwrap_or(ANSWER),
        }
    }
}

async fn send(
    network: Arc<Network>,
    request: Request<WasiBody>,
    times: Times,
) -> Result<Response<WasiBody>, Error> {
    // A tunnel would carry what the policy does not see.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let target = Target::of(request.uri())?;
    let mut letter = Letter::new(request)?;
    loop {
        let kept = network.pool.take(&target);
        let is_kept = kept.is_some();
        let mut connection = match kept {
            Some(kept) => kept,
            None => new(&network, &target, times.connect).await?,
        };
        let is_shared = connection.is_shared();
        let request = letter.take(is_shared).ok_or(Error::ConnectionTerminated)?;
        let asked = timeout(times.first_byte, connection.send(request));
        let mut error = match asked.await.map_err(|_| Error::ConnectionReadTimeout)? {
            Ok(response) => {
                return Ok(response.map(|body| {
                    Answer::new(body, network, connection, times.between_bytes).boxed_unsync()
                }));
            }
            Err(error) => error,
        };
        // Its server has closed it, before it was sent or at the same time.
        match error.take_message() {
            Some(unsent) if is_kept => letter.give_back(unsent),
            _ => {
                let error = failure(error.into_error(), Error::ConnectionTerminated, is_shared);
                let is_over = matches!(error, Error::ConnectionTerminated);
                if !(is_kept && is_over && letter.renew()) {
                    return Err(error);
                }
            }
        }
    }
}

/// A new connection, in the place of one that waits if there is no other.
async fn new(
    network: &Arc<Network>,
    target: &Target,
    limit: Duration,
) -> Result<Connection, Error> {
    let deadline = Instant::now() + limit.min(ANSWER);
    let mut place = network.room.try_take();
    if place.is_none() && network.pool.drop_oldest() {
        place = network.room.try_take();
    }
    if place.is_none() {
        let waited = timeout_at(deadline, network.room.take()).await;
        place = waited.map_err(|_| Error::ConnectionLimitReached)?;
    }
    let place = place.ok_or(Error::ConnectionLimitReached)?;
    let (its, to) = (Arc::clone(network), target.clone());
    let steps = connect::on_threads(network, async move {
        let stream = connect::tcp(&its, &to).await?;
        if !to.is_secure {
            return shake_hands(stream).await;
        }
        let stream = connect::tls(&its, &to, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(connect::HTTP2) => shake_many_hands(stream).await,
            _ => shake_hands(stream).await,
        }
    });
    let steps = timeout_at(deadline, steps).await;
    let (sender, task) = steps.map_err(|_| Error::ConnectionTimeout)??;
    let connection = Connection::new(sender, target, task, place);
    pool::share(network, &connection);
    Ok(connection)
}

/// HTTP/1.1 on a connection, moved by a task of the present threads.
async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(Sender, Owned<()>), Error> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(error, Error::ConnectionTerminated, false))?;
    // What goes wrong is told to whoever sends or reads.
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((Sender::One(sender), Owned::new(task)))
}

/// HTTP/2 on a connection.
async fn shake_many_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(Sender, Owned<()>), Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(BUFFER_BYTES)
        .max_header_list_size(BUFFER_BYTES as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(error, Error::ConnectionTerminated, true))?;
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((Sender::Many(sender), Owned::new(task)))
}

/// What hyper says, in the words of `wasi:http`.
///
/// Of a shared connection it says little: the end of a request there is its server's will or the connection's end.
fn failure(error: hyper::Error, broken_off: Error, is_shared: bool) -> Error {
    if error.is_parse_too_large() {
        return Error::HttpResponseHeaderSectionSize(None);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return broken_off;
    }
    if error.is_timeout() {
        return Error::HttpResponseTimeout;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return broken_off;
        }
        // The guest's own body.
        if let Some(cause) = cause.downcast_ref::<Error>() {
            return match cause {
                Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
                cause => Error::InternalError(Some(cause.to_string())),
            };
        }
        source = cause.source();
    }
    if is_shared {
        broken_off
    } else {
        Error::HttpProtocolError
    }
}

/// An answer's body; its connection waits for another request when all of it is there, and ends when it is not read.
struct Answer {
    body: Incoming,
    network: Arc<Network>,
    connection: Option<Connection>,
    is_shared: bool,
    between_bytes: Duration,
    /// Runs while the next part is waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    fn new(
        body: Incoming,
        network: Arc<Network>,
        connection: Connection,
        between_bytes: Duration,
    ) -> Self {
        let mut this = Self {
            body,
            network,
            is_shared: connection.is_shared(),
            connection: Some(connection),
            between_bytes,
            late: None,
        };
        this.look_for_the_end();
        this
    }

    fn look_for_the_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            pool::give_back(&self.network, connection);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.late = None;
                this.look_for_the_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let is_shared = this.is_shared;
                this.connection = None;
                let error = failure(error, Error::HttpResponseIncomplete, is_shared);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                if let Some(connection) = this.connection.take() {
                    pool::give_back(&this.network, connection);
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                let limit = this.between_bytes.min(ANSWER);
                let late = (this.late).get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                std::task::ready!(late.as_mut().poll(context));
                this.connection = None;
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
