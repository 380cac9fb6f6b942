//! Which of the instances that serve several requests at once gets which request, and what becomes of it.
//!
//! A request goes to an instance that has room and nothing to compute, else to a new one, else it waits. An instance takes
//! so many requests in all, and so many at once; it goes when it has had nothing to do for a second. One of its requests
//! that takes too long, or whose client leaves, is its end: it gets no more requests, and is interrupted when the others
//! are over. A trap is the end of them all.
//!
//! One task watches over all requests of a container, while there are any: timers and tasks of each would cost more than
//! small guests compute.

use crate::http::Server;
use crate::http::exchange::{Exchange, LOOK};
use crate::http::failure::Failure;
use crate::http::instances::Full;
use crate::http::request::Job;
use crate::http::worker::Worker;
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::TryAcquireError;

/// Requests that one instance serves in all, where the sandbox's spec says nothing: as `wasmtime serve`.
const REUSE: u32 = 128;

/// One container's shared instances.
pub struct Workers {
    reuse: u32,
    most_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Arc<Worker>>,
    waiting: VecDeque<Box<Job>>,
    /// Somebody watches over them.
    is_watched: bool,
}

impl Workers {
    /// None yet.
    pub fn new(reuse: Option<u32>, most_waiting: u32) -> Self {
        Self {
            reuse: reuse.unwrap_or(REUSE),
            most_waiting: most_waiting as usize,
            state: Mutex::default(),
        }
    }

    /// Takes an instance off the list.
    pub fn remove(&self, worker: &Arc<Worker>) {
        let mut state = lock(&self.state);
        state.workers.retain(|it| !Arc::ptr_eq(it, worker));
    }

    /// Puts back what another instance may have time for.
    pub fn put_back(&self, jobs: VecDeque<Box<Job>>) {
        lock(&self.state).waiting.extend(jobs);
    }
}

/// A request that somebody waits for; given up when dropped, unless it is over.
pub struct Watched {
    server: Arc<Server>,
    exchange: Arc<Exchange>,
}

impl Watched {
    /// Its answer is whole.
    pub fn finish(self) {
        self.exchange.note_whole();
        self.server.settle(&self.exchange);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.exchange.is_whole() {
            self.server.give_up(&self.exchange, Failure::Left);
        }
    }
}

impl Server {
    /// Gives a request to an instance, now or when there is one, and watches over it.
    pub fn hand_over(self: &Arc<Self>, job: Job) -> Result<Watched, Full> {
        let exchange = Arc::clone(&job.exchange);
        let mut state = lock(&self.workers.state);
        if let Err(job) = self.place(&mut state, Box::new(job))? {
            if state.waiting.len() >= self.workers.most_waiting {
                return Err(Full);
            }
            state.waiting.push_back(job);
        }
        if !std::mem::replace(&mut state.is_watched, true) {
            let watch = watch(Arc::downgrade(self));
            self.parts.threads.fast.spawn(watch);
        }
        drop(state);
        Ok(Watched {
            server: Arc::clone(self),
            exchange,
        })
    }

    /// Into an instance that has room, or a new one if there may be another; else it is given back.
    fn place(
        self: &Arc<Self>,
        state: &mut State,
        job: Box<Job>,
    ) -> Result<Result<(), Box<Job>>, Full> {
        let mut job = job;
        for worker in &state.workers {
            match worker.offer(job) {
                Ok(()) => return Ok(Ok(())),
                Err(refused) => job = refused,
            }
        }
        match self.instances.try_enter() {
            Ok(permit) => {
                let worker = Arc::new(Worker::new(self.workers.reuse));
                let offered = worker.offer(job);
                state.workers.push(Arc::clone(&worker));
                let instance = Arc::clone(self).employ(worker, permit);
                self.parts.threads.fast.spawn(instance);
                Ok(offered)
            }
            Err(TryAcquireError::NoPermits) => Ok(Err(job)),
            Err(TryAcquireError::Closed) => Err(Full),
        }
    }

    /// Gives those that wait to instances that have room now.
    pub fn relieve(self: &Arc<Self>) {
        let mut state = lock(&self.workers.state);
        while let Some(job) = state.waiting.pop_front() {
            // Nobody waits for it any more.
            if job.head.is_closed() {
                continue;
            }
            if let Ok(Err(job)) = self.place(&mut state, job) {
                state.waiting.push_front(job);
                break;
            }
        }
    }

    /// A request comes to nothing for this reason, unless there is one already.
    pub fn give_up(self: &Arc<Self>, exchange: &Arc<Exchange>, failure: Failure) {
        exchange.fail(failure);
        self.settle(exchange);
    }

    /// A request has failed, or is whole: notes that, and gives its place in an instance to another one. Once.
    pub fn settle(self: &Arc<Self>, exchange: &Arc<Exchange>) {
        let Some(worker) = exchange.leave() else {
            return;
        };
        self.note_end(exchange);
        if let Some(worker) = worker {
            worker.leave(exchange, exchange.is_whole());
            self.relieve();
        }
    }

    /// Gives up what is late, ends what goes on for nobody; when to look again, unless there is nothing.
    fn look_after(self: &Arc<Self>) -> Option<Instant> {
        let (limit, now) = (self.limit(), Instant::now());
        let mut state = lock(&self.workers.state);
        if state.workers.is_empty() && state.waiting.is_empty() {
            state.is_watched = false;
            return None;
        }
        let workers = state.workers.clone();
        let waiting: Vec<_> = (state.waiting.iter())
            .map(|it| Arc::clone(&it.exchange))
            .collect();
        drop(state);
        // What comes meanwhile is late no sooner than what is here, or is seen early enough.
        let mut next = now + LOOK.min(limit / 4).max(Duration::from_millis(1));
        let open = workers.iter().flat_map(|it| it.open());
        for exchange in open.chain(waiting) {
            match exchange.look(limit, now) {
                Ok(until) => next = next.min(until),
                Err(Failure::Late) if !exchange.is_placed() => {
                    self.give_up(&exchange, Failure::Crowded);
                }
                Err(failure) => self.give_up(&exchange, failure),
            }
        }
        for worker in workers {
            match worker.until(limit) {
                Some(until) if until <= now => {
                    let text = "wasmlet: an instance went on after its answers for longer than";
                    let text = format!("{text} {} s, and was ended", limit.as_secs_f64());
                    self.parts.log.note(&text);
                    self.workers.remove(&worker);
                    worker.end();
                }
                Some(until) => next = next.min(until),
                None => {}
            }
        }
        Some(next)
    }
}

async fn watch(server: Weak<Server>) {
    loop {
        let next = server.upgrade().and_then(|it| it.look_after());
        let Some(next) = next else { return };
        tokio::time::sleep_until(next.into()).await;
    }
}
