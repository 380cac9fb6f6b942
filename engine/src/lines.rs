//! Lines of a log file, in CRI format: `{RFC 3339 time} {stdout|stderr} {P|F} {content}`.
//!
//! Several instances write at once; no line is of two. A line's unterminated rest stays here until its newline comes, or
//! until it is as long as a line may be, or until it is to be shown.

use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::io::Write as _;

/// Longer lines are cut into parts, as containerd and CRI-O do.
const LINE_BYTES: usize = 16 * 1024;

/// Instances of which the unterminated rests are kept; those of more are shown at once.
const RESTS: usize = 64;

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
    /// Which one; 0 is the engine.
    pub instance: u64,
    /// Where to.
    pub stream: Stream,
}

/// The engine's own lines among the guest's.
pub const ENGINE: Voice = Voice {
    instance: 0,
    stream: Stream::Stderr,
};

/// Bytes that become lines. In the file a line goes on after a part of it (`P`), whoever writes next: when that is
/// another instance, the line is ended first.
#[derive(Default)]
pub struct Lines {
    /// What has no newline yet; never empty.
    rests: BTreeMap<Voice, Vec<u8>>,
    /// Whose line is open in the file: of stdout and of stderr.
    open: [Option<u64>; 2],
}

impl Lines {
    /// Appends `bytes` to the rest of the voice's line, and each line that becomes whole to `framed`.
    pub fn take(&mut self, framed: &mut Vec<u8>, now: Timestamp, voice: Voice, mut bytes: &[u8]) {
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
    pub fn flush(&mut self, framed: &mut Vec<u8>, now: Timestamp) {
        for (voice, rest) in std::mem::take(&mut self.rests) {
            self.push(framed, now, voice, 'P', &[&rest]);
        }
    }

    /// Whether something waits for its newline.
    pub fn has_rests(&self) -> bool {
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
