//! Instances that serve several requests at once, as those of WASI 0.3 do.
//!
//! A request goes to an instance that has room and nothing to compute, else to a new one, else it waits. An instance takes
//! so many requests in all, and so many at once; it goes when it has had nothing to do for a second. One of its requests
//! that takes too long, or whose client leaves, is its end: it gets no more requests, and is interrupted when the others
//! are over. A trap is the end of them all.

use crate::exit::Ending;
use crate::guest::{Guest, HANDLES};
use crate::http::instances::{Full, KEPT};
use crate::http::request::{Exchange, Failure, Head};
use crate::http::{Phase, Server, seconds};
use crate::meter;
use crate::program::Handler;
use crate::sync::lock;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, TryAcquireError, oneshot};
use tokio::time::Sleep;
use wasmtime::component::Accessor;
use wasmtime::{PoolConcurrencyLimitError, Result, Store};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, FieldMap, WasiHttpHooks, WasiHttpView as _, p3};

/// Requests that one instance serves in all, where the sandbox's spec says nothing: as `wasmtime serve`.
const REUSE: u32 = 128;

/// Requests that it serves at once: as `wasmtime serve`.
const AT_ONCE: usize = 16;

/// A request on its way to an instance.
pub struct Job {
    request: Request<Incoming>,
    exchange: Arc<Exchange>,
    head: oneshot::Sender<Head>,
}

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
}

/// One instance, from outside.
pub struct Worker {
    reuse: u32,
    inner: Mutex<Inner>,
    /// Nothing keeps it from another request: it waits for something.
    is_ready: AtomicBool,
    /// Wakes the instance: a request came, or one is over.
    waker: AtomicWaker,
    /// Wakes who watches it.
    changed: Notify,
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
    /// Since when it goes on with nobody waiting.
    since: Option<Instant>,
}

/// A request that somebody waits for; given up when dropped, unless it is over.
pub struct Watched(Arc<Exchange>);

impl Watched {
    /// Its answer is whole.
    pub fn finish(self) {
        self.0.note_whole();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.0.is_whole() {
            self.0.fail(Failure::Left);
        }
    }
}

/// A request's place in an instance; left when dropped.
pub struct Seat {
    server: Arc<Server>,
    exchange: Arc<Exchange>,
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
}

impl Server {
    /// Gives a request to an instance, now or when there is one, and watches over it.
    pub fn hand_over(
        self: &Arc<Self>,
        request: Request<Incoming>,
        exchange: &Arc<Exchange>,
        head: oneshot::Sender<Head>,
        limit: Duration,
    ) -> Result<Watched, Full> {
        let job = Box::new(Job {
            request,
            exchange: Arc::clone(exchange),
            head,
        });
        let mut state = lock(&self.workers.state);
        if let Err(job) = self.place(&mut state, job)? {
            if state.waiting.len() >= self.workers.most_waiting {
                return Err(Full);
            }
            state.waiting.push_back(job);
        }
        drop(state);
        let seat = Seat {
            server: Arc::clone(self),
            exchange: Arc::clone(exchange),
        };
        tokio::spawn(Arc::clone(self).attend(seat, limit));
        Ok(Watched(Arc::clone(exchange)))
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
                tokio::spawn(Arc::clone(self).employ(worker, permit));
                Ok(offered)
            }
            Err(TryAcquireError::NoPermits) => Ok(Err(job)),
            Err(TryAcquireError::Closed) => Err(Full),
        }
    }

    /// Gives those that wait to instances that have room now.
    fn relieve(self: &Arc<Self>) {
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

    /// Waits until a request is over, or its time is; its seat is left then.
    async fn attend(self: Arc<Self>, seat: Seat, limit: Duration) {
        let exchange = &seat.exchange;
        let mut phase = self.phase.subscribe();
        let failure = tokio::select! {
            biased;
            () = exchange.settled() => None,
            failure = exchange.overdue(limit) => Some(failure),
            _ = phase.wait_for(|it| *it == Phase::Over) => Some(Failure::Stopped),
        };
        if let Some(failure) = failure {
            exchange.fail(match failure {
                Failure::Late if !exchange.is_placed() => Failure::Crowded,
                failure => failure,
            });
        }
        self.note_failure(exchange, limit);
    }

    /// An instance's whole life.
    async fn employ(self: Arc<Self>, worker: Arc<Worker>, permit: OwnedSemaphorePermit) {
        let limit = seconds(self.parts.settings.request_timeout_seconds);
        let leaving = Leaving {
            server: Arc::clone(&self),
            worker: Arc::clone(&worker),
            permit: Some(permit),
        };
        let instance = Arc::clone(&self).host(Arc::clone(&worker), leaving);
        let guest = self
            .parts
            .threads
            .drive(&self.parts.account, Box::pin(instance));
        let mut guest = std::pin::pin!(guest);
        let mut phase = self.phase.subscribe();
        let ended = async {
            let _ = phase.wait_for(|it| *it >= Phase::Draining).await;
            worker.hurry();
            let _ = phase.wait_for(|it| *it == Phase::Over).await;
        };
        tokio::select! {
            biased;
            () = &mut guest => {}
            is_broken = worker.outstayed(limit) => if !is_broken {
                let text = "wasmlet: an instance went on after its answers for longer than";
                self.parts.log.note(&format!("{text} {} s, and was ended", limit.as_secs_f64()));
            },
            () = ended => {}
        }
    }

    /// The guest's part: everything in here is counted as its computing.
    async fn host(self: Arc<Self>, worker: Arc<Worker>, leaving: Leaving) {
        // Left when the instance is gone, and so declared before it.
        let _leaving = leaving;
        let Handler::P3(program) = &self.parts.program else {
            return;
        };
        let mut store = self.parts.world.guest().into_store(program.engine());
        store.set_max_component_handles(HANDLES);
        if let Err(error) = self.run(program, &mut store, &worker).await {
            // Noted while the instance is there: without it bodies look whole.
            self.note_fall(&worker, &error);
        }
    }

    async fn run(
        self: &Arc<Self>,
        program: &ServicePre<Guest>,
        store: &mut Store<Guest>,
        worker: &Worker,
    ) -> Result<()> {
        let service = program.instantiate_async(&mut *store).await?;
        let serving =
            store.run_concurrent(async |accessor| serve(accessor, &service, worker).await);
        let mut serving = std::pin::pin!(serving);
        let served = poll_fn(|context| {
            let polled = serving.as_mut().poll(context);
            if polled.is_pending() {
                self.note_pause(worker);
            }
            polled
        });
        served.await.flatten()
    }

    /// An instance has stopped for now: it waits, or only gives way because its tick is over.
    fn note_pause(self: &Arc<Self>, worker: &Worker) {
        let is_ready = !meter::has_given_way();
        let was_ready = worker.is_ready.swap(is_ready, Ordering::Relaxed);
        if is_ready && !was_ready {
            self.relieve();
        }
        if !is_ready {
            // Others may have time for what it has not begun with.
            let jobs = worker.take_back();
            if !jobs.is_empty() {
                lock(&self.workers.state).waiting.extend(jobs);
                self.relieve();
            }
        }
    }

    fn note_fall(&self, worker: &Worker, error: &wasmtime::Error) {
        if error.is::<PoolConcurrencyLimitError>() {
            worker.fail(&Failure::NoRoom);
            return;
        }
        let ending = Ending::from_error(error);
        if worker.fail(&Failure::Shared(ending.clone())) == 0 {
            let why = ending.clone().verdict().message;
            let text = "wasmlet: an instance failed after its answers:";
            self.parts.log.note(&format!("{text} {why}"));
        }
        // One trap, however many requests it takes along.
        self.health.note_trap(ending);
    }
}

