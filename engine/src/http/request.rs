//! From a request to its answer: a permit, an instance, a call, and who is told when it fails.

use crate::command::not_started;
use crate::exit::Ending;
use crate::guest::Guest;
use crate::http::body::{Answer, GuestBody, Work};
use crate::http::connection::Client;
use crate::http::instances::{Full, Instance};
use crate::http::worker::Worker;
use crate::http::{Parts, Phase, Server, seconds};
use crate::meter::Owned;
use crate::program::Handler;
use crate::protocol::{Error, ErrorReason};
use crate::sync::lock;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use wasmtime::{PoolConcurrencyLimitError, Result, Store};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{WasiBody, WasiHttpView as _};

/// How often a client is looked for that does not have its answer.
pub const LOOK: Duration = Duration::from_millis(500);

/// Of a request's path this much is logged.
const PATH_CHARACTERS: usize = 200;

/// What a client hears that came when nobody had time.
const CROWDED: &str = "too many requests wait already";

/// What a guest answers.
pub type Head = Result<Response<WasiBody>, ErrorCode>;

/// One request, from its head to the end of the guest's work for it.
pub struct Exchange {
    client: Arc<Client>,
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

/// Why a request came to nothing.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The guest did what it may not, or there is no instance of it.
    Ended(Ending),
    /// An instance that may have had other requests, too, did so.
    Shared(Ending),
    /// It returned without an answer.
    Silent,
    /// It answered with an error of its own.
    Refused(String),
    /// Its time was over.
    Late,
    /// No room for another instance in this engine.
    NoRoom,
    /// No instance had room for it in its time.
    Crowded,
    /// The sandbox was ended.
    Stopped,
    /// Nobody waits for an answer any more.
    Left,
}

/// An answer that is not over.
pub struct Open(Arc<Server>);

