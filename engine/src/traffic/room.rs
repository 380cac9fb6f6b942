//! How many sockets there may be: a container's, and all of the engine's.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A container's part of the engine's sockets.
pub struct Room {
    each: usize,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The right to one socket; given back when dropped.
pub struct Place {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Room {
    /// Its part of `all`: at most `each`.
    pub fn new(all: &Arc<Semaphore>, each: usize) -> Self {
        Self {
            each,
            own: Arc::new(Semaphore::new(each)),
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

    /// A place, while as many are free as the container has: something is always left for others.
    pub fn try_take_fairly(&self) -> Option<Place> {
        let place = self.try_take()?;
        let others = self.each - self.own.available_permits() - 1;
        (others <= self.all.available_permits()).then_some(place)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_fairly_leaves_something() {
        let all = Arc::new(Semaphore::new(16));
        let take =
            |room: &Room| -> Vec<Place> { std::iter::from_fn(|| room.try_take_fairly()).collect() };
        let (one, two, small) = (Room::new(&all, 16), Room::new(&all, 16), Room::new(&all, 2));
        let first = take(&one);
        let second = take(&two);
        assert_eq!((first.len(), second.len()), (8, 4));
        assert_eq!(take(&small).len(), 2);
        drop((first, second));
        assert_eq!(all.available_permits(), 16);
    }
}
