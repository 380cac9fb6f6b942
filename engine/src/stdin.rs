//! A guest's stdin: a bounded pipe from one client at a time to the guest.

use crate::log::Log;
use crate::sync::lock;
use bytes::{Buf as _, Bytes, BytesMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

/// As much as a Linux pipe holds.
const CAPACITY: usize = 64 * 1024;

/// The pipe.
#[derive(Default)]
pub struct Stdin {
    pipe: Mutex<Pipe>,
    /// Bytes or the end came.
    readable: Notify,
    /// Bytes were taken, or nobody will take any.
    writable: Notify,
    /// Whether a terminal is behind it.
    terminal: bool,
}

#[derive(Default)]
struct Pipe {
    bytes: BytesMut,
    /// Nothing follows `bytes`.
    closed: bool,
    /// A client writes.
    held: bool,
}

/// Why a client cannot have the stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It was closed, by an end of file or by the guest's end.
    Closed,
    /// Another client holds it.
    Held,
}

/// A client's hold on a stdin; let go when dropped.
pub struct Hold {
    stdin: Arc<Stdin>,
    /// The end of this client's bytes is the guest's end of file.
    once: bool,
}

impl Stdin {
    /// An open one.
    pub fn new(terminal: bool) -> Self {
        Self {
            terminal,
            ..Self::default()
        }
    }

    /// Makes the caller the one client.
    pub fn hold(self: &Arc<Self>, once: bool) -> Result<Hold, Unavailable> {
        let mut pipe = lock(&self.pipe);
        if pipe.closed {
            return Err(Unavailable::Closed);
        }
        if pipe.held {
            return Err(Unavailable::Held);
        }
        pipe.held = true;
        Ok(Hold {
            stdin: Arc::clone(self),
            once,
        })
    }

    /// Takes bytes of a client that has asked for [`Stdin::room`].
    pub fn push(&self, bytes: &[u8]) {
        lock(&self.pipe).bytes.extend_from_slice(bytes);
        self.readable.notify_waiters();
    }

    /// Takes bytes if there is room for all of them. Those that nobody will read are taken, too.
    pub fn try_push(&self, bytes: &[u8]) -> bool {
        let mut pipe = lock(&self.pipe);
        if pipe.closed || bytes.is_empty() {
            return true;
        }
        if pipe.bytes.len() + bytes.len() > CAPACITY {
            return false;
        }
        pipe.bytes.extend_from_slice(bytes);
        drop(pipe);
        self.readable.notify_waiters();
        true
    }

    /// Nothing follows what is there.
    pub fn end(&self) {
        lock(&self.pipe).closed = true;
        self.readable.notify_waiters();
        self.writable.notify_waiters();
    }

    /// The guest is over: nobody reads any more, clients are sent away.
    pub fn close(&self) {
        let mut pipe = lock(&self.pipe);
        pipe.closed = true;
        pipe.bytes = BytesMut::new();
        drop(pipe);
        self.readable.notify_waiters();
        self.writable.notify_waiters();
    }

    fn take(&self, size: usize) -> Result<Bytes, StreamError> {
        let mut pipe = lock(&self.pipe);
        if pipe.bytes.is_empty() {
            return if pipe.closed {
                Err(StreamError::Closed)
            } else {
                Ok(Bytes::new())
            };
        }
        let count = size.min(pipe.bytes.len());
        let taken = pipe.bytes.copy_to_bytes(count);
        if pipe.bytes.is_empty() {
            // An idle guest keeps no buffer.
            pipe.bytes = BytesMut::new();
        }
        drop(pipe);
        self.writable.notify_waiters();
        Ok(taken)
    }

    async fn wait_readable(&self) {
        loop {
            let readable = self.readable.notified();
            {
                let pipe = lock(&self.pipe);
                if pipe.closed || !pipe.bytes.is_empty() {
                    return;
                }
            }
            readable.await;
        }
    }

    /// How much the pipe takes now, waiting until it is something; `None` when nobody reads any more.
    pub async fn room(&self) -> Option<usize> {
        loop {
            let writable = self.writable.notified();
            {
                let pipe = lock(&self.pipe);
                if pipe.closed {
                    return None;
                }
                let room = CAPACITY - pipe.bytes.len().min(CAPACITY);
                if room > 0 {
                    return Some(room);
                }
            }
            writable.await;
        }
    }

