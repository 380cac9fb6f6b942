//! From a request to its answer: whom it is given to, and what its client hears.

use crate::http::body::{Answer, GuestBody, Work};
use crate::http::connection::Client;
use crate::http::exchange::Exchange;
use crate::http::failure::{Failure, too_many};
use crate::http::instances::Full;
use crate::http::{Phase, Server};
use crate::meter::Owned;
use crate::program::Handler;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

/// What a guest answers.
type Head = Result<Response<WasiBody>, ErrorCode>;

/// A request on its way to an instance.
pub struct Job {
    /// What was asked.
    pub request: Request<Incoming>,
    /// What becomes of it.
    pub exchange: Arc<Exchange>,
    /// Who waits for the answer's head.
    pub head: oneshot::Sender<Head>,
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
        let (send, head) = oneshot::channel();
        let job = Job {
            request,
            exchange: Arc::clone(&exchange),
            head: send,
        };
        let Ok(guest) = self.begin(job).await else {
            return Failure::Crowded.answer();
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
                exchange.failure().unwrap_or(&Failure::Silent).answer()
            }
        }
    }

    /// Gives the request to an instance.
    async fn begin(self: &Arc<Self>, job: Job) -> Result<Work, Full> {
        let program = match &self.parts.program {
            Handler::P2(program) => program.clone(),
            Handler::P3(_) => return Ok(Work::Part(self.hand_over(job)?)),
        };
        let deadline = job.exchange.deadline(self.limit());
        let permit = self.instances.enter(deadline).await?;
        let work = Arc::clone(self).work(program, job, permit);
        Ok(Work::Instance(Owned::new(tokio::spawn(work))))
    }
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
