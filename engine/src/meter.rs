//! What guests compute: counted per container, kept within a quota, moved to the busy threads when it goes on.
//!
//! Only the polls of a guest's future are counted, by the thread's CPU time. What the kernel does on other threads for
//! it (file operations, on the blocking pool) and what an interrupted guest's unwinding takes is not.

use crate::epoch::Epoch;
use crate::sync::lock;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;

/// A quota's period, that of Linux' CFS bandwidth control.
const PERIOD: Duration = Duration::from_millis(100);

/// A guest gives way at the first tick after it has computed for so long. A request of less is seldom cut in two, and so
/// does not wait for all others twice.
const TURN_NANOSECONDS: u64 = 5_000_000;

/// A guest that has computed for two ticks without waiting moves to the busy threads. Its own CPU time counts: on a full
/// machine ticks pass while others compute.
const BUSY_NANOSECONDS: u64 = 20_000_000;

/// And at once after a turn of four ticks, which the clock did not end.
const LONG_NANOSECONDS: u64 = 40_000_000;

thread_local! {
    /// The thread's CPU time when the guest's poll began.
    static BEGAN: Cell<u64> = const { Cell::new(0) };
    /// The guest that was just polled on this thread gave way to the clock, and would have gone on.
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
    /// From now on single instructions of it may take long.
    static GOES_ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the guest on this thread has computed for long enough, asked at a tick; it is noted that it gives way then.
pub fn gives_way() -> bool {
    let is_over = thread_nanoseconds() - BEGAN.get() >= TURN_NANOSECONDS;
    GAVE_WAY.set(is_over);
    is_over
}

/// Whether the guest that is just polled on this thread has done so in this poll.
pub fn has_given_way() -> bool {
    GAVE_WAY.get()
}

/// Has the guest on this thread go on among the busy ones, for good.
pub async fn go_aside() {
    GOES_ASIDE.set(true);
    tokio::task::yield_now().await;
}

/// The CPU time of one container, shared by all its instances.
pub struct Account {
    nanoseconds: AtomicU64,
    quota: Option<Quota>,
}

/// What a container may compute in each period; what was too much is taken from the next ones.
struct Quota {
    begin: Instant,
    slice: i64,
    now: Mutex<Balance>,
}

#[derive(Clone, Copy)]
struct Balance {
    period: u64,
    left: i64,
}

impl Account {
    /// Nothing computed yet; at most so many thousandths of a core.
    pub fn new(millicores: Option<u64>) -> Arc<Self> {
        let quota = millicores.map(|millicores| {
            let slice = PERIOD.as_nanos() as u64 / 1000 * millicores.clamp(1, 1_000_000);
            let slice = slice.cast_signed();
            Quota {
                begin: Instant::now(),
                slice,
                now: Mutex::new(Balance {
                    period: 0,
                    left: slice,
                }),
            }
        });
        Arc::new(Self {
            nanoseconds: AtomicU64::new(0),
            quota,
        })
    }

    /// CPU time so far.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }

    fn charge(&self, nanoseconds: u64) {
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if let Some(quota) = &self.quota {
            lock(&quota.now).left -= nanoseconds.cast_signed();
        }
    }

    /// Until when the container has to wait; `None` when it may compute.
    fn closed_until(&self) -> Option<Instant> {
        let quota = self.quota.as_ref()?;
        let period = (quota.begin.elapsed().as_nanos() / PERIOD.as_nanos()) as u64;
        let mut now = lock(&quota.now);
        *now = now.in_period(period, quota.slice);
        now.opens_in(quota.slice).map(|period| {
            quota.begin + PERIOD.saturating_mul(u32::try_from(period).unwrap_or(u32::MAX))
        })
    }
}

impl Balance {
    /// It with the slices of the periods since; unused ones are lost.
    fn in_period(self, period: u64, slice: i64) -> Self {
        if period <= self.period {
            return self;
        }
        let periods = (period - self.period).min(1 << 20).cast_signed();
        let left = self.left.saturating_add(periods.saturating_mul(slice));
        Self {
            period,
            left: left.min(slice),
        }
    }

    /// The first period in which something is left; `None` when that is now.
    fn opens_in(self, slice: i64) -> Option<u64> {
        (self.left <= 0).then(|| self.period + (-self.left / slice + 1).cast_unsigned())
    }
}

/// Where guests compute, and the clock that interrupts them.
#[derive(Clone)]
pub struct Threads {
    /// For what waits more than it computes: guests that block, and the network.
    pub fast: Handle,
    /// For guests that compute on; everything else goes before them.
    pub busy: Handle,
    /// Interrupts guests.
    pub epoch: Arc<Epoch>,
}

impl Threads {
    /// Starts a guest's future; it ends when the handle is dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        account: &Arc<Account>,
        guest: impl Future<Output = T> + Send + 'static,
    ) -> Owned<T> {
        Owned::new(self.fast.spawn(self.drive(account, Box::pin(guest))))
    }

    /// A guest's future, to be polled on a fast thread: moves to the busy threads while it computes.
    pub fn drive<T: Send + 'static>(
        &self,
        account: &Arc<Account>,
        guest: Boxed<T>,
    ) -> impl Future<Output = T> + Send + use<T> {
        let busy = self.busy.clone();
        let mut guest: Metered<T> = Metered {
            fast: self.fast.clone(),
            epoch: Arc::clone(&self.epoch),
            account: Arc::clone(account),
            future: guest,
            pause: None,
            computed: 0,
            aside: false,
        };
        async move {
            loop {
                guest = match (Turn::new(guest, Place::Fast)).await {
                    Some(Moved::Done(value)) => return value,
                    Some(Moved::Guest(guest)) => guest,
                    None => return std::future::pending().await,
                };
                let turn = Owned::new(busy.spawn(Turn::new(guest, Place::Busy)));
                guest = match turn.await {
                    Ok(Some(Moved::Done(value))) => return value,
                    Ok(Some(Moved::Guest(guest))) => guest,
                    Ok(None) => return std::future::pending().await,
                    // Its panic is this task's, which its owner sees.
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_) => return std::future::pending().await,
                    },
                };
            }
        }
    }
}