    /// Returns when the guest is over.
    async fn closed(&self) {
        loop {
            let writable = self.writable.notified();
            if lock(&self.pipe).closed {
                return;
            }
            writable.await;
        }
    }
}

impl Hold {
    /// What is held.
    pub fn stdin(&self) -> &Stdin {
        &self.stdin
    }

    /// Moves the client's bytes to the guest until either side ends.
    pub async fn feed(self, mut client: impl AsyncRead + Unpin) {
        let mut chunk = BytesMut::new();
        while let Some(room) = self.stdin.room().await {
            chunk.reserve(room.min(16 * 1024));
            let mut limited = (&mut client).take(room as u64);
            let read = tokio::select! {
                read = limited.read_buf(&mut chunk) => read,
                () = self.stdin.closed() => return,
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    lock(&self.stdin.pipe).bytes.unsplit(chunk.split());
                    self.stdin.readable.notify_waiters();
                }
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut pipe = lock(&self.stdin.pipe);
        pipe.held = false;
        pipe.closed |= self.once;
        drop(pipe);
        self.stdin.readable.notify_waiters();
        self.stdin.writable.notify_waiters();
    }
}

/// The guest's end of the pipe.
#[derive(Clone)]
pub struct Input {
    stdin: Arc<Stdin>,
    /// Holds prompts back; an exec's output does not.
    log: Option<Arc<Log>>,
}

impl Input {
    /// What the guest reads; a read shows the prompt that `log` may hold back.
    pub fn new(stdin: &Arc<Stdin>, log: Option<&Arc<Log>>) -> Self {
        Self {
            stdin: Arc::clone(stdin),
            log: log.map(Arc::clone),
        }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.stdin.terminal
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Reader {
            input: self.clone(),
            waiting: None,
        })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        if let Some(log) = &self.log {
            log.flush_rests();
        }
        self.stdin.wait_readable().await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stdin.take(size)
    }

    /// The provided one gives up after ten wake-ups without bytes, which two streams of one stdin can cause.
    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        loop {
            self.ready().await;
            let bytes = self.read(size)?;
            if !bytes.is_empty() || size == 0 {
                return Ok(bytes);
            }
        }
    }
}

/// The same end of the pipe, as guests of WASI 0.3 read from it.
struct Reader {
    input: Input,
    /// Ends when there are bytes, or none will come.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.input.stdin.take(buffer.remaining()) {
                // Nothing is read from here: the end.
                Err(_) => return Poll::Ready(Ok(())),
                Ok(bytes) if !bytes.is_empty() || buffer.remaining() == 0 => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => {}
            }
            let waiting = this.waiting.get_or_insert_with(|| {
                if let Some(log) = &this.input.log {
                    log.flush_rests();
                }
                let stdin = Arc::clone(&this.input.stdin);
                Box::pin(async move { stdin.wait_readable().await })
            });
            std::task::ready!(waiting.as_mut().poll(context));
            this.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_at_a_time_and_once_is_once() {
        let stdin = Arc::new(Stdin::default());
        let first = stdin.hold(false).ok();
        assert_eq!(stdin.hold(false).err(), Some(Unavailable::Held));
        drop(first);
        drop(stdin.hold(true).ok());
        assert_eq!(stdin.hold(false).err(), Some(Unavailable::Closed));
    }

    #[tokio::test]
    async fn a_client_waits_for_a_slow_guest() {
        let stdin = Arc::new(Stdin::default());
        let (mut client, server) = tokio::io::duplex(1024);
        let Ok(hold) = stdin.hold(true) else {
            panic!("held")
        };
        let feed = tokio::spawn(hold.feed(server));
        let writer = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            client.write_all(&vec![7; 300_000]).await
        });
        let mut total = 0;
        loop {
            stdin.wait_readable().await;
            assert!(lock(&stdin.pipe).bytes.len() <= CAPACITY);
            match stdin.take(1000) {
                Ok(bytes) => total += bytes.len(),
                Err(_) => break,
            }
        }
        assert_eq!(total, 300_000);
        writer.await.expect("join").expect("write");
        feed.await.expect("join");
    }
}
