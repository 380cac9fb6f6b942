//! An instance that serves one request at a time: made, asked, and kept or dropped.

use crate::command::not_started;
use crate::exit::Ending;
use crate::guest::Guest;
use crate::http::failure::Failure;
use crate::http::request::Job;
use crate::http::{Parts, Phase, Server};
use crate::program::Handler;
use crate::protocol::{Error, ErrorReason};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{PoolConcurrencyLimitError, Result, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

/// A guest that can be called.
pub struct Instance {
    store: Store<Guest>,
    proxy: Proxy,
    /// Requests that it was given.
    pub served: u32,
}

impl Server {
    /// Runs the guest for one request, within its time, and notes what became of it.
    pub async fn work(
        self: Arc<Self>,
        program: ProxyPre<Guest>,
        job: Job,
        permit: OwnedSemaphorePermit,
    ) {
        let exchange = Arc::clone(&job.exchange);
        let call = Arc::clone(&self).call(program, job, permit);
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
                failure = exchange.overdue(self.limit()) => exchange.fail(failure),
                _ = phase.wait_for(|it| *it == Phase::Over) => exchange.fail(Failure::Stopped),
            }
        }
        self.note_end(&exchange);
    }

    /// The guest's part: everything in here is counted as its computing.
    async fn call(
        self: Arc<Self>,
        program: ProxyPre<Guest>,
        job: Job,
        permit: OwnedSemaphorePermit,
    ) {
        // Given back when the instance is gone, and so declared before it.
        let _permit = permit;
        let exchange = Arc::clone(&job.exchange);
        let mut instance = match self.instances.take() {
            Some(instance) => instance,
            None => match self.instantiate(&program).await {
                Ok(instance) => instance,
                Err(failure) => return exchange.fail(failure),
            },
        };
        instance.served += 1;
        match instance.call(job).await {
            Err(error) => exchange.fail(Failure::Ended(Ending::from_error(&error))),
            Ok(()) if !exchange.is_answered() => exchange.fail(Failure::Silent),
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
}

impl Instance {
    async fn call(&mut self, job: Job) -> Result<()> {
        let Job {
            request,
            exchange,
            head,
        } = job;
        let store: &mut Store<Guest> = &mut self.store;
        let mut http = store.data_mut().http();
        let incoming = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam_from_callback(move |answer| {
            exchange.note_answer();
            if let Err(code) = &answer {
                exchange.fail(Failure::Refused(format!("{code:?}")));
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
