//! What the control socket takes and gives: documents within bounds, refusals with their status, connections that change
//! their protocol.

use crate::protocol::{Error, ErrorReason, bad_request};
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

/// A spec with the largest environment that Linux would take is far below.
const BODY_BYTES: u64 = 4 * 1024 * 1024;

/// Of a body that is larger this much is read; who sends still more finds the connection closed.
const DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// The protocol that the connection of an exec or an attach changes to.
pub const EXEC_PROTOCOL: &str = "wasmlet-exec";

/// An answer's.
pub type Body = BoxBody<Bytes, Infallible>;

/// An error with its status.
pub struct Refusal {
    /// How the answer begins.
    pub status: StatusCode,
    /// The answer.
    pub error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = status(error.reason);
        Self { status, error }
    }
}

/// The one place where a reason becomes a status.
fn status(reason: ErrorReason) -> StatusCode {
    use ErrorReason::{
        Address, Artifact, BadRequest, Busy, CompileMemory, CompileTime, Conflict, Internal,
        Interrupted, Log, Malformed, MissingImport, Mount, NoEntryPoint, NotFound, NotWasm, Start,
        TooSlow,
    };
    match reason {
        BadRequest => StatusCode::BAD_REQUEST,
        NotFound => StatusCode::NOT_FOUND,
        // The last two are said after an upgrade, in a frame.
        Conflict | Interrupted | TooSlow => StatusCode::CONFLICT,
        Busy => StatusCode::SERVICE_UNAVAILABLE,
        NotWasm | Malformed | NoEntryPoint | MissingImport | CompileMemory | CompileTime
        | Artifact | Mount | Log | Address | Start => StatusCode::UNPROCESSABLE_ENTITY,
        Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The document that a request carries.
pub async fn read<T: serde::de::DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, Refusal> {
    let is_asking = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    if body.size_hint().lower() > BODY_BYTES && is_asking {
        // This client sends nothing before it is told to.
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| bad_request(format!("the body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len() as u64;
        if total <= BODY_BYTES {
            bytes.extend_from_slice(&data);
        } else {
            // A client hears an answer only after it has sent all, so that some more is read for nothing.
            bytes = Vec::new();
            if total > DRAIN_BYTES {
                break;
            }
        }
    }
    if total > BODY_BYTES {
        return Err(too_large());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| bad_request(format!("the body is wrong: {error}")).into())
}

fn too_large() -> Refusal {
    Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        error: bad_request(format!(
            "the body is too large: a spec may have {BODY_BYTES} bytes; \
             put large configuration into a volume instead of the environment"
        )),
    }
}

/// Whether the client asks for this protocol.
pub fn check_upgrade(request: &Request<Incoming>, protocol: &str) -> Result<(), Error> {
    let asked = request.headers().get(UPGRADE);
    if asked.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(protocol.as_bytes())) {
        return Ok(());
    }
    let path = request.uri().path();
    Err(bad_request(format!(
        "{path} needs the header Upgrade: {protocol}"
    )))
}

/// The answer to an exec or an attach; what comes on the connection afterwards is the session's, which holds `permit`.
pub fn converse<F>(
    upgrade: OnUpgrade,
    permit: Arc<OwnedSemaphorePermit>,
    session: impl FnOnce(UnixStream, BytesMut) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        if let Some((client, early)) = upgraded(upgrade).await {
            session(client, early).await;
        }
        drop(permit);
    });
    switching(EXEC_PROTOCOL)
}

/// The client of an upgraded connection, and what it sent early; `None` when it has left.
async fn upgraded(upgrade: OnUpgrade) -> Option<(UnixStream, BytesMut)> {
    // Every connection here is a Unix socket.
    let parts = upgrade.await.ok()?.downcast::<TokioIo<UnixStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.into()))
}

/// The connection is another protocol's from here on.
pub fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// An answer with a document.
pub fn json(status: StatusCode, document: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(bytes) => {
            let mut response = Response::new(BoxBody::new(Full::from(bytes)));
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An answer without one.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(BoxBody::new(Full::default()));
    *response.status_mut() = status;
    response
}
