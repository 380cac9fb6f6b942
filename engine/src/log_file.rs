//! A log's files: the current one is appended to and rotated, as a kubelet does it (`{name}` becomes `{name}.{time}`).

use crate::disk::{FILE_MODE, can_make};
use crate::log::Log;
use crate::sync::lock;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Whether a log can be written at `path`. The first line makes the file: a guest that says nothing has none, and its
/// start waits for no file system.
pub fn check(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_make(path),
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
pub fn append(log: &Log, lines: &[u8]) -> io::Result<usize> {
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

/// `{path}.{suffix}`.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Files that a rotation made, oldest first, of this log only (`1.log` must not take `11.log.…`).
pub fn rotated_files(path: &Path) -> io::Result<BTreeMap<Suffix, PathBuf>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::log;

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
}
