//! A container's output on its way to the log file.
//!
//! The guest's side makes `lines` of it in a bounded buffer; the thread of `disk.rs` takes the buffer away. A guest that
//! is far ahead of the disk waits, and so does one whose lossless log is *held*: all its files are full and its
//! reader has deleted none. What a line has without its newline is shown when it is clear that a reader waits for it (a
//! prompt).

use crate::audience::Audience;
use crate::disk::Disk;
use crate::lines::{ENGINE, Lines, Stream, Voice};
use crate::log_file::Suffix;
use crate::output::{AHEAD_BYTES, Sink};
use crate::protocol;
use crate::sync::lock;
use crate::time::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// After this a line's unterminated rest is shown.
const REST_DELAY: Duration = Duration::from_millis(100);

/// One container's log.
pub struct Log {
    /// Where it is kept, and how much of it.
    pub place: protocol::Log,
    disk: Disk,
    /// Instances that have written or will.
    instances: AtomicU64,
    buffer: Mutex<Buffer>,
    room: Arc<Notify>,
    audience: Audience,
    /// What could not be written; touched only by the disk's thread.
    pub lost: Mutex<Lost>,
    /// The newest rotated file's suffix; touched only by the disk's thread.
    pub rotated: Mutex<Option<Suffix>>,
}

/// Output that the disk did not take.
#[derive(Default)]
pub struct Lost {
    /// Bytes of the log file's format.
    pub bytes: u64,
    /// The last error.
    pub cause: String,
}

#[derive(Default)]
struct Buffer {
    /// Framed lines that the disk has not taken yet.
    framed: Vec<u8>,
    lines: Lines,
    /// The disk's thread knows of `framed`.
    queued: bool,
    /// A timer will show the rests.
    armed: bool,
    /// The disk's thread waits for the reader of a lossless log.
    held: bool,
    /// It is to wait no longer, however many files there are.
    released: bool,
    /// The guest is over; whatever an abandoned one still writes is nobody's.
    closed: bool,
}

impl Log {
    /// A log at `place`, which can be written, of a container with a terminal or without.
    pub fn new(place: protocol::Log, disk: Disk, terminal: bool) -> Arc<Self> {
        let room = Arc::default();
        Arc::new(Self {
            audience: Audience::new(&room, terminal),
            place,
            disk,
            instances: AtomicU64::new(0),
            buffer: Mutex::default(),
            room,
            lost: Mutex::default(),
            rotated: Mutex::default(),
        })
    }

    /// Stdout and stderr of a new instance.
    pub fn voices(&self) -> [Voice; 2] {
        let instance = self.instances.fetch_add(1, Ordering::Relaxed) + 1;
        [Stream::Stdout, Stream::Stderr].map(|stream| Voice { instance, stream })
    }

    /// Who hears what is written besides.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Takes the guest's bytes; never blocks and never fails.
    pub fn write(self: &Arc<Self>, voice: Voice, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        let buffer = &mut *buffer;
        if buffer.closed {
            return;
        }
        (buffer.lines).take(&mut buffer.framed, Timestamp::now(), voice, bytes);
        self.audience.hear(voice.stream, bytes);
        self.queue(buffer);
        if !buffer.armed && buffer.lines.has_rests() {
            buffer.armed = true;
            self.arm();
        }
    }

    /// Adds a line of the engine's own among the guest's, unless the guest is far ahead of the disk.
    pub fn note(self: &Arc<Self>, text: &str) {
        let mut buffer = lock(&self.buffer);
        if buffer.closed || buffer.held || buffer.framed.len() >= AHEAD_BYTES {
            return;
        }
        self.tell(&mut buffer, text);
    }

    /// Shows unterminated rests now: the guest waits for an answer to them.
    pub fn flush_rests(self: &Arc<Self>) {
        self.flush_into(&mut lock(&self.buffer));
    }

    /// The guest is over: shows its rests and why it ended, and takes nothing more.
    pub fn close(self: &Arc<Self>, message: &str) {
        let mut buffer = lock(&self.buffer);
        let buffer = &mut *buffer;
        self.flush_into(buffer);
        if !message.is_empty() {
            self.tell(buffer, message);
        }
        buffer.closed = true;
    }

    /// Lets a held log be written beyond its number of files: nobody can be waited for any longer.
    pub fn release(&self) {
        lock(&self.buffer).released = true;
    }

    /// Whether [`Log::release`] was called.
    pub fn is_released(&self) -> bool {
        lock(&self.buffer).released
    }

    /// Whether it waits for its reader.
    pub fn is_held(&self) -> bool {
        lock(&self.buffer).held
    }

    /// Takes back what the disk's thread could not write; the guest has no room until [`Log::resume`].
    pub fn hold(&self, mut lines: Vec<u8>) {
        let mut buffer = lock(&self.buffer);
        lines.append(&mut buffer.framed);
        buffer.framed = lines;
        buffer.held = true;
        buffer.queued = true;
    }

    /// Everything that was held is written.
    pub fn resume(&self) {
        let mut buffer = lock(&self.buffer);
        if std::mem::take(&mut buffer.held) {
            drop(buffer);
            self.room.notify_waiters();
        }
    }

    fn tell(self: &Arc<Self>, buffer: &mut Buffer, text: &str) {
        let text = format!("{text}\n");
        let now = Timestamp::now();
        (buffer.lines).take(&mut buffer.framed, now, ENGINE, text.as_bytes());
        self.audience.hear(ENGINE.stream, text.as_bytes());
        self.queue(buffer);
    }

    fn flush_into(self: &Arc<Self>, buffer: &mut Buffer) {
        buffer.lines.flush(&mut buffer.framed, Timestamp::now());
        self.queue(buffer);
    }

    /// The framed lines, for the disk's thread; after an empty answer it forgets this log.
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = lock(&self.buffer);
        buffer.queued = !buffer.framed.is_empty();
        let framed = std::mem::take(&mut buffer.framed);
        if !buffer.held {
            self.room.notify_waiters();
        }
        framed
    }

    fn queue(self: &Arc<Self>, buffer: &mut Buffer) {
        if !buffer.queued && !buffer.framed.is_empty() {
            buffer.queued = true;
            self.disk.append(Arc::clone(self));
        }
    }

    /// One timer for a pending rest, none for an idle log.
    fn arm(self: &Arc<Self>) {
        let log = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(REST_DELAY).await;
            if let Some(log) = log.upgrade() {
                lock(&log.buffer).armed = false;
                log.flush_rests();
            }
        });
    }
}

impl Sink for Log {
    type Stream = Voice;

    fn put(self: &Arc<Self>, voice: Voice, bytes: &[u8]) {
        self.write(voice, bytes);
    }

    fn held_bytes(&self) -> usize {
        lock(&self.buffer).framed.len()
    }

    fn has_room(&self) -> bool {
        let buffer = lock(&self.buffer);
        !buffer.held && buffer.framed.len() < AHEAD_BYTES && self.audience.has_room()
    }

    fn room(&self) -> &Notify {
        &self.room
    }

    fn is_terminal(&self) -> bool {
        self.audience.has_terminal()
    }
}
