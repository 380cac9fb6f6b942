//! The one thread that writes log files and exit files.
//!
//! Guests and the control socket never wait for a disk: they leave work here. A log file is open only while a burst
//! is written, so that idle sandboxes hold no descriptor. Because there is one queue, a guest's output is in its
//! log before its exit file is in place. A lossless log whose files are full is set aside and looked at again
//! until its reader has deleted one; so is work for which the process has no descriptor left. Everybody else's goes
//! on.

use crate::log::{Log, Lost, notice};
use crate::protocol::Exit;
use crate::sync::lock;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Readable by the pool's group, by nobody else.
const FILE_MODE: u32 = 0o640;

/// How often the files of held logs are counted. Only while there are any.
const LOOK: Duration = Duration::from_millis(20);

/// After its guest's end a lossless log waits this long for a reader that deletes nothing. One that lives reads a
/// file within a second; the exit must come, too.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// A handle to the thread. The queue is bounded by what is in it: each log once, each ending sandbox once.
#[derive(Clone)]
pub struct Disk {
    jobs: Sender<Job>,
}

enum Job {
    Append(Arc<Log>),
    Finish(Finish),
}

struct Finish {
    log: Arc<Log>,
    path: PathBuf,
    exit: Arc<Exit>,
    done: oneshot::Sender<()>,
}

impl Disk {
    /// Starts the thread; it waits without waking until there is work.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = channel();
        let again = jobs.clone();
        thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || Thread::new(again).work(&queue))?;
        Ok(Self { jobs })
    }

    /// Writes what the log holds, some time soon.
    pub fn append(&self, log: Arc<Log>) {
        // The thread lives as long as the process.
        let _ = self.jobs.send(Job::Append(log));
    }

    /// Writes all that the log holds, then the exit file; answers when both were tried.
    pub fn finish(&self, log: Arc<Log>, path: PathBuf, exit: Arc<Exit>) -> oneshot::Receiver<()> {
        let (done, finished) = oneshot::channel();
        let _ = self.jobs.send(Job::Finish(Finish {
            log,
            path,
            exit,
            done,
        }));
        finished
    }
}

struct Thread {
    again: Sender<Job>,
    held: Vec<Held>,
    look: Instant,
}

/// Work that waits: on a lossless log for its reader, on any for a free descriptor.
struct Held {
    job: Job,
    /// When it last came on.
    since: Instant,
}

impl Thread {
    fn new(again: Sender<Job>) -> Self {
        Self {
            again,
            held: Vec::new(),
            look: Instant::now(),
        }
    }

    fn work(mut self, queue: &Receiver<Job>) {
        loop {
            let job = if self.held.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(self.look.saturating_duration_since(Instant::now()))
            };
            match job {
                Ok(job) => self.attempt(Held {
                    job,
                    since: Instant::now(),
                }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.held.is_empty() && self.look <= Instant::now() {
                for held in std::mem::take(&mut self.held) {
                    self.attempt(held);
                }
                self.look = Instant::now() + LOOK;
            }
        }
    }

    /// Does the work, or keeps it among the held.
    fn attempt(&mut self, mut held: Held) {
        let log = match &held.job {
            Job::Append(log) | Job::Finish(Finish { log, .. }) => Arc::clone(log),
        };
        let is_end = matches!(held.job, Job::Finish(_));
        if is_end {
            // From here on this work writes all that is left.
            self.held
                .retain(|it| !matches!(&it.job, Job::Append(other) if Arc::ptr_eq(other, &log)));
        }
        loop {
            let lines = log.take();
            if lines.is_empty() {
                break;
            }
            let count = lines.len();
            let rest = write_log(&log, lines);
            if rest.is_empty() {
                log.resume();
                if is_end {
                    continue;
                }
                // To the end of the queue: a guest that writes without pause must not starve the others.
                let _ = self.again.send(held.job);
                return;
            }
            if rest.len() < count {
                held.since = Instant::now();
            }
            log.hold(rest);
            if is_end && held.since.elapsed() >= READER_PATIENCE {
                tracing::warn!(path = %log.place.path.display(), "log waits for too long; it gets more files, or loses lines");
                log.release();
                continue;
            }
            self.keep(held);
            return;
        }
        let Held { job, since } = held;
        if let Job::Finish(finish) = job {
            match write_exit(&finish.path, &finish.exit) {
                Err(error) if is_passing(&error) && since.elapsed() < READER_PATIENCE => {
                    let job = Job::Finish(finish);
                    return self.keep(Held { job, since });
                }
                Err(error) => {
                    tracing::error!(sandbox = finish.exit.id, path = %finish.path.display(), %error, "exit file failed");
                }
                Ok(()) => {}
            }
            let _ = finish.done.send(());
        }
    }

    /// Looks at it again soon.
    fn keep(&mut self, held: Held) {
        if self.held.is_empty() {
            self.look = Instant::now() + LOOK;
        }
        self.held.push(held);
    }
}

/// Whether it is only a matter of time: descriptors come back when guests and clients end.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|it| passing.contains(&it))
}

