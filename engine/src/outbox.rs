//! What an exec'd guest writes, on its way to the client: frames in a bounded buffer. A guest that is far ahead of its
//! client waits.

use crate::frame;
use crate::sync::lock;
use bytes::{Bytes, BytesMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// As much as a Linux pipe holds; a guest that is this far ahead waits.
const AHEAD_BYTES: usize = 64 * 1024;

/// What a guest may write at once.
const WRITE_BYTES: usize = 16 * 1024;

/// No guest that keeps to what it may write gets here; one with many handles that does not is ended.
const OVERFULL_BYTES: usize = 4 * 1024 * 1024;

/// The buffer.
#[derive(Default)]
pub struct Outbox {
    buffer: Mutex<Buffer>,
    /// The client took something.
    room: Notify,
    /// Something or the end came.
    filled: Notify,
}

#[derive(Default)]
struct Buffer {
    framed: BytesMut,
    /// Nothing follows.
    ended: bool,
}

impl Outbox {
    /// Takes a channel's bytes; never blocks, and takes nothing after the end.
    pub fn write(&self, channel: u8, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        if !buffer.ended {
            frame::encode(&mut buffer.framed, channel, bytes);
            drop(buffer);
            self.filled.notify_one();
        }
    }

    /// Whatever an abandoned guest still writes is nobody's.
    pub fn end(&self) {
        lock(&self.buffer).ended = true;
        self.filled.notify_one();
    }

    /// Moves everything to the client until the end, or until the client takes no more.
    pub async fn send_to(&self, client: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        while let Some(framed) = self.take().await {
            client.write_all(&framed).await?;
        }
        client.shutdown().await
    }

    async fn take(&self) -> Option<BytesMut> {
        loop {
            {
                let mut buffer = lock(&self.buffer);
                if !buffer.framed.is_empty() {
                    let framed = std::mem::take(&mut buffer.framed);
                    drop(buffer);
                    self.room.notify_waiters();
                    return Some(framed);
                }
                if buffer.ended {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    fn held(&self) -> usize {
        lock(&self.buffer).framed.len()
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.held() < AHEAD_BYTES {
                return;
            }
            room.await;
        }
    }
}

/// The guest's end of one channel.
#[derive(Clone)]
pub struct Output {
    outbox: Arc<Outbox>,
    channel: u8,
    /// What the last check lets the guest write.
    permit: usize,
}

impl Output {
    /// What the guest writes here goes out on `channel`.
    pub fn new(outbox: &Arc<Outbox>, channel: u8) -> Self {
        Self {
            outbox: Arc::clone(outbox),
            channel,
            permit: 0,
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.outbox.wait_for_room().await;
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.permit || self.outbox.held() > OVERFULL_BYTES {
            return Err(StreamError::trap(
                "the guest writes more than the stream takes",
            ));
        }
        self.permit -= bytes.len();
        self.outbox.write(self.channel, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let has_room = self.outbox.held() < AHEAD_BYTES;
        self.permit = if has_room { WRITE_BYTES } else { 0 };
        Ok(self.permit)
    }
}

/// Only p3 guests, which this version does not run yet, write this way; without back-pressure.
impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.outbox.write(self.channel, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
