//! What a guest writes, on its way to a client of exec or attach: frames in a bounded buffer. A guest that is far ahead of
//! its client waits.

use crate::frame;
use crate::output::{AHEAD_BYTES, Sink};
use crate::sync::lock;
use crate::terminal::shown;
use bytes::BytesMut;
use serde::Serialize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

/// The buffer.
pub struct Outbox {
    buffer: Mutex<Buffer>,
    /// The client took something.
    room: Arc<Notify>,
    /// Something or the end came.
    filled: Notify,
    /// The guest waits for the client.
    full: Notify,
    /// Both streams of the guest are one, with lines that begin at the left.
    terminal: bool,
}

#[derive(Default)]
struct Buffer {
    framed: BytesMut,
    /// Nothing follows.
    ended: bool,
    /// Since when there has been no room.
    full_since: Option<Instant>,
}

impl Outbox {
    /// An empty one, which wakes who waits at `room`.
    pub fn new(room: &Arc<Notify>, terminal: bool) -> Self {
        Self {
            buffer: Mutex::default(),
            room: Arc::clone(room),
            filled: Notify::new(),
            full: Notify::new(),
            terminal,
        }
    }

    /// Takes what the guest writes, as it is shown.
    pub fn show(&self, channel: u8, bytes: &[u8]) {
        if self.terminal {
            self.write(frame::STDOUT, &shown(bytes));
        } else {
            self.write(channel, bytes);
        }
    }

    /// Takes a document in one frame.
    pub fn write_document(&self, channel: u8, document: &impl Serialize) {
        // Serialising the protocol's types has no way to fail.
        self.write(channel, &serde_json::to_vec(document).unwrap_or_default());
    }

    /// The bytes that the client has not taken yet.
    pub fn held(&self) -> usize {
        lock(&self.buffer).framed.len()
    }

    /// Returns when the guest has waited so long, and the client has taken nothing.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let since = lock(&self.buffer).full_since;
            match since.map(|since| patience.saturating_sub(since.elapsed())) {
                None => self.full.notified().await,
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }

    /// Takes a channel's bytes; never blocks, and takes nothing after the end.
    pub fn write(&self, channel: u8, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        if !buffer.ended {
            frame::encode(&mut buffer.framed, channel, bytes);
            if buffer.framed.len() >= AHEAD_BYTES && buffer.full_since.is_none() {
                buffer.full_since = Some(Instant::now());
                self.full.notify_one();
            }
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
                    buffer.full_since = None;
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
        self.show(channel, bytes);
    }

    fn held_bytes(&self) -> usize {
        self.held()
    }

    fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn room(&self) -> &Notify {
        &self.room
    }
}
