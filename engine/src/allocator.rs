//! The system's allocator, which under a memory cap ends the process by a signal of its own.
//!
//! Rust answers a failed allocation with SIGABRT, as it does a stack overflow or a panic in a destructor; the
//! compile helper has to tell these apart, on any of its threads.

use rustix::process::Signal;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a process whose memory cap is reached; has no other sender here.
pub const EXHAUSTED: Signal = Signal::USR1;

static SIGNALS: AtomicBool = AtomicBool::new(false);

/// From now on a failed allocation ends the process by [`EXHAUSTED`].
pub fn signal_exhaustion() {
    SIGNALS.store(true, Ordering::Relaxed);
}

/// See the module.
pub struct Allocator;

fn check(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() && SIGNALS.load(Ordering::Relaxed) {
        // Allocates nothing. Should it fail, the usual SIGABRT follows.
        let _ = rustix::process::kill_process(rustix::process::getpid(), EXHAUSTED);
    }
    pointer
}

// SAFETY: every call goes to `System` unchanged, and so does every pointer it returns.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(unsafe { System.realloc(pointer, layout, size) })
    }
}
