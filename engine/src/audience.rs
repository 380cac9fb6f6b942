//! Who is attached to a container: clients that hear what it writes from the moment when they came.
//!
//! The guest waits for them as it waits for the disk, so that nobody misses anything; who takes nothing for
//! [`PATIENCE`] although the guest waits is let go, so that nobody holds it for ever. The log file has everything.

use crate::frame;
use crate::lines::Stream;
use crate::outbox::Outbox;
use crate::output::AHEAD_BYTES;
use crate::protocol::{AttachSpec, Error, ErrorReason, ExecExit};
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// At one container at once.
const PER_CONTAINER: usize = 32;

/// How long the guest waits for a client that takes nothing.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A guest that does not wait, though it should, is not waited for here either.
const OVERFULL_BYTES: usize = 1024 * 1024;

/// The clients of one container.
#[derive(Default)]
pub struct Audience {
    present: Mutex<Present>,
    /// Woken when a client has taken something: the log's.
    room: Arc<Notify>,
    /// Whether the container has a terminal.
    terminal: bool,
}

#[derive(Default)]
struct Present {
    seats: Vec<Seat>,
    /// The container has ended.
    over: bool,
}

struct Seat {
    outbox: Arc<Outbox>,
    /// Whether it hears stdout, and stderr.
    hears: [bool; 2],
}

impl Audience {
    /// Nobody yet.
    pub fn new(room: &Arc<Notify>, terminal: bool) -> Self {
        Self {
            present: Mutex::default(),
            room: Arc::clone(room),
            terminal,
        }
    }

    /// Whether what the container writes is shown on a terminal.
    pub fn has_terminal(&self) -> bool {
        self.terminal
    }

    /// One more, from now on.
    pub fn enter(&self, spec: &AttachSpec) -> Result<Arc<Outbox>, Error> {
        let mut present = lock(&self.present);
        if present.over {
            return Err(Error::new(
                ErrorReason::Conflict,
                "the container is not running",
            ));
        }
        if present.seats.len() >= PER_CONTAINER {
            let text =
                format!("{PER_CONTAINER} clients are attached to this container; end one of them");
            return Err(Error::new(ErrorReason::Busy, text));
        }
        let outbox = Arc::new(Outbox::new(&self.room, self.terminal));
        present.seats.push(Seat {
            outbox: Arc::clone(&outbox),
            hears: [spec.stdout, spec.stderr],
        });
        Ok(outbox)
    }

    /// One less; nobody waits for it any more.
    pub fn leave(&self, outbox: &Arc<Outbox>) {
        let mut present = lock(&self.present);
        (present.seats).retain(|seat| !Arc::ptr_eq(&seat.outbox, outbox));
        drop(present);
        self.room.notify_waiters();
    }

    /// The container, or the engine in its name, writes this.
    pub fn hear(&self, stream: Stream, bytes: &[u8]) {
        let channel = match stream {
            Stream::Stdout => frame::STDOUT,
            Stream::Stderr => frame::STDERR,
        };
        let mut present = lock(&self.present);
        present.seats.retain(|seat| {
            if seat.outbox.held() > OVERFULL_BYTES {
                dismiss(&seat.outbox, &too_slow());
                return false;
            }
            if seat.hears[stream as usize] {
                seat.outbox.show(channel, bytes);
            }
            true
        });
    }

    /// Keys that somebody typed are on everybody's screen.
    pub fn echo(&self, bytes: &[u8]) {
        for seat in &lock(&self.present).seats {
            if seat.outbox.held() < AHEAD_BYTES {
                seat.outbox.write(frame::STDOUT, bytes);
            }
        }
    }

    /// Whether the guest may write now.
    pub fn has_room(&self) -> bool {
        let present = lock(&self.present);
        present
            .seats
            .iter()
            .all(|it| it.outbox.held() < AHEAD_BYTES)
    }

    /// The container has ended, and nobody hears more than that.
    pub fn end(&self, exit: &ExecExit) {
        let mut present = lock(&self.present);
        present.over = true;
        for seat in std::mem::take(&mut present.seats) {
            seat.outbox.write_document(frame::EXIT, exit);
            seat.outbox.end();
        }
    }
}

/// Tells a client why it hears no more; the container goes on.
pub fn dismiss(outbox: &Outbox, why: &Error) {
    outbox.write_document(frame::DISMISSAL, why);
    outbox.end();
}

/// Why a client is let go that does not read.
pub fn too_slow() -> Error {
    let text = format!(
        "nothing was read here for {} s while the container waited to write; it goes on, and its log has everything",
        PATIENCE.as_secs()
    );
    Error::new(ErrorReason::TooSlow, text)
}
