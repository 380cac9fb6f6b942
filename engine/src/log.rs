//! A container's output on its way to the log file, in CRI format:
//! `{RFC 3339 time} {stdout|stderr} {P|F} {content}`.
//!
//! The guest's side frames lines into a bounded buffer; the thread of `disk.rs` takes the buffer away. A guest that
//! is far ahead of the disk waits, and so does one whose lossless log is *held*: all its files are full and its
//! reader has deleted none. A line's unterminated rest stays here until its newline comes, until it is as long as a
//! line may be, or until it is clear that a reader waits for it (a prompt).

use crate::disk::{Disk, Suffix};
use crate::output::{AHEAD_BYTES, Sink};
use crate::sync::lock;
use crate::time::Timestamp;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Longer lines are cut into parts, as containerd and CRI-O do.
const LINE_BYTES: usize = 16 * 1024;

/// After this a line's unterminated rest is shown.
const REST_DELAY: Duration = Duration::from_millis(100);

/// Which of the guest's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where a log is kept, and how much of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The current file.
    pub path: PathBuf,
    /// Rotated when it has grown past this.
    pub max_bytes: u64,
    /// Files kept in total.
    pub max_files: usize,
    /// Only the reader deletes files; without room for one more the log is held.
    pub lossless: bool,
}

/// One container's log.
pub struct Log {
    /// Where it is kept.
    pub place: Place,
    disk: Disk,
    buffer: Mutex<Buffer>,
    room: Notify,
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
    /// Unterminated rests of stdout and stderr.
    rests: [Vec<u8>; 2],
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
    /// A log at `place`, whose file was already opened once with success.
    pub fn new(place: Place, disk: Disk) -> Arc<Self> {
        Arc::new(Self {
            place,
            disk,
            buffer: Mutex::default(),
            room: Notify::new(),
            lost: Mutex::default(),
            rotated: Mutex::default(),
        })
    }

    /// Takes the guest's bytes; never blocks and never fails.
    pub fn write(self: &Arc<Self>, stream: Stream, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        let buffer = &mut *buffer;
        if buffer.closed {
            return;
        }
        frame(
            &mut buffer.framed,
            stream,
            &mut buffer.rests[stream as usize],
            bytes,
        );
        self.queue(buffer);
        if !buffer.armed && buffer.rests.iter().any(|rest| !rest.is_empty()) {
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
        let text = format!("{text}\n");
        let mut rest = Vec::new();
        frame(
            &mut buffer.framed,
            Stream::Stderr,
            &mut rest,
            text.as_bytes(),
        );
        self.queue(&mut buffer);
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
            let text = format!("{message}\n");
            let mut rest = Vec::new();
            frame(
                &mut buffer.framed,
                Stream::Stderr,
                &mut rest,
                text.as_bytes(),
            );
            self.queue(buffer);
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

    fn flush_into(self: &Arc<Self>, buffer: &mut Buffer) {
        let now = Timestamp::now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut buffer.rests[stream as usize]);
            if !rest.is_empty() {
                push_line(&mut buffer.framed, now, stream, 'P', &[&rest]);
            }
        }
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

/// Appends `bytes` to the rest of the stream's line, and each line that becomes whole to `framed`.
fn frame(framed: &mut Vec<u8>, stream: Stream, rest: &mut Vec<u8>, mut bytes: &[u8]) {
    let now = Timestamp::now();
    while !bytes.is_empty() {
        let room = LINE_BYTES - rest.len();
        let newline = bytes.iter().take(room + 1).position(|&byte| byte == b'\n');
        if let Some(end) = newline {
            push_line(framed, now, stream, 'F', &[rest, &bytes[..end]]);
            rest.clear();
            bytes = &bytes[end + 1..];
        } else if bytes.len() > room {
            push_line(framed, now, stream, 'P', &[rest, &bytes[..room]]);
            rest.clear();
            bytes = &bytes[room..];
        } else {
            rest.extend_from_slice(bytes);
            return;
        }
    }
    if rest.is_empty() {
        // A container that is silent from now on keeps no buffer.
        *rest = Vec::new();
    }
}

fn push_line(framed: &mut Vec<u8>, time: Timestamp, stream: Stream, tag: char, parts: &[&[u8]]) {
    // Writing into a vector does not fail.
    let _ = write!(framed, "{time} {} {tag} ", stream.name());
    for part in parts {
        framed.extend_from_slice(part);
    }
    framed.push(b'\n');
}

/// A line of wasmlet's own, for the disk's thread.
pub fn notice(text: &str) -> Vec<u8> {
    let mut framed = Vec::new();
    push_line(
        &mut framed,
        Timestamp::now(),
        Stream::Stderr,
        'F',
        &[text.as_bytes()],
    );
    framed
}

impl Sink for Log {
    type Stream = Stream;

    fn put(self: &Arc<Self>, stream: Stream, bytes: &[u8]) {
        self.write(stream, bytes);
    }

    fn held_bytes(&self) -> usize {
        lock(&self.buffer).framed.len()
    }

    fn has_room(&self) -> bool {
        let buffer = lock(&self.buffer);
        !buffer.held && buffer.framed.len() < AHEAD_BYTES
    }

    fn room(&self) -> &Notify {
        &self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when `writes` go in, without the times.
    fn framed(writes: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let (mut out, mut rest) = (Vec::new(), Vec::new());
        for bytes in writes {
            frame(&mut out, Stream::Stdout, &mut rest, bytes);
        }
        let text = String::from_utf8(out).expect("text");
        let lines = text
            .lines()
            .map(|line| line.split_once(' ').expect("time").1.to_owned());
        (lines.collect(), rest)
    }

    #[test]
    fn lines_are_joined_and_split() {
        let (lines, rest) = framed(&[b"a", b"b\n\nc", b"d"]);
        assert_eq!(lines, ["stdout F ab", "stdout F "]);
        assert_eq!(rest, b"cd");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; LINE_BYTES];
        let (lines, rest) = framed(&[&long, b"\n"]);
        assert_eq!((lines.len(), rest.len()), (1, 0));
        assert!(lines[0].starts_with("stdout F "));
        let (lines, rest) = framed(&[&long, b"yz"]);
        assert!(lines[0].starts_with("stdout P ") && lines[0].len() == LINE_BYTES + 9);
        assert_eq!(rest, b"yz");
    }
}