/// A guest's future, which moves between threads.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A task that ends with its handle.
pub struct Owned<T> {
    /// `None` once it is detached.
    task: Option<JoinHandle<T>>,
}

impl<T> Owned<T> {
    /// Owns a task.
    pub fn new(task: JoinHandle<T>) -> Self {
        Self { task: Some(task) }
    }

    /// Lets the task go on without an owner.
    pub fn detach(mut self) {
        self.task = None;
    }

    /// Ends the task soon.
    pub fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.abort();
    }
}

impl<T> Future for Owned<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.task {
            Some(task) => Pin::new(task).poll(context),
            None => Poll::Pending,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Fast,
    Busy,
}

enum Moved<T> {
    Done(T),
    Guest(Metered<T>),
}

/// A guest on one kind of threads, until it ends or belongs on the other.
struct Turn<T> {
    guest: Option<Metered<T>>,
    place: Place,
}

impl<T> Turn<T> {
    fn new(guest: Metered<T>, place: Place) -> Self {
        Self {
            guest: Some(guest),
            place,
        }
    }
}

impl<T> Future for Turn<T> {
    type Output = Option<Moved<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let place = self.place;
        let Some(guest) = &mut self.guest else {
            return Poll::Ready(None);
        };
        let polled = if place == Place::Busy {
            let fast = guest.fast.clone();
            let _fast = fast.enter();
            guest.poll(context)
        } else {
            guest.poll(context)
        };
        if let Poll::Ready(value) = polled {
            return Poll::Ready(Some(Moved::Done(value)));
        }
        if guest.place() == place {
            return Poll::Pending;
        }
        Poll::Ready(self.guest.take().map(Moved::Guest))
    }
}

/// A guest's future whose polls are counted.
struct Metered<T> {
    /// Who waits for its sockets, clocks and files, wherever it computes.
    fast: Handle,
    epoch: Arc<Epoch>,
    account: Arc<Account>,
    future: Boxed<T>,
    /// Its container is over its quota.
    pause: Option<Pin<Box<Sleep>>>,
    /// Nanoseconds of CPU time since it last waited.
    computed: u64,
    /// See [`go_aside`].
    aside: bool,
}

impl<T> Metered<T> {
    fn place(&self) -> Place {
        if self.aside || self.computed >= BUSY_NANOSECONDS {
            Place::Busy
        } else {
            Place::Fast
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<T> {
        while let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = self.next_pause();
        }
        self.pause = self.next_pause();
        if let Some(pause) = &mut self.pause {
            // Registered now; a pause that is over by now is looked at again at once.
            if pause.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        GAVE_WAY.set(false);
        GOES_ASIDE.set(false);
        let before = thread_nanoseconds();
        BEGAN.set(before);
        let polled = {
            let _inside = self.epoch.enter();
            self.future.as_mut().poll(context)
        };
        let spent = thread_nanoseconds() - before;
        self.account.charge(spent);
        self.aside |= GOES_ASIDE.take();
        // A long turn is one that nothing could interrupt, and more of them may come.
        self.computed = if GAVE_WAY.take() || spent > LONG_NANOSECONDS {
            self.computed.saturating_add(spent)
        } else {
            0
        };
        polled
    }

    fn next_pause(&self) -> Option<Pin<Box<Sleep>>> {
        let until = self.account.closed_until()?;
        Some(Box::pin(tokio::time::sleep_until(until.into())))
    }
}

fn thread_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_over_when_the_guest_itself_has_computed_for_long() {
        BEGAN.set(thread_nanoseconds());
        std::thread::sleep(Duration::from_nanos(4 * TURN_NANOSECONDS));
        assert!(!gives_way() && !has_given_way(), "others had the core");
        while thread_nanoseconds() - BEGAN.get() < TURN_NANOSECONDS {}
        assert!(gives_way() && has_given_way());
    }

    #[test]
    fn a_debt_is_paid_by_the_next_periods() {
        let balance = Balance {
            period: 3,
            left: 10,
        };
        assert_eq!(balance.opens_in(10), None);
        let spent = Balance {
            period: 3,
            left: -25,
        };
        assert_eq!(spent.opens_in(10), Some(6));
        assert_eq!(spent.in_period(5, 10).opens_in(10), Some(6));
        assert_eq!(spent.in_period(6, 10).left, 5);
        assert_eq!(spent.in_period(1000, 10).left, 10);
        let even = Balance { period: 3, left: 0 };
        assert_eq!(even.opens_in(10), Some(4));
    }
}
