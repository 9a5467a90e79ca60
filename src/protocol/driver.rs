//! [`Driver`]: the task in which a client library reads and writes, and whether it has work to do.
//!
//! A request goes to such a task through a channel, and its caller may be gone before the task has
//! looked there. Nothing was sent then, and nothing is owed, as far as anybody can see on the wire;
//! yet the request will be sent, and the next user of the connection would be the one who meets it.
//! So a connection is not judged while its task has been woken and has not run since, and one that
//! comes back meanwhile is judged by the task, at the end of its poll.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, AtomicWaker, Mutex, PoisonError};

/// It was woken, and was not polled since.
const WOKEN: usize = 1;
const POLLING: usize = 2;
/// The last poll ended, and the task has an answer that nobody takes.
const HELD_UP: usize = 4;
/// For good: whoever still has its waker wakes nobody.
const ENDED: usize = 8;
/// It has come to its end, and was not dropped before.
const COMPLETED: usize = 16;
/// Each poll counts one of these, so that a state comes only once.
const POLL: usize = 32;

/// What is to be done when a task has been polled.
type AfterPoll = Box<dyn FnOnce() + Send>;

/// Whether the task of a connection has work to do.
#[derive(Default)]
pub(crate) struct Rest {
    /// Bits, and above them the number of polls.
    state: AtomicUsize,
    /// A read of the present poll has found nothing more.
    has_read_all: AtomicBool,
    rested: Notify,
    /// How many wait for it to rest.
    waiting: AtomicUsize,
    /// Put and taken under this lock, nothing else.
    after_poll: Mutex<Option<AfterPoll>>,
    has_after_poll: AtomicBool,
}

impl Rest {
    pub(crate) fn is_at_rest(&self) -> bool {
        is_resting(self.state.load(Ordering::SeqCst))
    }

    /// Whether it is at rest and this is so, at one moment.
    pub(crate) fn is_at_rest_while(&self, is_so: impl FnOnce() -> bool) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        // Looked at again afterwards: it may have been polled between.
        is_resting(state) && is_so() && {
            let after = self.state.load(Ordering::SeqCst);
            after == state || after & ENDED != 0
        }
    }

    /// Resolves when it has done what it was woken for.
    pub(crate) async fn rested(&self) {
        self.rested_while(|| true).await;
    }

    /// Resolves when it is at rest and this is so at the same moment, or when it has ended.
    pub(crate) async fn rested_while(&self, is_so: impl Fn() -> bool) {
        // Before the look, as the task looks here after its state says that it rests.
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let mut rested = pin!(self.rested.notified());
            rested.as_mut().enable();
            let has_ended = self.state.load(Ordering::SeqCst) & ENDED != 0;
            if has_ended || self.is_at_rest_while(&is_so) {
                return;
            }
            rested.await;
        }
    }

    /// Has this done by the task at the end of its poll, if one is under way or due. Else it is
    /// returned.
    pub(crate) fn after_poll(&self, then: AfterPoll) -> Result<(), AfterPoll> {
        let last = self.after_poll_place().replace(then);
        debug_assert!(last.is_none(), "a connection comes back once at a time");
        self.has_after_poll.store(true, Ordering::SeqCst);
        // After that, as the task looks there after its state says that it was polled: one of the two sees
        // the other.
        let state = self.state.load(Ordering::SeqCst);
        if state & ENDED == 0 && state & (WOKEN | POLLING) != 0 {
            return Ok(());
        }
        self.take_after_poll().map_or(Ok(()), Err)
    }

    /// A read of the present poll has found nothing more.
    pub(super) fn has_read_all(&self) {
        self.has_read_all.store(true, Ordering::Relaxed);
    }

    fn begin_poll(&self) {
        self.has_read_all.store(false, Ordering::Relaxed);
        let last = self.state.load(Ordering::Relaxed);
        // What it is woken for until here it finds in this poll. Busy from here: whoever looks sees it.
        let bits = WOKEN | HELD_UP | POLLING;
        self.state.swap(((last & !bits) + POLL) | POLLING, Ordering::SeqCst);
    }

    /// Ends a poll. Returns whether the task was not woken meanwhile.
    fn end_poll(&self, reads_all: bool) -> bool {
        let is_held_up = reads_all && !self.has_read_all.load(Ordering::Relaxed);
        if is_held_up {
            self.state.fetch_or(HELD_UP, Ordering::SeqCst);
        }
        if self.state.fetch_and(!POLLING, Ordering::SeqCst) & WOKEN != 0 {
            return false;
        }
        // To notify nobody costs a lock.
        if !is_held_up && self.waiting.load(Ordering::SeqCst) > 0 {
            self.rested.notify_waiters();
        }
        true
    }

    /// Whether the task has ended by itself.
    pub(super) fn has_completed(&self) -> bool {
        self.state.load(Ordering::SeqCst) & COMPLETED != 0
    }

    fn end(&self) {
        let completed = self.state.load(Ordering::SeqCst) & COMPLETED;
        self.state.store(ENDED | completed, Ordering::SeqCst);
        self.rested.notify_waiters();
    }

    /// Does what was left for the end of a poll.
    fn was_polled(&self) {
        if self.has_after_poll.load(Ordering::SeqCst)
            && let Some(then) = self.take_after_poll()
        {
            then();
        }
    }

    fn take_after_poll(&self) -> Option<AfterPoll> {
        self.has_after_poll.store(false, Ordering::SeqCst);
        self.after_poll_place().take()
    }

    fn after_poll_place(&self) -> crate::sync::MutexGuard<'_, Option<AfterPoll>> {
        self.after_poll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_resting(state: usize) -> bool {
    state & (WOKEN | POLLING | HELD_UP) == 0 || state & ENDED != 0
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("is_at_rest", &self.is_at_rest()).finish_non_exhaustive()
    }
}