/// Serves requests until there is nothing more for this instance to do.
async fn serve(accessor: &Accessor<Guest>, service: &Service, worker: &Worker) -> Result<()> {
    let handler = *service.wasi_http_handler().func_handle().func();
    let mut calls = FuturesUnordered::new();
    let mut rest: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        worker.waker.register(context.waker());
        loop {
            match calls.poll_next_unpin(context) {
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(()))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            let takes = accessor.poll_ready_for_concurrent_call(handler, context);
            if takes.is_ready()
                && let Some(job) = worker.next()
            {
                calls.push(call(accessor, service, job));
                continue;
            }
            if !calls.is_empty() || accessor.poll_no_interesting_tasks(context).is_pending() {
                rest = None;
                return Poll::Pending;
            }
            worker.note_rest();
            let rest = rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(KEPT)));
            let is_over = rest.as_mut().poll(context).is_ready();
            return if worker.close(is_over) {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        }
    })
    .await
}

/// One request. Its answer's body goes on by itself.
async fn call(accessor: &Accessor<Guest>, service: &Service, job: Box<Job>) -> Result<()> {
    let Job {
        request,
        exchange,
        head,
    } = *job;
    let (request, sent) = accessor.with(|mut store| {
        let http = store.data_mut().http();
        let (request, sent) = incoming(http.hooks, request);
        wasmtime::error::Ok((http.table.push(request)?, sent))
    })?;
    let answered = (service.wasi_http_handler().call_handle(accessor, request)).await?;
    match answered {
        Err(code) => {
            exchange.fail(Failure::Refused(format!("{code:?}")));
            exchange.note_whole();
        }
        Ok(response) => {
            let response = accessor.with(|mut store| {
                let response = store.data_mut().http().table.delete(response)?;
                response.into_http(&mut store, sent)
            })?;
            exchange.note_progress();
            // A client that has gone needs no answer.
            let _ = head.send(Ok(response));
        }
    }
    Ok(())
}

/// A request as a guest sees it: whom it is meant for is told apart from its headers.
fn incoming(
    hooks: &mut dyn WasiHttpHooks,
    request: Request<Incoming>,
) -> (
    p3::Request,
    impl Future<Output = Result<(), Error>> + Send + use<>,
) {
    let (head, body) = request.into_parts();
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = match head.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => host.and_then(|host| Authority::try_from(host).ok()),
    };
    let path = head.uri.path_and_query().cloned();
    let headers = FieldMap::new_immutable(hooks, head.headers);
    p3::Request::new(
        head.method,
        Some(Scheme::HTTP),
        authority,
        path,
        headers,
        None,
        body,
    )
}

