//! An instance that serves several requests at once, from inside: its life, and its calls.

use crate::exit::Ending;
use crate::guest::{Guest, HANDLES};
use crate::http::failure::Failure;
use crate::http::instances::KEPT;
use crate::http::request::Job;
use crate::http::worker::Worker;
use crate::http::{Phase, Server};
use crate::meter;
use crate::program::Handler;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use wasmtime::component::Accessor;
use wasmtime::{PoolConcurrencyLimitError, Result, Store};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, FieldMap, WasiHttpHooks, WasiHttpView as _, p3};

impl Server {
    /// An instance's whole life.
    pub async fn employ(self: Arc<Self>, worker: Arc<Worker>, permit: OwnedSemaphorePermit) {
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
        let over = async {
            let _ = phase.wait_for(|it| *it >= Phase::Draining).await;
            worker.hurry();
            let _ = phase.wait_for(|it| *it == Phase::Over).await;
        };
        tokio::select! {
            biased;
            () = &mut guest => {}
            () = worker.ended() => {}
            () = over => {}
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
        let serving = store
            .run_concurrent(async |accessor| self.answer_all(accessor, &service, worker).await);
        let mut serving = std::pin::pin!(serving);
        let served = poll_fn(|context| {
            let mut polled = serving.as_mut().poll(context);
            if polled.is_pending() && self.note_pause(worker) {
                // What it did just now may give it more to do, the end of an answer above all: with that the answer goes
                // out in one piece, before its connection has its turn.
                polled = serving.as_mut().poll(context);
                if polled.is_pending() {
                    self.note_pause(worker);
                }
            }
            polled
        });
        served.await.flatten()
    }

    /// An instance has stopped for now: it waits, or only gives way because its tick is over. Whether it has come to wait.
    fn note_pause(self: &Arc<Self>, worker: &Worker) -> bool {
        let is_ready = !meter::has_given_way();
        let was_ready = worker.set_ready(is_ready);
        if is_ready && !was_ready {
            self.relieve();
        }
        if !is_ready {
            // Others may have time for what it has not begun with.
            let jobs = worker.take_back();
            if !jobs.is_empty() {
                self.workers.put_back(jobs);
                self.relieve();
            }
        }
        is_ready && !was_ready
    }

    fn note_fall(self: &Arc<Self>, worker: &Worker, error: &wasmtime::Error) {
        let no_room = error.is::<PoolConcurrencyLimitError>();
        let ending = Ending::from_error(error);
        let failed = worker.fail(&if no_room {
            Failure::NoRoom
        } else {
            Failure::Shared(ending.clone())
        });
        if !no_room && failed.is_empty() {
            let why = ending.clone().verdict().message;
            let text = "wasmlet: an instance failed after its answers:";
            self.parts.log.note(&format!("{text} {why}"));
        }
        for exchange in failed {
            self.settle(&exchange);
        }
        if !no_room {
            // One trap, however many requests it takes along.
            self.health.note_trap(ending);
        }
    }

    /// Serves requests until there is nothing more for this instance to do.
    async fn answer_all(
        self: &Arc<Self>,
        accessor: &Accessor<Guest>,
        service: &Service,
        worker: &Worker,
    ) -> Result<()> {
        let handler = *service.wasi_http_handler().func_handle().func();
        let mut calls = FuturesUnordered::new();
        let mut rest = Rest::default();
        poll_fn(|context| {
            worker.register(context.waker());
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
                    calls.push(self.handle(accessor, service, job));
                    continue;
                }
                let is_idle =
                    calls.is_empty() && accessor.poll_no_interesting_tasks(context).is_ready();
                if rest.set(is_idle) {
                    worker.note_rest(is_idle);
                }
                let is_over = is_idle && worker.close(rest.is_over(context));
                return if is_over {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
        })
        .await
    }

    /// One request. Its answer's body goes on by itself.
    async fn handle(
        self: &Arc<Self>,
        accessor: &Accessor<Guest>,
        service: &Service,
        job: Box<Job>,
    ) -> Result<()> {
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
                self.settle(&exchange);
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

/// How long an instance has had nothing to do. Its timer is left alone while requests come and go.
#[derive(Default)]
struct Rest {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Rest {
    /// It has nothing to do, or has; whether that is new.
    fn set(&mut self, is_idle: bool) -> bool {
        let is_new = self.since.is_some() != is_idle;
        if is_new {
            self.since = is_idle.then(Instant::now);
        }
        is_new
    }

    /// Whether it has had nothing to do for as long as an instance is kept.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        let until = since + KEPT;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while timer.as_mut().poll(context).is_ready() {
            if timer.deadline() >= until {
                return true;
            }
            timer.as_mut().reset(until);
        }
        false
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
        let failed = self.worker.fail(&Failure::Stopped);
        self.server.workers.remove(&self.worker);
        for exchange in failed {
            self.server.settle(&exchange);
        }
        drop(self.permit.take());
        self.server.relieve();
    }
}