/// Runs the task of a client. Get one with [`Wire::driver`](crate::protocol::Wire::driver).
///
/// ```
/// use livepool::protocol::Wire;
///
/// /// Runs what a client library wants to have run.
/// fn spawn(wire: &Wire, task: impl Future<Output = ()> + Send + 'static) {
///     tokio::spawn(wire.driver().run(task));
/// }
/// ```
#[derive(Debug)]
#[must_use = "it is to run the client's task"]
pub struct Driver {
    end: End,
}

impl Driver {
    /// The task has work to do from here on: to begin.
    pub(super) fn new(rest: &Arc<Rest>) -> Self {
        rest.state.store(WOKEN, Ordering::SeqCst);
        let alarm = DriverWaker { rest: Arc::clone(rest), task: AtomicWaker::new() };
        Self { end: End { alarm: Arc::new(alarm) } }
    }

    /// The client's task, to be spawned: it does what `task` does, and the pool knows whether it has
    /// work to do. It is at rest when it was polled and not woken since.
    pub fn run<F: Future>(self, task: F) -> Driven<F> {
        self.driven(task, false)
    }

    /// As [`run`](Self::run), for a task that reads whenever it is polled, unless it has an answer that
    /// nobody takes: it is at rest only when a read has found nothing more.
    pub fn run_reading<F: Future>(self, task: F) -> Driven<F> {
        self.driven(task, true)
    }

    /// The state of the task, for whoever makes the client.
    pub fn state(&self) -> DriverState {
        DriverState { rest: Arc::clone(&self.end.alarm.rest) }
    }

    fn driven<F: Future>(self, task: F, reads_all: bool) -> Driven<F> {
        let waker = Waker::from(Arc::clone(&self.end.alarm));
        Driven { task, reads_all, waker, end: self.end }
    }
}

/// Whether the task of a client has work to do. Get one with [`Driver::state`]. Cloning is cheap.
///
/// ```
/// use livepool::protocol::{DriverState, Ledger};
///
/// /// Whether nothing is under way: the task has sent what it was given, and nothing is owed for it.
/// fn is_quiet(task: &DriverState, ledger: &Ledger) -> bool {
///     task.is_at_rest_while(|| ledger.debt() == 0)
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct DriverState {
    rest: Arc<Rest>,
}

impl DriverState {
    /// Whether the task is at rest and this is so, at one moment: it was not polled between.
    pub fn is_at_rest_while(&self, is_so: impl FnOnce() -> bool) -> bool {
        self.rest.is_at_rest_while(is_so)
    }

    /// Resolves when the task is at rest and this is so at the same moment, or when the task has ended.
    /// Asked whenever the task comes to rest.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn rested_while(&self, is_so: impl Fn() -> bool) {
        self.rest.rested_while(is_so).await;
    }

    /// For models, in which no wire tells it.
    #[cfg(shuttle)]
    pub fn has_read_all(&self) {
        self.rest.has_read_all();
    }
}

