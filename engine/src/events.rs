//! What happened to sandboxes, in order, for any number of clients.
//!
//! Events are kept by reference in a ring; each stream has only a cursor, so a slow client costs nothing. One that
//! fell off the ring is ended, comes back with `after`, and is then told of the gap.

use crate::protocol::{Event, EventType};
use crate::sandbox::{Moment, Sandbox};
use crate::sync::lock;
use crate::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// How many events are kept; fixed by the protocol.
const KEPT: usize = 4096;

/// Events rendered into one chunk of a stream at most.
const BATCH: usize = 64;

/// The engine's events.
pub struct Events {
    incarnation: Arc<str>,
    ring: Mutex<Ring>,
    /// Wakes the streams; holds the last sequence.
    last: watch::Sender<u64>,
}

struct Ring {
    kept: VecDeque<Kept>,
    /// The sequence of the newest event, 0 before the first.
    last: u64,
    /// No event follows any more.
    closed: bool,
}

#[derive(Clone)]
struct Kept {
    sequence: u64,
    time: Timestamp,
    sandbox: Arc<Sandbox>,
    moment: Moment,
}

/// Where a client wants to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The last sequence it has seen.
    pub after: u64,
    /// The incarnation that `after` counts in, when it knows one.
    pub incarnation: Option<String>,
}

/// What a stream sends next.
enum Step {
    Lines(Bytes, u64),
    Wait,
    End,
}

impl Events {
    /// No events yet.
    pub fn new(incarnation: Arc<str>) -> Self {
        let ring = Ring {
            kept: VecDeque::new(),
            last: 0,
            closed: false,
        };
        Self {
            incarnation,
            ring: Mutex::new(ring),
            last: watch::channel(0).0,
        }
    }

    /// Appends what just happened to a sandbox.
    pub fn publish(&self, sandbox: &Arc<Sandbox>, moment: Moment) {
        let sequence = {
            let mut ring = lock(&self.ring);
            ring.last += 1;
            if ring.kept.len() == KEPT {
                ring.kept.pop_front();
            }
            let sequence = ring.last;
            ring.kept.push_back(Kept {
                sequence,
                time: Timestamp::now(),
                sandbox: Arc::clone(sandbox),
                moment,
            });
            sequence
        };
        self.last.send_replace(sequence);
    }

    /// Lets every stream end after the events that it has not sent yet.
    pub fn close(&self) {
        lock(&self.ring).closed = true;
        self.last.send_modify(|_| ());
    }

    /// Chunks of NDJSON, beginning where the client wants.
    pub fn stream(self: &Arc<Self>, since: &Since) -> impl Stream<Item = Bytes> + Send + 'static {
        let (gap, cursor) = self.begin(since);
        let events = Arc::clone(self);
        let changes = self.last.subscribe();
        futures::stream::unfold(
            (events, changes, gap, cursor),
            |(events, mut changes, gap, cursor)| async move {
                if let Some(gap) = gap {
                    return Some((gap, (events, changes, None, cursor)));
                }
                loop {
                    changes.borrow_and_update();
                    match events.step(cursor) {
                        Step::Lines(lines, cursor) => {
                            return Some((lines, (events, changes, None, cursor)));
                        }
                        Step::Wait => changes.changed().await.ok()?,
                        Step::End => return None,
                    }
                }
            },
        )
    }

    /// The gap to tell of first, if any, and the sequence after which the stream goes on.
    fn begin(&self, since: &Since) -> (Option<Bytes>, u64) {
        let ring = lock(&self.ring);
        let before_kept = ring.last - ring.kept.len() as u64;
        let other = since
            .incarnation
            .as_deref()
            .is_some_and(|it| it != &*self.incarnation);
        if !other && (before_kept..=ring.last).contains(&since.after) {
            return (None, since.after);
        }
        let gap = Event {
            incarnation: self.incarnation.to_string(),
            sequence: before_kept,
            time: Timestamp::now(),
            event_type: EventType::Gap,
            sandbox: None,
        };
        let mut line = BytesMut::new();
        write_line(&mut line, &gap);
        (Some(line.freeze()), before_kept)
    }

    fn step(&self, cursor: u64) -> Step {
        let batch: Vec<Kept> = {
            let ring = lock(&self.ring);
            let before_kept = ring.last - ring.kept.len() as u64;
            let Some(skip) = cursor.checked_sub(before_kept) else {
                return Step::End;
            };
            ring.kept
                .iter()
                .skip(skip as usize)
                .take(BATCH)
                .cloned()
                .collect()
        };
        let Some(newest) = batch.last().map(|kept| kept.sequence) else {
            return if lock(&self.ring).closed {
                Step::End
            } else {
                Step::Wait
            };
        };
        let mut lines = BytesMut::new();
        for kept in &batch {
            write_line(&mut lines, &self.render(kept));
        }
        Step::Lines(lines.freeze(), newest)
    }

    fn render(&self, kept: &Kept) -> Event {
        Event {
            incarnation: self.incarnation.to_string(),
            sequence: kept.sequence,
            time: kept.time,
            event_type: match kept.moment {
                Moment::Started => EventType::Started,
                Moment::Exited => EventType::Exited,
            },
            sandbox: Some(kept.sandbox.document_at(kept.moment)),
        }
    }
}

fn write_line(lines: &mut BytesMut, event: &Event) {
    let mut writer = lines.writer();
    // Serialising these types into memory has no way to fail: no maps with other keys, no foreign Serialize.
    if serde_json::to_writer(&mut writer, event).is_ok() {
        lines.put_u8(b'\n');
    }
}
