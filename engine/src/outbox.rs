//! What an exec'd guest writes, on its way to the client: frames in a bounded buffer. A guest that is far ahead of its
//! client waits.

use crate::frame;
use crate::output::Sink;
use crate::sync::lock;
use bytes::BytesMut;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

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
}

/// The guest's streams are channels.
impl Sink for Outbox {
    type Stream = u8;

    fn put(self: &Arc<Self>, channel: u8, bytes: &[u8]) {
        self.write(channel, bytes);
    }

    fn held_bytes(&self) -> usize {
        lock(&self.buffer).framed.len()
    }

    fn room(&self) -> &Notify {
        &self.room
    }
}
