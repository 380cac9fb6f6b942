//! Instances: how many are at work, which are kept for another request, who waits.
//!
//! A container that is idle has none: what is kept is dropped after a second without a request.

use crate::http::instance::Instance;
use crate::protocol::Http;
use crate::sync::lock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// How long an instance waits for its next request.
pub const KEPT: Duration = Duration::from_secs(1);

/// One container's instances.
pub struct Instances {
    permits: Arc<Semaphore>,
    most: u32,
    waiting: AtomicU32,
    most_waiting: u32,
    reuse: u32,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Newest last.
    idle: Vec<(Instant, Instance)>,
    /// Somebody drops those that wait too long.
    swept: bool,
}

/// There are too many requests already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Instances {
    /// None yet; as many at once as the settings allow, and no more than the memory limit has room for.
    pub fn new(settings: &Http, memory_limit: Option<u64>, instance_bytes: u64) -> Self {
        let most = most(settings.max_instances, memory_limit, instance_bytes);
        Self {
            permits: Arc::new(Semaphore::new(most as usize)),
            most,
            waiting: AtomicU32::new(0),
            most_waiting: settings.max_queued,
            reuse: settings.reuse.unwrap_or(1),
            kept: Arc::default(),
        }
    }

    /// How many may be at work.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Waits for the right to have an instance, until `deadline`.
    pub async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Full> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting, self.most_waiting)?;
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout_at(deadline.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Full),
        }
    }

    /// The right to have an instance, if there is one now.
    pub fn try_enter(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.permits).try_acquire_owned()
    }

    /// One that waits for a request.
    pub fn take(&self) -> Option<Instance> {
        if self.reuse == 1 {
            return None;
        }
        lock(&self.kept).idle.pop().map(|(_, instance)| instance)
    }

    /// Keeps an instance, if it may serve once more.
    pub fn give_back(&self, instance: Instance) {
        if instance.served >= self.reuse {
            return;
        }
        let mut kept = lock(&self.kept);
        kept.idle.push((Instant::now(), instance));
        if !std::mem::replace(&mut kept.swept, true) {
            let kept = Arc::downgrade(&self.kept);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(KEPT).await;
                    let Some(kept) = kept.upgrade() else { return };
                    if sweep(&kept) {
                        return;
                    }
                }
            });
        }
    }

    /// Waits until nothing is at work. Nothing will be, from then on.
    pub async fn all_back(&self) {
        // Closed by nobody; whoever got all permits gives none back.
        if let Ok(permits) = self.permits.acquire_many(self.most).await {
            permits.forget();
            lock(&self.kept).idle.clear();
        }
        self.permits.close();
    }
}

/// Drops what has waited too long; true when nothing is left.
fn sweep(kept: &Mutex<Kept>) -> bool {
    let now = Instant::now();
    let mut kept = lock(kept);
    let fresh = kept
        .idle
        .iter()
        .position(|(since, _)| now.duration_since(*since) < KEPT)
        .unwrap_or(kept.idle.len());
    let old: Vec<_> = kept.idle.drain(..fresh).collect();
    kept.swept = !kept.idle.is_empty();
    let is_empty = !kept.swept;
    // Unmapping memory takes its time.
    drop(kept);
    drop(old);
    is_empty
}

fn most(setting: u32, memory_limit: Option<u64>, instance_bytes: u64) -> u32 {
    let by_memory = memory_limit.map_or(u64::MAX, |limit| limit / instance_bytes.max(1));
    setting
        .min(u32::try_from(by_memory).unwrap_or(u32::MAX))
        .max(1)
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32, most: u32) -> Result<Self, Full> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(Full);
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_bounds_the_instances() {
        assert_eq!(most(100, None, 1 << 20), 100);
        assert_eq!(most(100, Some(10 << 20), 1 << 20), 10);
        assert_eq!(most(100, Some(1), 1 << 20), 1);
        assert_eq!(most(100, Some(1 << 40), 0), 100);
    }
}
