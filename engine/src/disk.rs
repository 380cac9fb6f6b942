//! The one thread that writes log files and exit files.
//!
//! Guests and the control socket never wait for a disk: they leave work here. A log file is open only while a burst
//! is written, so that idle sandboxes hold no descriptor. Because there is one queue, a guest's output is in its
//! log before its exit file is in place.

use crate::log::{Log, Lost, Place, notice};
use crate::protocol::Exit;
use crate::sync::lock;
use crate::time::Timestamp;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use tokio::sync::oneshot;

/// Readable by the pool's group, by nobody else.
const FILE_MODE: u32 = 0o640;

/// A handle to the thread. The queue is bounded by what is in it: each log once, each ending sandbox once.
#[derive(Clone)]
pub struct Disk {
    jobs: Sender<Job>,
}

enum Job {
    Append(Arc<Log>),
    Finish {
        log: Arc<Log>,
        path: PathBuf,
        exit: Arc<Exit>,
        done: oneshot::Sender<()>,
    },
}

impl Disk {
    /// Starts the thread; it waits without waking until there is work.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = channel();
        let again = jobs.clone();
        thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || work(&queue, &again))?;
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
        let _ = self.jobs.send(Job::Finish {
            log,
            path,
            exit,
            done,
        });
        finished
    }
}

fn work(queue: &Receiver<Job>, again: &Sender<Job>) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Append(log) => {
                let lines = log.take();
                if !lines.is_empty() {
                    write_log(&log, &lines);
                    // To the end of the queue: a guest that writes without pause must not starve the others.
                    let _ = again.send(Job::Append(log));
                }
            }
            Job::Finish {
                log,
                path,
                exit,
                done,
            } => {
                loop {
                    let lines = log.take();
                    if lines.is_empty() {
                        break;
                    }
                    write_log(&log, &lines);
                }
                if let Err(error) = write_exit(&path, &exit) {
                    tracing::error!(sandbox = exit.id, path = %path.display(), %error, "exit file failed");
                }
                let _ = done.send(());
            }
        }
    }
}

/// Appends lines; on failure drops and counts them, and says so in the log once it works again.
fn write_log(log: &Log, lines: &[u8]) {
    let mut lost = lock(&log.lost);
    let written = if lost.bytes == 0 {
        append(&log.place, lines)
    } else {
        let mut all = notice(&format!(
            "wasmlet: {} bytes of output were lost: {}",
            lost.bytes, lost.cause
        ));
        all.extend_from_slice(lines);
        append(&log.place, &all)
    };
    match written {
        Ok(()) => *lost = Lost::default(),
        Err(error) => {
            if lost.bytes == 0 {
                tracing::warn!(path = %log.place.path.display(), %error, "log failed");
            }
            lost.bytes += lines.len() as u64;
            lost.cause = error.to_string();
        }
    }
}

/// Opens a log's current file, making it when it is not there.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Writes whole lines, rotating at the first line's end past the limit.
fn append(place: &Place, mut lines: &[u8]) -> io::Result<()> {
    let mut file = open_log(&place.path)?;
    let mut size = file.metadata()?.len();
    while !lines.is_empty() {
        if size >= place.max_bytes {
            rotate(place)?;
            file = open_log(&place.path)?;
            size = file.metadata()?.len();
        }
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
        lines = &lines[end..];
    }
    Ok(())
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

/// As the kubelet does: `{name}` becomes `{name}.{time}`, and the oldest beyond the count go.
fn rotate(place: &Place) -> io::Result<()> {
    let stamp = Timestamp::now().compact();
    let mut target = sibling(&place.path, &stamp);
    let mut number = 0_u32;
    while target.exists() {
        number += 1;
        target = sibling(&place.path, &format!("{stamp}-{number:06}"));
    }
    fs::rename(&place.path, &target)?;
    let mut rotated = rotated_files(&place.path)?;
    rotated.sort();
    let surplus = rotated
        .len()
        .saturating_sub(place.max_files.saturating_sub(1));
    for old in rotated.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(())
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Files that a rotation made, of this log only (`1.log` must not take `11.log.…`).
fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_rotated = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_slice())
            .is_some_and(|suffix| suffix.first().is_some_and(u8::is_ascii_digit));
        if is_rotated {
            found.push(entry.path());
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

    #[test]
    fn a_log_is_rotated_at_line_ends_and_old_files_go() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0.log");
        let place = Place {
            path: path.clone(),
            max_bytes: 100,
            max_files: 3,
        };
        fs::write(
            directory.path().join("10.log.20200101-000000"),
            "another log",
        )
        .expect("write");
        for number in 0..100 {
            append(&place, format!("line {number:04}\n").repeat(3).as_bytes()).expect("append");
        }
        let rotated = rotated_files(&path).expect("list");
        assert_eq!(rotated.len(), 2);
        assert!(directory.path().join("10.log.20200101-000000").exists());
        let newest = fs::read_to_string(&path).expect("read");
        assert!(newest.ends_with("line 0099\n"));
        for file in rotated {
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
        let disk = Disk { jobs: channel().0 };
        let place = Place {
            path: path.clone(),
            max_bytes: 1000,
            max_files: 2,
        };
        let log = Log::new(place, disk);
        write_log(&log, b"lost\n");
        write_log(&log, b"lost again\n");
        fs::create_dir(directory.path().join("gone")).expect("directory");
        write_log(&log, b"kept\n");
        write_log(&log, b"kept too\n");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(
            text.matches("16 bytes of output were lost").count(),
            1,
            "{text}"
        );
        assert!(text.ends_with("kept\nkept too\n"), "{text}");
    }
}
