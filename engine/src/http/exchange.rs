//! One request, from its head to the end of the guest's work for it: who waits, what has come of it, until when.

use crate::http::connection::Client;
use crate::http::failure::Failure;
use crate::http::worker::Worker;
use crate::sync::lock;
use hyper::body::Incoming;
use hyper::{Method, Request, Uri, Version};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often a client is looked for that does not have its answer.
pub const LOOK: Duration = Duration::from_millis(500);

/// Of a request's path this much is logged.
const PATH_CHARACTERS: usize = 200;

/// One request, from its head to the end of the guest's work for it.
pub struct Exchange {
    /// Who asked.
    pub client: Arc<Client>,
    version: Version,
    method: Method,
    uri: Uri,
    begin: Instant,
    is_answered: AtomicBool,
    /// The client has the whole answer, or gets no more of it.
    is_over: AtomicBool,
    /// Milliseconds from the beginning to the last part of the answer.
    progress: AtomicU64,
    failure: OnceLock<Failure>,
    /// Wakes who waits for its end.
    settled: Notify,
    /// In a shared instance: the guest has done what it was asked for.
    is_whole: AtomicBool,
    place: Mutex<Place>,
}

/// Where a request is that shares its instance.
enum Place {
    Waiting,
    In(Arc<Worker>),
    Left,
}

impl Exchange {
    /// One that begins now.
    pub fn new(request: &Request<Incoming>, client: Arc<Client>) -> Self {
        Self {
            client,
            version: request.version(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            begin: Instant::now(),
            is_answered: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            failure: OnceLock::new(),
            settled: Notify::new(),
            is_whole: AtomicBool::new(false),
            place: Mutex::new(Place::Waiting),
        }
    }

    /// It is in this instance from now on; false if it is over already.
    pub fn enter(&self, worker: &Arc<Worker>) -> bool {
        let mut place = lock(&self.place);
        let is_there = !matches!(*place, Place::Left);
        if is_there {
            *place = Place::In(Arc::clone(worker));
        }
        is_there
    }

    /// It is in no instance any more, and wants another one.
    pub fn wait(&self) {
        let mut place = lock(&self.place);
        if matches!(*place, Place::In(_)) {
            *place = Place::Waiting;
        }
    }

    /// It is over, and in no instance any more: in which it was, if it was in one. `None` if it was over before.
    pub fn leave(&self) -> Option<Option<Arc<Worker>>> {
        match std::mem::replace(&mut *lock(&self.place), Place::Left) {
            Place::In(worker) => Some(Some(worker)),
            Place::Waiting => Some(None),
            Place::Left => None,
        }
    }

    /// Whether it is in an instance.
    pub fn is_placed(&self) -> bool {
        matches!(*lock(&self.place), Place::In(_))
    }

    /// The guest has done what it was asked for.
    pub fn note_whole(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
        self.settled.notify_waiters();
    }

    /// Whether it has.
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// Waits until it has failed, or is whole.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.has_failed() || self.is_whole() {
                return;
            }
            settled.await;
        }
    }

    /// Whether it was asked for the head alone.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether the guest failed it.
    pub fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Why it came to nothing, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// What was asked, for the log.
    pub fn summary(&self) -> String {
        let path: String = self.uri.path().chars().take(PATH_CHARACTERS).collect();
        format!("{} {path}", self.method)
    }

    /// The guest has answered, or said that it cannot.
    pub fn note_answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
        self.note_progress();
    }

    /// Whether it has.
    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// A part of the answer goes out now.
    pub fn note_progress(&self) {
        let elapsed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(elapsed, Ordering::Relaxed);
    }

    /// The first reason is the one.
    pub fn fail(&self, failure: Failure) {
        if self.failure.set(failure).is_ok() {
            self.settled.notify_waiters();
        }
    }

    /// The last part of the answer is on its way.
    pub fn note_over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether nothing of the answer is left.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Until when the answer's next part has to come.
    pub fn deadline(&self, limit: Duration) -> Instant {
        self.begin + Duration::from_millis(self.progress.load(Ordering::Relaxed)) + limit
    }

    /// Until when it may go on before it is looked at again; an error if nothing has come for so long, or if the client
    /// has gone though there is a request's body that nobody reads: then hyper does not notice. (Of HTTP/2 everything is
    /// always read.)
    pub fn look(&self, limit: Duration, now: Instant) -> Result<Instant, Failure> {
        let deadline = self.deadline(limit);
        if deadline <= now {
            return Err(Failure::Late);
        }
        if self.version == Version::HTTP_2 || self.is_over() {
            return Ok(deadline);
        }
        if now >= self.begin + LOOK && self.client.is_gone() {
            return Err(Failure::Left);
        }
        Ok(deadline.min(now + LOOK))
    }

    /// Waits until it has to be given up.
    pub async fn overdue(&self, limit: Duration) -> Failure {
        loop {
            match self.look(limit, Instant::now()) {
                Ok(until) => tokio::time::sleep_until(until.into()).await,
                Err(failure) => return failure,
            }
        }
    }
}
