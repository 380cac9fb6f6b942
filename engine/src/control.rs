//! The control socket: HTTP/1.1 with JSON, one function per route.
//!
//! Connections, bodies and streams are bounded; a client that goes away takes nothing with it, since sandboxes
//! live in tasks of their own.

use crate::answer::{
    Body, EXEC_PROTOCOL, Refusal, check_upgrade, converse, empty, json, read, switching,
};
use crate::events::Since;
use crate::protocol::{
    self, AttachSpec, Error, ErrorReason, ExecSpec, SandboxList, SandboxSpec, bad_request,
};
use crate::registry::{Put, Registry};
use crate::spec::{check_exec, check_id, check_spec};
use crate::time::Timestamp;
use crate::{attach, exec, sandbox};
use futures::StreamExt as _;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Requests, event streams, stdin streams and execs at once.
const CONNECTIONS: usize = 1024;

/// The first and the longest wait after accept failed (no descriptors left, say).
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The protocol that a stdin connection changes to.
const STREAM_PROTOCOL: &str = "wasmlet-stream";

/// What the routes work on.
pub struct Control {
    /// The sandboxes.
    pub registry: Arc<Registry>,
    /// This engine's part of [`protocol::Engine`].
    pub identity: Identity,
    /// Set by a client that ends the engine.
    pub shutdown: watch::Sender<bool>,
}

/// What never changes about an engine.
pub struct Identity {
    /// See [`protocol::Engine::compatibility`].
    pub compatibility: String,
    /// See [`protocol::Engine::started_at`].
    pub started_at: Timestamp,
    /// See [`protocol::Engine::confinement`].
    pub confinement: protocol::Confinement,
}