/// Appends lines; on failure drops and counts them, and says so in the log once it works again. Returns what has to
/// wait: for a reader that makes room, or for a free descriptor.
fn write_log(log: &Log, lines: Vec<u8>) -> Vec<u8> {
    let mut lost = lock(&log.lost);
    let told = if lost.bytes == 0 {
        Vec::new()
    } else {
        notice(&format!(
            "wasmlet: {} bytes of output were lost: {}",
            lost.bytes, lost.cause
        ))
    };
    let mut all = if told.is_empty() {
        lines
    } else {
        [told.as_slice(), &lines].concat()
    };
    match append(log, &all) {
        // The notice is made anew, with the same count.
        Ok(0) => {
            all.drain(..told.len());
            all
        }
        Ok(written) => {
            *lost = Lost::default();
            all.drain(..written);
            all
        }
        Err(error) if is_passing(&error) && !log.is_released() => {
            all.drain(..told.len());
            all
        }
        Err(error) => {
            if lost.bytes == 0 {
                tracing::warn!(path = %log.place.path.display(), %error, "log failed");
            }
            lost.bytes += (all.len() - told.len()) as u64;
            lost.cause = error.to_string();
            Vec::new()
        }
    }
}

/// Whether a log can be written at `path`. The first line makes the file: a guest that says nothing has none, and its
/// start does not wait for a file system that looks for a free inode.
pub fn check_log(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            Ok(rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)?)
        }
        opened => opened.map(drop),
    }
}

/// Opens a log's current file, making it when it is not there.
fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Writes whole lines, rotating at the first line's end past the limit. Says how many bytes it wrote: all, unless
/// the log is lossless and its files are full.
fn append(log: &Log, lines: &[u8]) -> io::Result<usize> {
    let place = &log.place;
    let mut file = open_log(&place.path)?;
    let mut size = file.metadata()?.len();
    let mut written = 0;
    while written < lines.len() {
        if size >= place.max_bytes {
            if !rotate(log)? {
                break;
            }
            file = open_log(&place.path)?;
            size = file.metadata()?.len();
        }
        let lines = &lines[written..];
        let room = usize::try_from(place.max_bytes.saturating_sub(size)).unwrap_or(usize::MAX);
        let end = if lines.len() <= room {
            lines.len()
        } else {
            line_end(lines, room)
        };
        if let Err(error) = file.write_all(&lines[..end]) {
            // A torn line would swallow the next one; the file has no other writer.
            let _ = file.set_len(size);
            return Err(error);
        }
        size += end as u64;
        written += end;
    }
    Ok(written)
}

/// The end of the line that holds the last of the first `room` bytes.
fn line_end(lines: &[u8], room: usize) -> usize {
    let last = room.saturating_sub(1);
    lines
        .iter()
        .skip(last)
        .position(|&byte| byte == b'\n')
        .map_or(lines.len(), |after| last + after + 1)
}

/// As the kubelet does: `{name}` becomes `{name}.{time}`, and the oldest beyond the count go; of a lossless log none
/// goes, and without room for one more (false) nothing is done.
fn rotate(log: &Log) -> io::Result<bool> {
    let place = &log.place;
    let rotated = rotated_files(&place.path)?;
    let kept = place.max_files.saturating_sub(1);
    if place.lossless && rotated.len() >= kept && !log.is_released() {
        return Ok(false);
    }
    let mut newest = lock(&log.rotated);
    let last = rotated.keys().next_back().max(newest.as_ref());
    let suffix = Suffix::after(last, Timestamp::now().compact());
    fs::rename(&place.path, sibling(&place.path, &suffix.to_string()))?;
    *newest = Some(suffix);
    if !place.lossless {
        for old in rotated
            .values()
            .take((rotated.len() + 1).saturating_sub(kept))
        {
            fs::remove_file(old)?;
        }
    }
    Ok(true)
}

/// `YYYYMMDD-hhmmss`, and `-` with six digits from the second of a second on. Names sort in the order of rotation,
/// whatever was deleted meanwhile and wherever the clock was set: readers go by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suffix {
    stamp: String,
    number: u32,
}