impl Open {
    /// One more, if the clients take those that there are: what is not taken waits in the engine's memory.
    fn new(server: &Arc<Server>) -> Option<Self> {
        let open = server.open.fetch_add(1, Ordering::SeqCst);
        // Dropped if it is one too many.
        let this = Self(Arc::clone(server));
        (open < server.most_open).then_some(this)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

/// Makes an instance and drops it; gives the bytes of its memory.
pub async fn trial(parts: &Parts) -> Result<u64, Error> {
    let store = parts.world.guest().into_store(parts.program.engine());
    let program = parts.program.clone();
    let guest = async move {
        let mut store = store;
        let made = match program {
            Handler::P2(program) => program.instantiate_async(&mut store).await.map(drop),
            Handler::P3(program) => program.instantiate_async(&mut store).await.map(drop),
        };
        made.map(|()| store.data().memory_bytes())
            .map_err(|error| not_started(&error))
    };
    match parts.threads.spawn(&parts.account, guest).await {
        Ok(made) => made,
        Err(_) => Err(Error::new(
            ErrorReason::Start,
            "the engine panicked in a host call of this guest",
        )),
    }
}

impl Server {
    /// Answers one request.
    pub async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        client: Arc<Client>,
    ) -> Response<Answer> {
        let version = request.version();
        name_host(&mut request, &client);
        let mut response = match refuse(&request) {
            Some(refusal) => refusal,
            None => match self.direct(&mut request, &client) {
                Ok(server) => server.ask(request, client, &self).await,
                Err(own) => *own,
            },
        };
        if version <= Version::HTTP_11 && *self.phase.borrow() != Phase::Serving {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn ask(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Arc<Client>,
        front: &Arc<Self>,
    ) -> Response<Answer> {
        self.parts.requests.given.fetch_add(1, Ordering::Relaxed);
        let Some(open) = Open::new(front) else {
            return too_many("too many answers wait for their clients");
        };
        let exchange = Arc::new(Exchange::new(&request, client));
        let limit = seconds(self.parts.settings.request_timeout_seconds);
        let (send, head) = oneshot::channel();
        let Ok(guest) = self.begin(request, &exchange, send, limit).await else {
            return too_many(CROWDED);
        };
        let head = tokio::select! {
            biased;
            head = head => head,
            () = exchange.settled() => Ok(Err(ErrorCode::InternalError(None))),
        };
        if head.is_err() && matches!(guest, Work::Part(_)) {
            // An instance that falls lets go of its requests first, and notes of what it fell a moment later.
            exchange.settled().await;
        }
        match head {
            Ok(Ok(response)) => {
                exchange.client.note_answer(&exchange);
                GuestBody::wrap(response, exchange, guest, open)
            }
            _ => {
                guest.detach();
                exchange.failure.get().unwrap_or(&Failure::Silent).answer()
            }
        }
    }

    /// Gives the request to an instance.
    async fn begin(
        self: &Arc<Self>,
        request: Request<Incoming>,
        exchange: &Arc<Exchange>,
        head: oneshot::Sender<Head>,
        limit: Duration,
    ) -> Result<Work, Full> {
        let program = match &self.parts.program {
            Handler::P2(program) => program.clone(),
            Handler::P3(_) => {
                let watched = self.hand_over(request, exchange, head)?;
                return Ok(Work::Part(watched));
            }
        };
        let permit = self.instances.enter(exchange.begin + limit).await?;
        let its = Arc::clone(exchange);
        let work = Arc::clone(self).work(program, (request, its, head), permit, limit);
        Ok(Work::Instance(Owned::new(tokio::spawn(work))))
    }

    /// Runs the guest for one request, within its time, and notes what became of it.
    async fn work(
        self: Arc<Self>,
        program: ProxyPre<Guest>,
        (request, exchange, head): (Request<Incoming>, Arc<Exchange>, oneshot::Sender<Head>),
        permit: OwnedSemaphorePermit,
        limit: Duration,
    ) {
        let asked = (request, Arc::clone(&exchange), head);
        let call = Arc::clone(&self).call(program, asked, permit);
        {
            let guest = self
                .parts
                .threads
                .drive(&self.parts.account, Box::pin(call));
            let mut guest = std::pin::pin!(guest);
            let mut phase = self.phase.subscribe();
            tokio::select! {
                biased;
                () = &mut guest => {}
                failure = exchange.overdue(limit) => exchange.fail(failure),
                _ = phase.wait_for(|it| *it == Phase::Over) => exchange.fail(Failure::Stopped),
            }
        }
        match exchange.failure.get() {
            None => self.health.note_success(),
            Some(failure) => self.note(&exchange, failure, limit),
        }
    }

    /// Notes why a request came to nothing, if it did.
    pub fn note_failure(&self, exchange: &Exchange, limit: Duration) {
        if let Some(failure) = exchange.failure.get() {
            self.note(exchange, failure, limit);
        }
    }

    /// The guest's part: everything in here is counted as its computing.
    async fn call(
        self: Arc<Self>,
        program: ProxyPre<Guest>,
        (request, exchange, head): (Request<Incoming>, Arc<Exchange>, oneshot::Sender<Head>),
        permit: OwnedSemaphorePermit,
    ) {
        // Given back when the instance is gone, and so declared before it.
        let _permit = permit;
        let mut instance = match self.instances.take() {
            Some(instance) => instance,
            None => match self.instantiate(&program).await {
                Ok(instance) => instance,
                Err(failure) => return exchange.fail(failure),
            },
        };
        instance.served += 1;
        let called = instance.call(request, &exchange, head).await;
        match called {
            Err(error) => exchange.fail(Failure::Ended(Ending::from_error(&error))),
            Ok(()) if !exchange.is_answered.load(Ordering::Relaxed) => {
                exchange.fail(Failure::Silent);
            }
            Ok(()) => self.instances.give_back(instance),
        }
    }

    async fn instantiate(&self, program: &ProxyPre<Guest>) -> Result<Instance, Failure> {
        let mut store = self.parts.world.guest().into_store(program.engine());
        match program.instantiate_async(&mut store).await {
            Ok(proxy) => Ok(Instance {
                store,
                proxy,
                served: 0,
            }),
            Err(error) if error.is::<PoolConcurrencyLimitError>() => Err(Failure::NoRoom),
            Err(error) => Err(Failure::Ended(Ending::from_error(&error))),
        }
    }

    fn note(&self, exchange: &Exchange, failure: &Failure, limit: Duration) {
        let why = match failure {
            Failure::Stopped | Failure::Left | Failure::Crowded => return,
            Failure::Ended(ending) | Failure::Shared(ending) => ending.clone().verdict().message,
            Failure::Silent => "the guest returned without an answer".to_owned(),
            Failure::Refused(code) => format!("the guest answered with an error: {code}"),
            Failure::Late => format!("the guest took longer than {} s", limit.as_secs_f64()),
            Failure::NoRoom => "the engine has no room for another instance".to_owned(),
        };
        self.parts.requests.failed.fetch_add(1, Ordering::Relaxed);
        let path: String = exchange.uri.path().chars().take(PATH_CHARACTERS).collect();
        let method = &exchange.method;
        self.parts
            .log
            .note(&format!("wasmlet: {method} {path} failed: {why}"));
        match failure {
            Failure::Ended(ending) => self.health.note_trap(ending.clone()),
            Failure::Refused(_) => self.health.note_success(),
            _ => {}
        }
    }
}

impl Instance {
    async fn call(
        &mut self,
        request: Request<Incoming>,
        exchange: &Arc<Exchange>,
        head: oneshot::Sender<Head>,
    ) -> Result<()> {
        let store: &mut Store<Guest> = &mut self.store;
        let mut http = store.data_mut().http();
        let incoming = http.new_incoming_request(Scheme::Http, request)?;
        let answered = Arc::clone(exchange);
        let out = http.new_response_outparam_from_callback(move |answer| {
            answered.is_answered.store(true, Ordering::Relaxed);
            answered.note_progress();
            if let Err(code) = &answer {
                answered.fail(Failure::Refused(format!("{code:?}")));
            }
            // A client that has gone needs no answer.
            let _ = head.send(answer);
        })?;
        self.proxy
            .wasi_http_incoming_handler()
            .call_handle(store, incoming, out)
            .await
    }
}

impl Exchange {
    fn new(request: &Request<Incoming>, client: Arc<Client>) -> Self {
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

impl Failure {
    /// What the client hears: no more than the kind of failure.
    fn answer(&self) -> Response<Answer> {
        match self {
            Self::Ended(Ending::OutOfMemory(_)) | Self::Shared(Ending::OutOfMemory(_)) => {
                Answer::own(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the guest ran out of memory",
                )
            }
            Self::Ended(_) | Self::Shared(_) => {
                Answer::own(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed")
            }
            Self::Refused(_) => Answer::own(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the guest answered with an error",
            ),
            Self::Silent => Answer::own(StatusCode::BAD_GATEWAY, "the guest gave no answer"),
            Self::Late => Answer::own(StatusCode::GATEWAY_TIMEOUT, "the guest took too long"),
            Self::Crowded => too_many(CROWDED),
            Self::NoRoom => too_many("the engine has no room for another instance"),
            Self::Stopped | Self::Left => {
                Answer::own(StatusCode::SERVICE_UNAVAILABLE, "the guest was stopped")
            }
        }
    }
}

fn too_many(text: &str) -> Response<Answer> {
    let mut response = Answer::own(StatusCode::SERVICE_UNAVAILABLE, text);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A request of HTTP/1.0 need not say whom it is meant for.
fn name_host(request: &mut Request<Incoming>, client: &Client) {
    if request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST) {
        let here = client.here.map(|here| here.to_string());
        if let Some(Ok(here)) = here.map(HeaderValue::try_from) {
            request.headers_mut().insert(HOST, here);
        }
    }
}

/// Answers what no guest can be asked.
fn refuse(request: &Request<Incoming>) -> Option<Response<Answer>> {
    if request.method() == Method::CONNECT {
        return Some(Answer::own(
            StatusCode::NOT_IMPLEMENTED,
            "CONNECT is not served",
        ));
    }
    let has_host = request
        .headers()
        .get(HOST)
        .is_some_and(|host| host.to_str().is_ok());
    (request.uri().authority().is_none() && !has_host)
        .then(|| Answer::own(StatusCode::BAD_REQUEST, "the header Host is missing"))
}