impl Worker {
    fn new(reuse: u32) -> Self {
        Self {
            reuse,
            inner: Mutex::default(),
            is_ready: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            changed: Notify::new(),
        }
    }

    /// Takes a request, unless it is full, closed or computing for others. One that is over by now is dropped.
    fn offer(self: &Arc<Self>, job: Box<Job>) -> Result<(), Box<Job>> {
        let mut inner = lock(&self.inner);
        let is_free = inner.open.is_empty() || self.is_ready.load(Ordering::Relaxed);
        if inner.is_closed || inner.given >= self.reuse || inner.open.len() >= AT_ONCE || !is_free {
            return Err(job);
        }
        if !job.exchange.enter(self) {
            return Ok(());
        }
        inner.given += 1;
        let was_watched = inner.since.take().is_some();
        inner.open.push(Arc::clone(&job.exchange));
        inner.inbox.push_back(job);
        drop(inner);
        self.is_ready.store(false, Ordering::Relaxed);
        self.waker.wake();
        if was_watched {
            self.changed.notify_waiters();
        }
        Ok(())
    }

    fn next(&self) -> Option<Box<Job>> {
        lock(&self.inner).inbox.pop_front()
    }

    /// Gives back what it has not begun with.
    fn take_back(&self) -> VecDeque<Box<Job>> {
        let mut inner = lock(&self.inner);
        let jobs = std::mem::take(&mut inner.inbox);
        for job in &jobs {
            inner.open.retain(|it| !Arc::ptr_eq(it, &job.exchange));
            inner.given -= 1;
            job.exchange.wait();
        }
        if !jobs.is_empty() && inner.open.is_empty() {
            inner.since = Some(Instant::now());
            drop(inner);
            self.changed.notify_waiters();
        }
        jobs
    }

    /// A request is over; unless it was finished, this instance is at work on it still, and gets no more.
    fn leave(&self, exchange: &Arc<Exchange>, is_finished: bool) {
        let is_its = |it: &Arc<Exchange>| Arc::ptr_eq(it, exchange);
        let mut inner = lock(&self.inner);
        let was_waiting = inner.inbox.iter().any(|it| is_its(&it.exchange));
        inner.inbox.retain(|it| !is_its(&it.exchange));
        inner.open.retain(|it| !is_its(it));
        if !is_finished && !was_waiting {
            inner.is_closed = true;
            inner.is_broken = true;
        }
        let is_empty = inner.open.is_empty();
        if is_empty {
            inner.since = Some(Instant::now());
        }
        drop(inner);
        self.waker.wake();
        if is_empty {
            self.changed.notify_waiters();
        }
    }

    /// Nothing is left to do at this moment.
    fn note_rest(&self) {
        let mut inner = lock(&self.inner);
        if inner.open.is_empty() && inner.since.take().is_some() {
            drop(inner);
            self.changed.notify_waiters();
        }
    }

    /// Takes no more from now on, if nothing is left and it has rested, or is not needed any more.
    fn close(&self, has_rested: bool) -> bool {
        let mut inner = lock(&self.inner);
        let may = has_rested || inner.is_closed || inner.is_hurried || inner.given >= self.reuse;
        if may && inner.open.is_empty() {
            inner.is_closed = true;
        }
        may && inner.open.is_empty()
    }

    fn hurry(&self) {
        lock(&self.inner).is_hurried = true;
        self.waker.wake();
    }

    /// Waits until it is at work for nobody: at once if a request was given up (true), else for so long (false).
    async fn outstayed(&self, limit: Duration) -> bool {
        loop {
            let changed = self.changed.notified();
            let (since, is_broken) = {
                let inner = lock(&self.inner);
                (inner.since, inner.is_broken && inner.open.is_empty())
            };
            if is_broken {
                return true;
            }
            let over = async {
                match since {
                    Some(since) => tokio::time::sleep_until((since + limit).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = over => return false,
            }
        }
    }

    /// Fails what is open; how many requests that are.
    fn fail(&self, failure: &Failure) -> usize {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        for exchange in &inner.open {
            exchange.fail(failure.clone());
        }
        inner.open.len()
    }
}

/// Takes an instance off the list when it is gone, and gives its right back.
struct Leaving {
    server: Arc<Server>,
    worker: Arc<Worker>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.worker.fail(&Failure::Stopped);
        let jobs = std::mem::take(&mut lock(&self.worker.inner).inbox);
        let mut state = lock(&self.server.workers.state);
        (state.workers).retain(|it| !Arc::ptr_eq(it, &self.worker));
        drop(state);
        // Their clients are told what was noted.
        drop(jobs);
        drop(self.permit.take());
        self.server.relieve();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let exchange = &self.exchange;
        if exchange.is_whole() && !exchange.has_failed() {
            self.server.health.note_success();
        }
        if let Some(worker) = exchange.leave() {
            worker.leave(exchange, exchange.is_whole());
            self.server.relieve();
        }
    }
}