impl Suffix {
    fn after(last: Option<&Self>, now: String) -> Self {
        match last {
            Some(last) if last.stamp >= now => Self {
                stamp: last.stamp.clone(),
                number: last.number + 1,
            },
            _ => Self {
                stamp: now,
                number: 0,
            },
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (stamp, number) = match text.split_at_checked(15)? {
            (stamp, "") => (stamp, 0),
            (stamp, number) => (stamp, number.strip_prefix('-')?.parse().ok()?),
        };
        let is_stamp = stamp
            .bytes()
            .enumerate()
            .all(|(at, byte)| byte.is_ascii_digit() != (at == 8) && (at != 8 || byte == b'-'));
        is_stamp.then(|| Self {
            stamp: stamp.to_owned(),
            number,
        })
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => write!(formatter, "{}", self.stamp),
            number => write!(formatter, "{}-{number:06}", self.stamp),
        }
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Files that a rotation made, oldest first, of this log only (`1.log` must not take `11.log.…`).
fn rotated_files(path: &Path) -> io::Result<BTreeMap<Suffix, PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(BTreeMap::new());
    };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let suffix = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_slice())
            .and_then(|it| Suffix::parse(std::str::from_utf8(it).ok()?));
        if let Some(suffix) = suffix {
            found.insert(suffix, entry.path());
        }
    }
    Ok(found)
}

/// Puts the exit file in place by rename; not synced, since a torn file after a power cut counts as absent.
fn write_exit(path: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = sibling(path, "new");
    let content = serde_json::to_vec(exit)?;
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&temporary)?;
    let written = file
        .write_all(&content)
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Place;

    fn log(path: &Path, max_bytes: u64, max_files: usize, lossless: bool) -> Arc<Log> {
        let place = Place {
            path: path.to_owned(),
            max_bytes,
            max_files,
            lossless,
        };
        Log::new(place, Disk { jobs: channel().0 }, false)
    }

    #[test]
    fn names_sort_in_the_order_of_rotation() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0.log");
        let log = log(&path, 10, 3, true);
        let mut last = String::new();
        for number in 0..200 {
            fs::write(&path, "0123456789").expect("write");
            assert!(rotate(&log).expect("rotate"));
            let rotated = rotated_files(&path).expect("list");
            let newest = rotated.values().next_back().expect("file");
            let newest = newest.to_str().expect("name").to_owned();
            assert!(newest > last, "{last} {newest}");
            last = newest;
            // The reader takes some at once and some late; a name must not come again.
            if number % 2 == 1 {
                for file in rotated.values() {
                    fs::remove_file(file).expect("remove");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_changes_no_order() {
        let last = Suffix::parse("20261123-100000").expect("suffix");
        let next = Suffix::after(Some(&last), "20261123-095959".to_owned());
        assert_eq!(next.to_string(), "20261123-100000-000001");
        assert_eq!(Suffix::parse(&next.to_string()), Some(next.clone()));
        let later = Suffix::after(Some(&next), "20261123-100001".to_owned());
        assert_eq!(later.to_string(), "20261123-100001");
        assert!(last.to_string() < next.to_string() && next.to_string() < later.to_string());
        for other in [
            "20261123-100000.gz",
            "20261123-10000",
            "20261123x100000",
            "1",
        ] {
            assert!(Suffix::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_full_lossless_log_waits_for_its_reader() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0.log");
        let log = log(&path, 10, 2, true);
        let rest = write_log(&log, b"0123456789\n".repeat(4));
        assert_eq!(rest.len(), 22, "two files are full");
        assert_eq!(write_log(&log, rest.clone()), rest);
        let rotated = rotated_files(&path).expect("list");
        fs::remove_file(rotated.values().next().expect("file")).expect("remove");
        let rest = write_log(&log, rest);
        assert_eq!(rest.len(), 11);
        log.release();
        assert!(write_log(&log, rest).is_empty());
        assert_eq!(rotated_files(&path).expect("list").len(), 2);
    }

    #[test]
    fn a_log_is_rotated_at_line_ends_and_old_files_go() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0.log");
        let log = log(&path, 100, 3, false);
        fs::write(
            directory.path().join("10.log.20200101-000000"),
            "another log",
        )
        .expect("write");
        for number in 0..100 {
            append(&log, format!("line {number:04}\n").repeat(3).as_bytes()).expect("append");
        }
        let rotated = rotated_files(&path).expect("list");
        assert_eq!(rotated.len(), 2);
        assert!(directory.path().join("10.log.20200101-000000").exists());
        let newest = fs::read_to_string(&path).expect("read");
        assert!(newest.ends_with("line 0099\n"));
        for file in rotated.values() {
            let text = fs::read_to_string(file).expect("read");
            assert!(
                text.len() >= 100 && text.len() < 110 && text.ends_with('\n'),
                "{text}"
            );
        }
    }

    #[test]
    fn lost_output_is_told_once() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("gone/0.log");
        let log = log(&path, 1000, 2, false);
        write_log(&log, b"lost\n".to_vec());
        write_log(&log, b"lost again\n".to_vec());
        fs::create_dir(directory.path().join("gone")).expect("directory");
        write_log(&log, b"kept\n".to_vec());
        write_log(&log, b"kept too\n".to_vec());
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(
            text.matches("16 bytes of output were lost").count(),
            1,
            "{text}"
        );
        assert!(text.ends_with("kept\nkept too\n"), "{text}");
    }
}
