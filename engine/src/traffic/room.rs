//! How many sockets there may be: a container's, and all of the engine's.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One container's.
const EACH: usize = 256;

/// A container's part of the engine's sockets.
pub struct Room {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The right to one socket; given back when dropped.
pub struct Place {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Room {
    /// Its part of `all`.
    pub fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            own: Arc::new(Semaphore::new(EACH)),
            all: Arc::clone(all),
        }
    }

    /// A place, if there is one now.
    pub fn try_take(&self) -> Option<Place> {
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place {
            _permits: [own, all],
        })
    }

    /// Waits for a place. Nobody closes the semaphores.
    pub async fn take(&self) -> Option<Place> {
        let own = Arc::clone(&self.own).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place {
            _permits: [own, all],
        })
    }
}