pin_project! {
    /// The future that [`Driver::run`] returns. The task counts as busy until this is dropped.
    ///
    /// ```
    /// use livepool::protocol::{Driven, Driver};
    ///
    /// fn of_a_client<F: Future>(driver: Driver, task: F) -> Driven<F> {
    ///     // For a task that reads whenever it is polled.
    ///     driver.run_reading(task)
    /// }
    /// ```
    #[derive(Debug)]
    #[must_use = "it does nothing unless it is spawned"]
    pub struct Driven<F> {
        #[pin]
        task: F,
        reads_all: bool,
        waker: Waker,
        end: End,
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let DriverWaker { rest, task } = &*this.end.alarm;
        task.register(cx.waker());
        rest.begin_poll();
        let result = this.task.poll(&mut Context::from_waker(this.waker));
        if result.is_pending() {
            if !rest.end_poll(*this.reads_all) {
                // Through the scheduler: what comes meanwhile goes out together.
                cx.waker().wake_by_ref();
            }
            rest.was_polled();
        } else {
            rest.state.fetch_or(COMPLETED, Ordering::SeqCst);
        }
        result
    }
}

/// Notes that the task was woken, and wakes it.
#[derive(Debug)]
struct DriverWaker {
    rest: Arc<Rest>,
    task: AtomicWaker,
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever polls it looks afterwards.
        if self.rest.state.fetch_or(WOKEN, Ordering::SeqCst) & POLLING == 0 {
            self.task.wake();
        }
    }
}

/// A task that has ended does nothing any more, however it ended.
#[derive(Debug)]
struct End {
    alarm: Arc<DriverWaker>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.alarm.rest.end();
        self.alarm.rest.was_polled();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_task_that_has_ended_is_at_rest_whoever_wakes_it() {
        let rest = Arc::<Rest>::default();
        // A channel has the task's waker for longer than it has a receiver.
        let channel = Arc::new(Mutex::new(None));
        let receiver = Arc::clone(&channel);
        let mut task = Driver::new(&rest).run(poll_fn(move |cx| {
            let known = receiver.lock().unwrap().replace(cx.waker().clone());
            if known.is_none() { Poll::Pending } else { Poll::Ready(()) }
        }));
        let wake = || channel.lock().unwrap().as_ref().unwrap().wake_by_ref();
        assert!((&mut task).now_or_never().is_none() && rest.is_at_rest());
        wake();
        assert!(!rest.is_at_rest(), "it has something to do");
        assert!((&mut task).now_or_never().is_some());
        drop(task);
        wake();
        assert!(rest.is_at_rest());
    }

    #[test]
    fn what_is_left_to_a_task_is_done_after_its_next_poll_or_its_end_and_else_given_back() {
        let rest = Arc::<Rest>::default();
        let done = Arc::new(AtomicUsize::new(0));
        let leave = || {
            let done = Arc::clone(&done);
            let then = move || {
                done.fetch_add(1, Ordering::SeqCst);
            };
            rest.after_poll(Box::new(then)).is_ok()
        };
        assert!(!leave(), "there is no task");
        let mut task = Driver::new(&rest).run(std::future::pending::<()>());
        assert!(leave(), "its first poll is due");
        assert_eq!(done.load(Ordering::SeqCst), 0);
        assert!((&mut task).now_or_never().is_none());
        assert_eq!(done.load(Ordering::SeqCst), 1);
        assert!(!leave(), "no poll is due");
        task.end.alarm.wake_by_ref();
        assert!(leave());
        drop(task);
        assert_eq!(done.load(Ordering::SeqCst), 2);
        assert!(!leave(), "it has ended");
    }

    #[test]
    fn a_task_that_did_not_get_to_reading_is_not_at_rest() {
        let rest = Arc::<Rest>::default();
        let reads = Arc::clone(&rest);
        let mut is_held_up = true;
        let mut task = Driver::new(&rest).run_reading(poll_fn(move |_| {
            if !std::mem::take(&mut is_held_up) {
                reads.has_read_all();
            }
            Poll::<()>::Pending
        }));
        assert!((&mut task).now_or_never().is_none() && !rest.is_at_rest());
        assert!((&mut task).now_or_never().is_none() && rest.is_at_rest());
    }
}
