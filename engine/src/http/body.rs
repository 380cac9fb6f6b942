//! What goes each way: an answer's body, which ends with its guest if the client goes, and is cut if the guest fails.

use crate::http::exchange::Exchange;
use crate::http::request::Open;
use crate::http::workers::Watched;
use crate::meter::Owned;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_LENGTH;
use hyper::{Response, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::WasiBody;

/// The body of an answer.
pub enum Answer {
    /// The engine's own few words.
    Own(Full<Bytes>),
    /// A guest's.
    Guest(Box<GuestBody>),
}

/// What a guest does for one request; ended with it.
pub enum Work {
    /// An instance that has nothing else to do.
    Instance(Owned<()>),
    /// A part of an instance's work.
    Part(Watched),
}

impl Work {
    /// The answer is whole.
    fn let_go(self) {
        match self {
            Self::Instance(guest) => guest.detach(),
            Self::Part(watched) => watched.finish(),
        }
    }

    /// There is no answer: lets it find out why.
    pub fn detach(self) {
        if let Self::Instance(guest) = self {
            guest.detach();
        }
    }
}

/// A body that a guest makes while it is sent.
pub struct GuestBody {
    body: WasiBody,
    exchange: Arc<Exchange>,
    /// Ends the guest with the body, until all of it is made.
    guest: Option<Work>,
    /// Bytes that are still to come, where the guest has said how many.
    left: Option<u64>,
    _open: Open,
}

impl GuestBody {
    /// The body of `response`, of which the guest makes the rest.
    pub fn wrap(
        response: Response<WasiBody>,
        exchange: Arc<Exchange>,
        guest: Work,
        open: Open,
    ) -> Response<Answer> {
        let left = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let has_body = !exchange.is_head()
            && !matches!(
                response.status(),
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        response.map(|body| {
            let mut this = Self {
                body,
                exchange,
                guest: Some(guest),
                left,
                _open: open,
            };
            if !has_body || left == Some(0) || this.body.is_end_stream() {
                this.let_go();
            }
            Answer::Guest(Box::new(this))
        })
    }

    /// The client has everything; what the guest does from now on is its own affair.
    fn let_go(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.let_go();
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            // A guest that fails leaves a body that looks whole.
            None if self.exchange.has_failed() => {
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
            }
            None => self.let_go(),
            Some(Ok(frame)) => {
                self.exchange.note_progress();
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                // Of a body that says so nothing more is asked for.
                if frame.is_trailers() || self.left == Some(0) || self.body.is_end_stream() {
                    self.let_go();
                }
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        self.exchange.note_over();
    }
}

impl Answer {
    /// The engine's own answer.
    pub fn own(status: StatusCode, text: &str) -> Response<Self> {
        let mut response = Response::new(Self::Own(Full::from(format!("{text}\n"))));
        *response.status_mut() = status;
        response
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Guest(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Guest(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Guest(body) => body.body.size_hint(),
        }
    }
}
