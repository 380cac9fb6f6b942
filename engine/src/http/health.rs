//! Whether a guest is worth going on with: five traps in ten seconds with no success between them are its end, so that
//! restarts are counted and backed off.

use crate::exit::Ending;
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So many traps are the end...
const TRAPS: usize = 5;

/// ...within this time.
const WINDOW: Duration = Duration::from_secs(10);

/// The last traps of a server.
#[derive(Default)]
pub struct Health {
    /// Spares the lock while nothing goes wrong.
    is_troubled: AtomicBool,
    traps: Mutex<Traps>,
    given_up: Notify,
}

#[derive(Default)]
struct Traps {
    recent: VecDeque<Instant>,
    ending: Option<Ending>,
}

impl Health {
    /// A request was served.
    pub fn note_success(&self) {
        if self.is_troubled.swap(false, Ordering::Relaxed) {
            lock(&self.traps).recent.clear();
        }
    }

    /// A request ended the guest in this way.
    pub fn note_trap(&self, ending: Ending) {
        let mut traps = lock(&self.traps);
        self.is_troubled.store(true, Ordering::Relaxed);
        if traps.note(Instant::now()) && traps.ending.is_none() {
            traps.ending = Some(ending);
            drop(traps);
            self.given_up.notify_waiters();
        }
    }

    /// Waits for the trap that is too much.
    pub async fn given_up(&self) -> Ending {
        loop {
            let given_up = self.given_up.notified();
            if let Some(ending) = &lock(&self.traps).ending {
                return ending.clone();
            }
            given_up.await;
        }
    }
}

impl Traps {
    /// Whether the trap of this moment is too much.
    fn note(&mut self, now: Instant) -> bool {
        self.recent.push_back(now);
        while self
            .recent
            .front()
            .is_some_and(|&first| now.duration_since(first) >= WINDOW)
        {
            self.recent.pop_front();
        }
        self.recent.len() >= TRAPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_traps_in_ten_seconds_are_too_much() {
        let (mut traps, begin) = (Traps::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for seconds in [0, 1, 2, 3, 10, 11, 12] {
            assert!(!traps.note(at(seconds)), "{seconds}");
        }
        assert!(traps.note(at(12)));
    }
}
