//! The one thread that writes log files and exit files.
//!
//! Guests and the control socket never wait for a disk: they leave work here. A log file is open only while a burst
//! is written, so that idle sandboxes hold no descriptor. Because there is one queue, a guest's output is in its
//! log before its exit file is in place. A lossless log whose files are full is set aside and looked at again
//! until its reader has deleted one; so is work for which the process has no descriptor left. Everybody else's goes
//! on.

use crate::lines::notice;
use crate::log::{Log, Lost};
use crate::log_file::{append, sibling};
use crate::protocol::Exit;
use crate::sync::lock;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Readable by the pool's group, by nobody else.
pub const FILE_MODE: u32 = 0o640;

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

/// Whether a file can be made at `path`. None is made: that would wait for a file system that looks for a free inode.
pub fn can_make(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)?)
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
pub mod tests {
    use super::*;
    use crate::log_file::rotated_files;
    use crate::protocol;

    /// A log that no thread writes.
    pub fn log(path: &Path, max_bytes: u64, max_files: usize, lossless: bool) -> Arc<Log> {
        let place = protocol::Log {
            path: path.to_owned(),
            max_bytes,
            max_files,
            lossless,
        };
        Log::new(place, Disk { jobs: channel().0 }, false)
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
