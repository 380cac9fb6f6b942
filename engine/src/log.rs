//! A container's output on its way to the log file, in CRI format:
//! `{RFC 3339 time} {stdout|stderr} {P|F} {content}`.
//!
//! The guest's side frames lines into a bounded buffer; the thread of `disk.rs` takes the buffer away. A guest that
//! is far ahead of the disk waits, and so does one whose lossless log is *held*: all its files are full and its
//! reader has deleted none. A line's unterminated rest stays here until its newline comes, until it is as long as a
//! line may be, or until it is clear that a reader waits for it (a prompt).

use crate::audience::Audience;
use crate::disk::{Disk, Suffix};
use crate::output::{AHEAD_BYTES, Sink};
use crate::sync::lock;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Longer lines are cut into parts, as containerd and CRI-O do.
const LINE_BYTES: usize = 16 * 1024;

/// Instances of which the unterminated rests are kept; those of more are shown at once.
const RESTS: usize = 64;

/// After this a line's unterminated rest is shown.
const REST_DELAY: Duration = Duration::from_millis(100);

/// Which of the guest's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// One instance's output: lines of several that write at once never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voice {
    instance: u64,
    stream: Stream,
}

/// The engine's own lines among the guest's.
const ENGINE: Voice = Voice {
    instance: 0,
    stream: Stream::Stderr,
};

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
    pub fn new(place: Place, disk: Disk, terminal: bool) -> Arc<Self> {
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

/// Bytes that become lines. In the file a line goes on after a part of it (`P`), whoever writes next: when that is
/// another instance, the line is ended first.
#[derive(Default)]
struct Lines {
    /// What has no newline yet; never empty.
    rests: BTreeMap<Voice, Vec<u8>>,
    /// Whose line is open in the file: of stdout and of stderr.
    open: [Option<u64>; 2],
}

impl Lines {
    /// Appends `bytes` to the rest of the voice's line, and each line that becomes whole to `framed`.
    fn take(&mut self, framed: &mut Vec<u8>, now: Timestamp, voice: Voice, mut bytes: &[u8]) {
        let mut rest = self.rests.remove(&voice).unwrap_or_default();
        while !bytes.is_empty() {
            let room = LINE_BYTES - rest.len();
            let newline = bytes.iter().take(room + 1).position(|&byte| byte == b'\n');
            if let Some(end) = newline {
                self.push(framed, now, voice, 'F', &[&rest, &bytes[..end]]);
                rest.clear();
                bytes = &bytes[end + 1..];
            } else if bytes.len() > room {
                self.push(framed, now, voice, 'P', &[&rest, &bytes[..room]]);
                rest.clear();
                bytes = &bytes[room..];
            } else {
                rest.extend_from_slice(bytes);
                break;
            }
        }
        if !rest.is_empty() {
            self.rests.insert(voice, rest);
            if self.rests.len() > RESTS {
                self.flush(framed, now);
            }
        }
    }

    /// Shows every rest as a part of its line.
    fn flush(&mut self, framed: &mut Vec<u8>, now: Timestamp) {
        for (voice, rest) in std::mem::take(&mut self.rests) {
            self.push(framed, now, voice, 'P', &[&rest]);
        }
    }

    fn has_rests(&self) -> bool {
        !self.rests.is_empty()
    }

    fn push(
        &mut self,
        framed: &mut Vec<u8>,
        now: Timestamp,
        voice: Voice,
        tag: char,
        parts: &[&[u8]],
    ) {
        let Voice { instance, stream } = voice;
        let open = &mut self.open[stream as usize];
        if open.is_some_and(|other| other != instance) {
            push_line(framed, now, stream, 'F', &[]);
        }
        *open = (tag == 'P').then_some(instance);
        push_line(framed, now, stream, tag, parts);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn voice(instance: u64, stream: Stream) -> Voice {
        Voice { instance, stream }
    }

    /// What comes out when `writes` go in, without the times, and what stays.
    fn framed(writes: &[(u64, &[u8])]) -> (Vec<String>, Vec<Vec<u8>>) {
        let (mut out, mut lines) = (Vec::new(), Lines::default());
        for (instance, bytes) in writes {
            lines.take(&mut out, NOW, voice(*instance, Stream::Stdout), bytes);
        }
        let text = String::from_utf8(out).expect("text");
        let found = text
            .lines()
            .map(|line| line.split_once(' ').expect("time").1.to_owned());
        (found.collect(), lines.rests.into_values().collect())
    }

    #[test]
    fn lines_are_joined_and_split() {
        let (lines, rests) = framed(&[(1, b"a"), (1, b"b\n\nc"), (1, b"d")]);
        assert_eq!(lines, ["stdout F ab", "stdout F "]);
        assert_eq!(rests, [b"cd"]);
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; LINE_BYTES];
        let (lines, rests) = framed(&[(1, &long), (1, b"\n")]);
        assert_eq!((lines.len(), rests.len()), (1, 0));
        assert!(lines[0].starts_with("stdout F "));
        let (lines, rests) = framed(&[(1, &long), (1, b"yz")]);
        assert!(lines[0].starts_with("stdout P ") && lines[0].len() == LINE_BYTES + 9);
        assert_eq!(rests, [b"yz"]);
    }

    #[test]
    fn an_open_line_is_ended_before_another_instances() {
        let long = vec![b'x'; LINE_BYTES];
        let (lines, _) = framed(&[(1, &long), (1, b"y"), (2, b"two\n"), (1, b"\n")]);
        let starts: Vec<&str> = lines
            .iter()
            .map(|line| &line[..line.len().min(12)])
            .collect();
        assert_eq!(
            starts,
            ["stdout P xxx", "stdout F ", "stdout F two", "stdout F y"]
        );
    }

    /// Stream and content of each line of a log file that is read as CRI says: parts are joined.
    fn read(mut file: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut open: [Option<Vec<u8>>; 2] = [None, None];
        let mut lines = Vec::new();
        while !file.is_empty() {
            let end = file.iter().position(|&it| it == b'\n').expect("newline");
            let fields: Vec<&[u8]> = file[..end].splitn(4, |&it| it == b' ').collect();
            let name = String::from_utf8(fields[1].to_owned()).expect("stream");
            let place = &mut open[usize::from(name == "stderr")];
            let mut line = place.take().unwrap_or_default();
            line.extend_from_slice(fields[3]);
            assert!(fields[3].len() <= LINE_BYTES);
            match fields[2] {
                b"P" => *place = Some(line),
                _ => lines.push((name, [&line, &b"\n"[..]].concat())),
            }
            file = &file[end + 1..];
        }
        for (line, name) in open.into_iter().zip(["stdout", "stderr"]) {
            lines.extend(line.map(|line| (name.to_owned(), line)));
        }
        lines
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(u64, Stream, Vec<u8>),
        Flush,
    }

    /// Bytes with and without newlines, also longer than a line may be; never 0, which tells instances apart below.
    fn acts(instances: u64) -> impl Strategy<Value = Vec<Act>> {
        let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
        let bytes = prop_oneof![
            vec(1..=255_u8, 0..40),
            vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'x')], 0..40),
            (1..2 * LINE_BYTES + 2).prop_map(|size| vec![b'x'; size]),
        ];
        let act = prop_oneof![
            6 => (1..=instances, stream, bytes).prop_map(|(it, stream, bytes)| Act::Write(it, stream, bytes)),
            1 => Just(Act::Flush),
        ];
        vec(act, 0..30)
    }

    fn write(acts: &[Act]) -> Vec<u8> {
        let (mut out, mut lines) = (Vec::new(), Lines::default());
        for act in acts {
            match act {
                Act::Write(it, stream, bytes) => {
                    lines.take(&mut out, NOW, voice(*it, *stream), bytes);
                }
                Act::Flush => lines.flush(&mut out, NOW),
            }
        }
        lines.flush(&mut out, NOW);
        out
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_however_it_is_cut(acts in acts(1)) {
            let found = read(&write(&acts));
            for stream in [Stream::Stdout, Stream::Stderr] {
                let written: Vec<u8> = acts.iter().flat_map(|act| match act {
                    Act::Write(_, its, bytes) if *its == stream => bytes.clone(),
                    _ => Vec::new(),
                }).collect();
                let lines = found.iter().filter(|(name, _)| name == stream.name());
                let read: Vec<u8> = lines.flat_map(|(_, line)| line.clone()).collect();
                prop_assert_eq!(read, written);
            }
        }

        #[test]
        fn no_line_is_of_two_instances(acts in acts(4)) {
            // Each instance writes nothing but its number and newlines.
            let acts: Vec<Act> = acts.into_iter().map(|act| match act {
                Act::Write(it, stream, bytes) => {
                    let own = |byte| if byte == b'\n' { byte } else { b'0' + it as u8 };
                    Act::Write(it, stream, bytes.into_iter().map(own).collect())
                }
                Act::Flush => Act::Flush,
            }).collect();
            let total: usize = acts.iter().map(|act| match act {
                Act::Write(_, _, bytes) => bytes.iter().filter(|&&it| it != b'\n').count(),
                Act::Flush => 0,
            }).sum();
            let mut found = 0;
            for (_, mut line) in read(&write(&acts)) {
                line.retain(|&it| it != b'\n');
                found += line.len();
                line.dedup();
                prop_assert!(line.len() <= 1, "{line:?}");
            }
            prop_assert_eq!(found, total);
        }
    }
}
