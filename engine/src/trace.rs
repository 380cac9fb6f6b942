//! The engine's own log: JSON lines on standard error.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to log; only this crate's events, since WASI calls are spans of their own and cost guests their time.
pub fn start() {
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(|| Lossy)
        // It would write to standard error what standard error did not take.
        .log_internal_errors(false)
        .with_filter(Targets::new().with_target("wasmlet_engine", tracing::Level::INFO));
    tracing_subscriber::registry().with(lines).init();
}

/// Standard error, which may be a pipe that nobody reads any more: the engine outlives its agent, so a line that
/// would block is dropped.
struct Lossy;

impl io::Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut descriptors = [PollFd::new(&stderr, PollFlags::OUT)];
        let ready = poll(
            &mut descriptors,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap_or(0);
        if ready > 0 && descriptors[0].revents().contains(PollFlags::OUT) {
            stderr.lock().write(bytes)
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
