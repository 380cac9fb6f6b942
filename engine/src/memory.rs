//! Linear memory: a counter for each container, and one for the engine, whose budget protects the machine.
//!
//! When all containers together have more than the budget, the one that is most above its request ends, and then the
//! next one, until the rest fits.

use crate::exit::OutOfMemory;
use crate::meter;
use crate::sandbox::{Sandbox, Stop};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use wasmtime::ResourceLimiterAsync;

/// A table's elements at most: 8 MiB, fifty times the largest table seen in a published module.
const TABLE_ELEMENTS: usize = 1 << 20;

/// What an element of a table costs the host at most; it counts as the guest's memory.
const ELEMENT_BYTES: u64 = 8;

/// Of all tables of a guest together.
const TABLES_ELEMENTS: usize = 8 * TABLE_ELEMENTS;

/// From so much memory on a single instruction (`memory.fill`) may take longer than neighbours should wait: a fifth of a
/// second when nothing of it was touched before.
const LARGE_BYTES: u64 = 256 << 20;

/// Bounds what an artifact's own declarations cost the host.
pub const INSTANCES: usize = 1_000;

/// The same: each memory takes several of the process's memory maps.
const MEMORIES: usize = 100;

/// The linear memory of all containers of the engine.
#[derive(Default)]
pub struct Pool {
    budget: Option<u64>,
    used: AtomicU64,
    /// By their addresses.
    containers: Mutex<HashMap<usize, Weak<Memory>>>,
    /// Held while it is decided who ends, so that two who ask at once end no two.
    deciding: Mutex<()>,
}

/// The linear memory of one container, shared by all its instances.
#[derive(Default)]
pub struct Memory {
    pool: Arc<Pool>,
    sandbox: Weak<Sandbox>,
    used: AtomicU64,
    request: u64,
    limit: Option<u64>,
    /// It has to end, and gets no more.
    ends: AtomicBool,
}

/// Some of it; given back when dropped.
pub struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

/// One instance's part of it.
pub struct Share {
    held: Held,
    /// Elements of its tables.
    elements: usize,
}

impl Pool {
    /// Of so many bytes; `None` is no budget.
    pub fn new(budget: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            ..Self::default()
        })
    }

    /// What containers have, and may have, together.
    pub fn read(&self) -> crate::protocol::Budget {
        crate::protocol::Budget {
            used: self.used.load(Ordering::Relaxed),
            limit: self.budget.unwrap_or(u64::MAX),
        }
    }

    /// The account of a container.
    pub fn container(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        request: u64,
        limit: Option<u64>,
    ) -> Arc<Memory> {
        let memory = Arc::new(Memory {
            pool: Arc::clone(self),
            sandbox: Arc::downgrade(sandbox),
            used: AtomicU64::new(0),
            request,
            limit,
            ends: AtomicBool::new(false),
        });
        lock(&self.containers).insert(Memory::key(&memory), Arc::downgrade(&memory));
        memory
    }

    /// Ends containers until the rest fits the budget. An error: `asking` is one of them.
    fn relieve(&self, asking: &Memory) -> Result<(), OutOfMemory> {
        let _deciding = lock(&self.deciding);
        // The lock is free again before the last reference to one can go, which takes it.
        let mut all: Vec<Arc<Memory>> = lock(&self.containers)
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.excess()));
        let budget = self.budget.unwrap_or(u64::MAX);
        let leaving: u64 = (all.iter())
            .filter(|it| it.ends.load(Ordering::Relaxed))
            .map(|it| it.bytes())
            .sum();
        let mut rest = self.used.load(Ordering::Relaxed).saturating_sub(leaving);
        for memory in &all {
            if rest <= budget {
                break;
            }
            let is_asking = std::ptr::eq(&raw const **memory, asking);
            if !memory.ends.load(Ordering::Relaxed) && (is_asking || memory.has_started()) {
                rest = rest.saturating_sub(memory.bytes());
                memory.end(budget);
            }
        }
        if asking.ends.load(Ordering::Relaxed) {
            return Err(asking.over(budget));
        }
        Ok(())
    }
}

impl Memory {
    /// What the container's instances may have in all.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// A new instance's part.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            held: self.hold(),
            elements: 0,
        }
    }

    /// Nothing yet of what something else of the container takes.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            memory: Arc::clone(self),
            bytes: 0,
        }
    }

    fn key(&self) -> usize {
        (&raw const *self).addr()
    }

    fn bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn excess(&self) -> u64 {
        self.bytes().saturating_sub(self.request)
    }

    fn has_started(&self) -> bool {
        (self.sandbox.upgrade()).is_some_and(|it| it.started_at().is_some())
    }

    fn over(&self, budget: u64) -> OutOfMemory {
        OutOfMemory::Engine {
            used: self.bytes(),
            request: self.request,
            budget,
        }
    }

    fn end(&self, budget: u64) {
        self.ends.store(true, Ordering::Relaxed);
        let Some(sandbox) = self.sandbox.upgrade() else {
            return;
        };
        let why = self.over(budget);
        tracing::warn!(sandbox = sandbox.id, pod = sandbox.pod(), %why, "engine's memory budget is used up");
        // One that starts hears it by the instance that cannot be made.
        if sandbox.started_at().is_some() {
            sandbox.stop(Stop::OutOfMemory(why));
        }
    }

    fn grow(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let limit = self.limit.unwrap_or(u64::MAX);
        let grown = |used: u64| used.checked_add(bytes).filter(|&wanted| wanted <= limit);
        if let Err(used) = (self.used).fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            return Err(OutOfMemory::Container {
                wanted: used.saturating_add(bytes),
                limit,
            });
        }
        let used = self.pool.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_over = self.pool.budget.is_some_and(|budget| used > budget);
        if is_over && let Err(error) = self.pool.relieve(self) {
            self.give_back(bytes);
            return Err(error);
        }
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.pool.containers).remove(&self.key());
    }
}

impl Held {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It is so much from now on; an error if that is too much, and then it stays as it was.
    pub fn set(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.memory.grow(more)?,
            None => self.memory.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

impl Share {
    /// Linear memory of the instance in bytes.
    pub fn bytes(&self) -> u64 {
        self.held.bytes
    }

    fn charge(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.held.set(self.held.bytes.saturating_add(bytes))
    }
}

#[wasmtime_wasi::async_trait]
impl ResourceLimiterAsync for Share {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // What the memory's own type forbids fails after this, and must not count.
        if most.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        let was_large = self.bytes() >= LARGE_BYTES;
        self.charge(desired.saturating_sub(current) as u64)?;
        if self.bytes() >= LARGE_BYTES && !was_large {
            meter::go_aside().await;
        }
        Ok(true)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let is_over = desired > most.unwrap_or(TABLE_ELEMENTS).min(TABLE_ELEMENTS)
            || self.elements.saturating_add(more) > TABLES_ELEMENTS;
        if is_over {
            return Ok(false);
        }
        self.charge(more as u64 * ELEMENT_BYTES)?;
        self.elements += more;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}
