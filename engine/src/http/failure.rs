//! Why a request came to nothing, and what its client, the container's log and its health hear of that.

use crate::exit::Ending;
use crate::http::Server;
use crate::http::body::Answer;
use crate::http::exchange::Exchange;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

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

impl Failure {
    /// What the client hears: no more than the kind of failure.
    pub fn answer(&self) -> Response<Answer> {
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
            Self::Crowded => too_many("too many requests wait already"),
            Self::NoRoom => too_many("the engine has no room for another instance"),
            Self::Stopped | Self::Left => {
                Answer::own(StatusCode::SERVICE_UNAVAILABLE, "the guest was stopped")
            }
        }
    }

    /// What the log hears; nothing of what is nobody's fault.
    fn reason(&self, limit: Duration) -> Option<String> {
        Some(match self {
            Self::Stopped | Self::Left | Self::Crowded => return None,
            Self::Ended(ending) | Self::Shared(ending) => ending.clone().verdict().message,
            Self::Silent => "the guest returned without an answer".to_owned(),
            Self::Refused(code) => format!("the guest answered with an error: {code}"),
            Self::Late => format!("the guest took longer than {} s", limit.as_secs_f64()),
            Self::NoRoom => "the engine has no room for another instance".to_owned(),
        })
    }
}

impl Server {
    /// A request is over: what became of it.
    pub fn note_end(&self, exchange: &Exchange) {
        let Some(failure) = exchange.failure() else {
            return self.health.note_success();
        };
        let Some(why) = failure.reason(self.limit()) else {
            return;
        };
        self.parts.requests.failed.fetch_add(1, Ordering::Relaxed);
        let asked = exchange.summary();
        self.parts
            .log
            .note(&format!("wasmlet: {asked} failed: {why}"));
        match failure {
            Failure::Ended(ending) => self.health.note_trap(ending.clone()),
            Failure::Refused(_) => self.health.note_success(),
            _ => {}
        }
    }
}

/// An answer that tells a client to come again.
pub fn too_many(text: &str) -> Response<Answer> {
    let mut response = Answer::own(StatusCode::SERVICE_UNAVAILABLE, text);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
