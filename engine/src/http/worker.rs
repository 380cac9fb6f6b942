//! One instance that serves several requests at once, from outside: what it was given, and whether it takes more.

use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::request::Job;
use crate::sync::lock;
use futures::task::AtomicWaker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Requests that it serves at once: as `wasmtime serve`.
const AT_ONCE: usize = 16;

/// An instance, from outside.
pub struct Worker {
    reuse: u32,
    inner: Mutex<Inner>,
    /// Nothing keeps it from another request: it waits for something.
    is_ready: AtomicBool,
    /// Wakes the instance: a request came, or it may go.
    waker: AtomicWaker,
    /// Wakes who drops it.
    ended: Notify,
}

#[derive(Default)]
struct Inner {
    inbox: VecDeque<Box<Job>>,
    open: Vec<Arc<Exchange>>,
    given: u32,
    /// It takes no more.
    is_closed: bool,
    /// One of its requests was given up, and it is at work on that still.
    is_broken: bool,
    /// It goes as soon as it has nothing to do.
    is_hurried: bool,
    /// It has nothing to do.
    is_resting: bool,
    /// Since when it goes on with nobody waiting.
    since: Option<Instant>,
}

impl Inner {
    /// Whether nobody needs it any more.
    fn may_go(&self, reuse: u32) -> bool {
        self.open.is_empty() && (self.is_closed || self.is_hurried || self.given >= reuse)
    }

    /// Its last request is over.
    fn note_empty(&mut self) {
        if self.open.is_empty() && !self.is_resting {
            self.since = Some(Instant::now());
        }
    }
}

impl Worker {
    /// One that takes so many requests in all.
    pub fn new(reuse: u32) -> Self {
        Self {
            reuse,
            inner: Mutex::default(),
            is_ready: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ended: Notify::new(),
        }
    }

    /// Takes a request, unless it is full, closed or computing for others. One that is over by now is dropped.
    pub fn offer(self: &Arc<Self>, job: Box<Job>) -> Result<(), Box<Job>> {
        let mut inner = lock(&self.inner);
        let is_free = inner.open.is_empty() || self.is_ready.load(Ordering::Relaxed);
        if inner.is_closed || inner.given >= self.reuse || inner.open.len() >= AT_ONCE || !is_free {
            return Err(job);
        }
        if !job.exchange.enter(self) {
            return Ok(());
        }
        inner.given += 1;
        inner.since = None;
        inner.open.push(Arc::clone(&job.exchange));
        inner.inbox.push_back(job);
        drop(inner);
        self.is_ready.store(false, Ordering::Relaxed);
        self.waker.wake();
        Ok(())
    }

    /// Who is to be woken when there is something to do.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The next request.
    pub fn next(&self) -> Option<Box<Job>> {
        lock(&self.inner).inbox.pop_front()
    }

    /// Notes whether it waits, and tells whether it did before.
    pub fn set_ready(&self, is_ready: bool) -> bool {
        self.is_ready.swap(is_ready, Ordering::Relaxed)
    }

    /// Gives back what it has not begun with.
    pub fn take_back(&self) -> VecDeque<Box<Job>> {
        let mut inner = lock(&self.inner);
        let jobs = std::mem::take(&mut inner.inbox);
        for job in &jobs {
            inner.open.retain(|it| !Arc::ptr_eq(it, &job.exchange));
            inner.given -= 1;
            job.exchange.wait();
        }
        if !jobs.is_empty() {
            inner.note_empty();
        }
        jobs
    }

    /// A request is over; unless it was finished, this instance is at work on it still, and gets no more.
    pub fn leave(&self, exchange: &Arc<Exchange>, is_finished: bool) {
        let is_its = |it: &Arc<Exchange>| Arc::ptr_eq(it, exchange);
        let mut inner = lock(&self.inner);
        let Some(at) = inner.open.iter().position(is_its) else {
            return;
        };
        inner.open.swap_remove(at);
        let waiting = inner.inbox.len();
        inner.inbox.retain(|it| !is_its(&it.exchange));
        if !is_finished && inner.inbox.len() == waiting {
            inner.is_closed = true;
            inner.is_broken = true;
        }
        inner.note_empty();
        let (may_go, is_broken) = (inner.may_go(self.reuse), inner.is_broken);
        drop(inner);
        if may_go && is_broken {
            self.end();
        } else if may_go {
            self.waker.wake();
        }
    }

    /// Whether there is something to do, as the instance sees it.
    pub fn note_rest(&self, is_resting: bool) {
        let mut inner = lock(&self.inner);
        inner.is_resting = is_resting;
        inner.since = None;
        inner.note_empty();
    }

    /// Takes no more from now on, if nothing is left and it has rested, or is not needed any more.
    pub fn close(&self, has_rested: bool) -> bool {
        let mut inner = lock(&self.inner);
        inner.is_hurried |= has_rested;
        let may_go = inner.may_go(self.reuse);
        inner.is_closed |= may_go;
        may_go
    }

    /// It goes as soon as it has nothing to do.
    pub fn hurry(&self) {
        lock(&self.inner).is_hurried = true;
        self.waker.wake();
    }

    /// It is dropped now.
    pub fn end(&self) {
        self.ended.notify_one();
    }

    /// Waits for that.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Until when it may be at work for nobody, if it is.
    pub fn until(&self, limit: Duration) -> Option<Instant> {
        lock(&self.inner).since.map(|since| since + limit)
    }

    /// Its requests that are not over.
    pub fn open(&self) -> Vec<Arc<Exchange>> {
        lock(&self.inner).open.clone()
    }

    /// Takes no more, and fails what is open; which requests these are.
    pub fn fail(&self, failure: &Failure) -> Vec<Arc<Exchange>> {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        for exchange in &inner.open {
            exchange.fail(failure.clone());
        }
        inner.open.clone()
    }
}
