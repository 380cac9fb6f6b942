//! A client at a running container's own streams: it hears what the container writes from now on, and may write to its
//! stdin. The container does not depend on it.

use crate::audience::{PATIENCE, dismiss, too_slow};
use crate::client::{Intake, Leave, drain};
use crate::log::Log;
use crate::outbox::Outbox;
use crate::protocol::{AttachSpec, Error, ErrorReason};
use crate::registry::Registry;
use crate::stdin::Hold;
use bytes::BytesMut;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

/// A client's place among those who hear a container; left when dropped.
struct Place {
    log: Arc<Log>,
    outbox: Arc<Outbox>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.log.audience().leave(&self.outbox);
    }
}

/// A client that hears already, and waits for its connection.
pub struct Session {
    place: Place,
    hold: Option<Hold>,
    /// Its right to a connection.
    permit: OwnedSemaphorePermit,
}

impl Session {
    /// A place at a running container.
    pub fn start(registry: &Registry, id: &str, spec: &AttachSpec) -> Result<Self, Error> {
        let sandbox = registry.get(id)?;
        let log = Arc::clone(sandbox.execs.inside()?.world.log());
        let permit = registry.client()?;
        // A terminal stays when somebody leaves it.
        let once = sandbox.stdin_once && !log.audience().has_terminal();
        let hold = (spec.stdin).then(|| sandbox.hold_stdin(once)).transpose()?;
        let outbox = log.audience().enter(spec)?;
        Ok(Self {
            place: Place { log, outbox },
            hold,
            permit,
        })
    }

    /// Connects the client until its end, or the container's.
    pub async fn converse(self, client: UnixStream, early: BytesMut) {
        let Self {
            place,
            hold,
            permit,
        } = self;
        let (log, outbox) = (Arc::clone(&place.log), Arc::clone(&place.outbox));
        let audience = log.audience();
        let echo = audience
            .has_terminal()
            .then_some(|keys: &[u8]| audience.echo(keys));
        let (mut receive, mut send) = client.into_split();
        let mut sending = std::pin::pin!(outbox.send_to(&mut send));
        let left = tokio::select! {
            biased;
            // The container's end, or a client that takes no more.
            _ = &mut sending => None,
            leave = Intake::new(hold, echo).feed(&mut receive, early) => why(leave),
            () = outbox.stalled(PATIENCE) => Some(too_slow()),
        };
        drop(place);
        if let Some(why) = left {
            dismiss(&outbox, &why);
            tokio::select! {
                _ = &mut sending => {}
                () = drain(&mut receive) => {}
            }
        }
        drop(permit);
    }
}

/// What a client is told that left in this way; `None` when nobody is there.
fn why(leave: Leave) -> Option<Error> {
    match leave {
        Leave::Gone => None,
        Leave::Malformed(what) => {
            let text = format!("the client is at fault: {what}");
            Some(Error::new(ErrorReason::BadRequest, text))
        }
        Leave::Interrupted => {
            let text = "Ctrl-C was typed; the container goes on";
            Some(Error::new(ErrorReason::Interrupted, text))
        }
    }
}
