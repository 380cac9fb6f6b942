//! The guest's end of an output stream, whatever takes what it writes: the container's log, or the client of an exec.

use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// As much as a Linux pipe holds; a guest whose framed output is this far ahead of its taker waits.
pub const AHEAD_BYTES: usize = 64 * 1024;

/// What a guest may write at once; a newline alone grows about 45-fold in CRI format, so this bounds the buffer.
const WRITE_BYTES: usize = 16 * 1024;

/// No guest that keeps to what it may write gets here; one with many handles that does not is ended.
const OVERFULL_BYTES: usize = 4 * 1024 * 1024;

/// What takes a guest's output into a bounded buffer.
pub trait Sink: Send + Sync + Sized + 'static {
    /// Tells its streams apart.
    type Stream: Copy + Send + Sync + Unpin + 'static;

    /// Takes the bytes; never blocks.
    fn put(self: &Arc<Self>, stream: Self::Stream, bytes: &[u8]);

    /// The framed bytes that nobody has taken away yet.
    fn held_bytes(&self) -> usize;

    /// Whether the guest may write now.
    fn has_room(&self) -> bool {
        self.held_bytes() < AHEAD_BYTES
    }

    /// Notified when there may be room again.
    fn room(&self) -> &Notify;

    /// Whether a terminal shows it.
    fn is_terminal(&self) -> bool;
}

/// The guest's end of one stream.
pub struct Output<S: Sink> {
    sink: Arc<S>,
    stream: S::Stream,
    /// What the last check lets the guest write.
    permit: usize,
}

impl<S: Sink> Output<S> {
    /// What the guest writes here goes to `sink`.
    pub fn new(sink: &Arc<S>, stream: S::Stream) -> Self {
        Self {
            sink: Arc::clone(sink),
            stream,
            permit: 0,
        }
    }
}

impl<S: Sink> Clone for Output<S> {
    fn clone(&self) -> Self {
        Self {
            sink: Arc::clone(&self.sink),
            stream: self.stream,
            permit: self.permit,
        }
    }
}

impl<S: Sink> IsTerminal for Output<S> {
    fn is_terminal(&self) -> bool {
        self.sink.is_terminal()
    }
}

impl<S: Sink> StdoutStream for Output<S> {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writer {
            sink: Arc::clone(&self.sink),
            stream: self.stream,
            waiting: None,
        })
    }
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> Pollable for Output<S> {
    async fn ready(&mut self) {
        wait_for_room(&*self.sink).await;
    }
}

impl<S: Sink> OutputStream for Output<S> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // As WASI demands; a guest that did not ask would fill the engine's memory.
        if bytes.len() > self.permit || self.sink.held_bytes() > OVERFULL_BYTES {
            return Err(StreamError::trap(
                "the guest writes more than the stream takes",
            ));
        }
        self.permit -= bytes.len();
        self.sink.put(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = if self.sink.has_room() { WRITE_BYTES } else { 0 };
        Ok(self.permit)
    }
}

async fn wait_for_room<S: Sink>(sink: &S) {
    loop {
        let room = sink.room().notified();
        if sink.has_room() {
            return;
        }
        room.await;
    }
}

/// The same end of a stream, as guests of WASI 0.3 write to it.
struct Writer<S: Sink> {
    sink: Arc<S>,
    stream: S::Stream,
    /// Ends when there is room.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<S: Sink> AsyncWrite for Writer<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        while !this.sink.has_room() {
            let waiting = this.waiting.get_or_insert_with(|| {
                let sink = Arc::clone(&this.sink);
                Box::pin(async move { wait_for_room(&*sink).await })
            });
            std::task::ready!(waiting.as_mut().poll(context));
            this.waiting = None;
        }
        let count = bytes.len().min(WRITE_BYTES);
        this.sink.put(this.stream, &bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