impl Control {
    /// Serves connections until the shutdown is asked for.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut backoff = ACCEPT_BACKOFF.0;
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    backoff = ACCEPT_BACKOFF.0;
                    tokio::spawn(Arc::clone(&self).connection(stream, Arc::new(permit)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(ACCEPT_BACKOFF.1);
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: UnixStream, permit: Arc<OwnedSemaphorePermit>) {
        let mut shutdown = self.shutdown.subscribe();
        let service = service_fn(move |request| {
            let (control, permit) = (Arc::clone(&self), Arc::clone(&permit));
            async move { Ok::<_, Infallible>(control.answer(request, permit).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        // A client that breaks off is no news, and its sandboxes go on.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = shutdown.wait_for(|it| *it) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Response<Body> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let answer = match (&method, segments.as_slice()) {
            (&Method::GET, ["engine"]) => self.get_engine().await,
            (&Method::DELETE, ["engine"]) => self.shut_down_engine(),
            (&Method::GET, ["sandboxes"]) => self.list_sandboxes(),
            (&Method::PUT, ["sandboxes", id]) => self.put_sandbox(id, request).await,
            (&Method::GET, ["sandboxes", id]) => self.get_sandbox(id),
            (&Method::DELETE, ["sandboxes", id]) => self.delete_sandbox(id),
            (&Method::POST, ["sandboxes", id, "stop"]) => self.stop_sandbox(id, request).await,
            (&Method::POST, ["sandboxes", id, "stdin"]) => self.open_stdin(id, request, permit),
            (&Method::POST, ["sandboxes", id, "exec"]) => self.open_exec(id, request, permit).await,
            (&Method::POST, ["sandboxes", id, "attach"]) => {
                self.open_attach(id, request, permit).await
            }
            (&Method::GET, ["events"]) => {
                self.watch_events(request.uri().query().unwrap_or_default())
            }
            _ => Err(Error::new(
                ErrorReason::NotFound,
                format!("there is no {method} {path}"),
            )
            .into()),
        };
        answer.unwrap_or_else(|refusal| json(refusal.status, &refusal.error))
    }

    async fn get_engine(&self) -> Result<Response<Body>, Refusal> {
        let registry = Arc::clone(&self.registry);
        // Thousands of maps take milliseconds to count.
        let opener = registry.parts.opener.clone();
        let reading = opener
            .spawn_blocking(move || registry.parts.budgets.read())
            .await
            .map_err(|error| Error::new(ErrorReason::Internal, error.to_string()))?
            .map_err(|error| {
                Error::new(
                    ErrorReason::Internal,
                    format!("cannot read /proc/self: {error}"),
                )
            })?;
        let (sandboxes, running) = self.registry.counts();
        let engine = protocol::Engine {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: protocol::PROTOCOL,
            incarnation: self.registry.parts.incarnation.to_string(),
            pid: std::process::id(),
            started_at: self.identity.started_at,
            compatibility: self.identity.compatibility.clone(),
            sandboxes,
            running,
            descriptors: reading.descriptors,
            maps: reading.maps,
            connections: Some(self.registry.parts.connections.read()),
            memory: Some(self.registry.parts.budgets.memory.read()),
            confinement: Some(self.identity.confinement.clone()),
        };
        Ok(json(StatusCode::OK, &engine))
    }

    fn shut_down_engine(&self) -> Result<Response<Body>, Refusal> {
        self.registry.close_if_quiet()?;
        self.shutdown.send_replace(true);
        Ok(empty(StatusCode::ACCEPTED))
    }

    fn list_sandboxes(&self) -> Result<Response<Body>, Refusal> {
        let items = self
            .registry
            .list()
            .iter()
            .map(|sandbox| sandbox.document())
            .collect();
        Ok(json(StatusCode::OK, &SandboxList { items }))
    }

    async fn put_sandbox(
        &self,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        check_id(id)?;
        let spec: SandboxSpec = read(request).await?;
        check_spec(&spec)?;
        let (put, sandbox) = self.registry.put(id, spec).await?;
        let status = match put {
            Put::Created => StatusCode::CREATED,
            Put::Present => StatusCode::OK,
        };
        Ok(json(status, &sandbox.document()))
    }

    fn get_sandbox(&self, id: &str) -> Result<Response<Body>, Refusal> {
        Ok(json(StatusCode::OK, &self.registry.get(id)?.document()))
    }

    fn delete_sandbox(&self, id: &str) -> Result<Response<Body>, Refusal> {
        self.registry.delete(id)?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn stop_sandbox(
        &self,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let stop: protocol::Stop = read(request).await?;
        if stop.grace_seconds.is_sign_negative() && stop.grace_seconds != 0.0 {
            return Err(bad_request("graceSeconds is less than 0").into());
        }
        let sandbox = self.registry.get(id)?;
        sandbox.stop(if stop.grace_seconds == 0.0 {
            sandbox::Stop::Now
        } else {
            sandbox::Stop::notice(Duration::try_from_secs_f64(stop.grace_seconds).ok())
        });
        Ok(empty(StatusCode::ACCEPTED))
    }

    fn open_stdin(
        &self,
        id: &str,
        request: Request<Incoming>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<Response<Body>, Refusal> {
        let sandbox = self.registry.get(id)?;
        check_upgrade(&request, STREAM_PROTOCOL)?;
        let hold = sandbox.hold_stdin(sandbox.stdin_once)?;
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                hold.feed(TokioIo::new(upgraded)).await;
            }
            drop(permit);
        });
        Ok(switching(STREAM_PROTOCOL))
    }

    async fn open_exec(
        &self,
        id: &str,
        mut request: Request<Incoming>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<Response<Body>, Refusal> {
        check_upgrade(&request, EXEC_PROTOCOL)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let spec: ExecSpec = read(request).await?;
        check_exec(&spec)?;
        let session = exec::Session::start(&self.registry, id, spec).await?;
        Ok(converse(upgrade, permit, move |client, early| {
            session.converse(client, early)
        }))
    }

    async fn open_attach(
        &self,
        id: &str,
        mut request: Request<Incoming>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<Response<Body>, Refusal> {
        check_upgrade(&request, EXEC_PROTOCOL)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let spec: AttachSpec = read(request).await?;
        let session = attach::Session::start(&self.registry, id, &spec)?;
        Ok(converse(upgrade, permit, move |client, early| {
            session.converse(client, early)
        }))
    }

    fn watch_events(&self, query: &str) -> Result<Response<Body>, Refusal> {
        let lines = self.registry.parts.events.stream(&parse_since(query)?);
        let body = StreamBody::new(lines.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
        let mut response = Response::new(BoxBody::new(body));
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        Ok(response)
    }
}

fn parse_since(query: &str) -> Result<Since, Error> {
    let mut since = Since::default();
    for (name, value) in query.split('&').filter_map(|it| it.split_once('=')) {
        match name {
            "after" => {
                since.after = value
                    .parse()
                    .map_err(|_| bad_request(format!("after={value} is no number")))?
            }
            "incarnation" => since.incarnation = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_begin_where_asked() {
        let since = parse_since("after=7&incarnation=abc&future=1").expect("query");
        assert_eq!(
            since,
            Since {
                after: 7,
                incarnation: Some("abc".into())
            }
        );
        assert_eq!(parse_since("").expect("query"), Since::default());
        assert!(parse_since("after=x").is_err());
    }
}
