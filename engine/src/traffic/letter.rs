//! A request that may have to be sent twice: a connection that has waited may be closed by its server
//! at the same moment.

use crate::sync::lock;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HOST, HeaderValue};
use hyper::http::Uri;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use wasmtime_wasi_http::{Error, WasiBody};

/// A request, and what is needed to send it once more.
pub struct Letter {
    /// What was not sent.
    unsent: Option<Request<WasiBody>>,
    /// Its head, if sending it twice is as good as once.
    copy: Option<Request<()>>,
    body: Arc<Mutex<Content>>,
    whole: Uri,
    origin: Uri,
    host: Option<HeaderValue>,
}

impl Letter {
    /// A guest's request.
    pub fn new(request: Request<WasiBody>) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        let body = Arc::new(Mutex::new(Content {
            body,
            is_begun: false,
            is_over: false,
        }));
        Ok(Self {
            copy: (head.method.is_idempotent()).then(|| Request::from_parts(head.clone(), ())),
            whole: head.uri.clone(),
            origin: origin_form(&head.uri)?,
            host: head.headers.get(HOST).cloned(),
            unsent: Some(Request::from_parts(head, Share::of(&body))),
            body,
        })
    }

    /// What to send; none when it has been sent. Only a proxy, and HTTP/2's own fields, are told scheme and authority.
    pub fn take(&mut self, is_http2: bool) -> Option<Request<WasiBody>> {
        let mut request = self.unsent.take()?;
        if is_http2 {
            *request.uri_mut() = self.whole.clone();
            request.headers_mut().remove(HOST);
        } else {
            *request.uri_mut() = self.origin.clone();
            if let Some(host) = &self.host {
                request.headers_mut().insert(HOST, host.clone());
            }
        }
        Some(request)
    }

    /// It was not sent.
    pub fn give_back(&mut self, unsent: Request<WasiBody>) {
        self.unsent = Some(unsent);
    }

    /// Makes another, if that is safe: nothing but a head may have been sent, which says what is to be, not what to do.
    pub fn renew(&mut self) -> bool {
        let is_begun = lock(&self.body).is_begun;
        let copy = self.copy.as_ref().filter(|_| !is_begun);
        self.unsent = copy.map(|copy| copy.clone().map(|()| Share::of(&self.body)));
        self.unsent.is_some()
    }
}

/// Without scheme and authority.
fn origin_form(uri: &Uri) -> Result<Uri, Error> {
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let path = match path.strip_prefix('?') {
        Some(query) => format!("/?{query}"),
        None if path.is_empty() => "/".to_owned(),
        None => path.to_owned(),
    };
    Uri::try_from(path).map_err(|_| Error::HttpRequestUriInvalid)
}

/// A guest's body.
struct Content {
    body: WasiBody,
    /// Something was in it.
    is_begun: bool,
    is_over: bool,
}

/// A way to it; one that is dropped leaves it to the next.
struct Share(Arc<Mutex<Content>>);

impl Share {
    fn of(content: &Arc<Mutex<Content>>) -> WasiBody {
        Self(Arc::clone(content)).boxed_unsync()
    }
}

impl Body for Share {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut content = lock(&self.0);
        if content.is_over {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(Pin::new(&mut content.body).poll_frame(context));
        content.is_begun |= polled.is_some();
        content.is_over = polled.is_none();
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let content = lock(&self.0);
        content.is_over || content.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}
