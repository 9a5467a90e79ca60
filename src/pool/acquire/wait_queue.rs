//! The wait queue: callers who wait for a connection, in order of arrival.
//!
//! A connection that becomes free is [given](WaitQueue::give) to the first of them: a caller leaves
//! the queue only with something in hand, so one who came later is never served first, and nobody
//! is passed over while a socket is looked at.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::Location;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use crate::error::CheckoutFailure;
use crate::net::ConnectError;
use crate::pool::acquire::sharing::SharePart;
use crate::pool::conn::lease::Lease;
use crate::pool::dial::peers::LAST_CALL;
use crate::report::WaiterReport;
use crate::sync::atomic::{AtomicUsize, Ordering, fence};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a caller gets no connection.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Failed {
    pub(in crate::pool) failure: CheckoutFailure,
    pub(in crate::pool) connect: Option<Arc<ConnectError>>,
    /// The words of a hook that failed.
    pub(in crate::pool) hook: Option<Arc<str>>,
    /// The caller stood in the queue for it.
    pub(in crate::pool) has_waited: bool,
}

impl From<CheckoutFailure> for Failed {
    fn from(failure: CheckoutFailure) -> Self {
        Self { failure, connect: None, hook: None, has_waited: false }
    }
}

/// The end of a caller's wait: what it is given, or the reason why it gets nothing.
pub(in crate::pool) type Served = Result<Given, Failed>;

/// What a caller is given.
#[derive(Debug)]
pub(in crate::pool) enum Given {
    /// A connection: its own, or, if it wants a share, for it to share.
    Lease(Lease),
    /// A share. Only for those who want one.
    Share(SharePart),
}

impl Given {
    /// The connection, if it is one.
    pub(in crate::pool) fn into_lease(self) -> Option<Lease> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Share(_) => None,
        }
    }
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Wants {
    /// A connection of its own.
    Lease,
    /// A share of one.
    Share,
}

/// Callers who wait.
#[derive(Debug, Default)]
pub(in crate::pool) struct WaitQueue {
    /// Pushed and popped under this lock, nothing else.
    queue: Mutex<Queue>,
    /// Number of callers who still wait and want a connection of their own.
    alone: AtomicUsize,
    /// Number of those who want a share. Each has a count of its own: of a sum and a part, read one after the
    /// other, nobody could tell the rest.
    sharing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    callers: VecDeque<Arc<Caller>>,
    /// How many of them have gone.
    gone: usize,
    /// Not later than the earliest deadline of those who wait.
    first_deadline: Option<Instant>,
}

/// A caller in the queue.
#[derive(Debug)]
struct Caller {
    since: Instant,
    deadline: Option<Instant>,
    wants: Wants,
    /// The place where it asked.
    asked_at: &'static Location<'static>,
    turn: Mutex<WaitState>,
}

#[derive(Debug)]
enum WaitState {
    /// With the task that waits, once that was polled.
    Waiting(Option<Waker>),
    Called(Served),
    Gone,
}

impl WaitQueue {
    /// Whether nobody waits.
    ///
    /// A thread that has just put a connection into the idle set either sees here the caller who
    /// joins, or has the connection seen by that caller: the idle set's lock is taken after the
    /// caller was counted, and before this is read.
    pub(in crate::pool) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    pub(in crate::pool) fn waiting(&self) -> usize {
        // With the pool's flags, which whoever joins reads next, in one order for all threads.
        self.alone() + self.sharing()
    }

    /// How many wait for a connection of their own.
    pub(in crate::pool) fn alone(&self) -> usize {
        self.alone.load(Ordering::SeqCst)
    }

    /// How many wait for a share. Who joins is counted before it looks at what is shared; see
    /// [`is_empty`](Self::is_empty).
    pub(in crate::pool) fn sharing(&self) -> usize {
        self.sharing.load(Ordering::SeqCst)
    }

    /// How many who want a connection of their own stand in front of the first who wants a share.
    pub(in crate::pool) fn in_front_of_sharers(&self) -> usize {
        let queue = self.queue();
        let waiting = queue.callers.iter().filter(|caller| !caller.has_gone());
        waiting.take_while(|caller| caller.wants == Wants::Lease).count()
    }

    /// Joins the end of the queue, unless `most` are waiting already.
    pub(in crate::pool) fn join(
        &self,
        since: Instant,
        deadline: Option<Instant>,
        most: Option<usize>,
        wants: Wants,
        asked_at: &'static Location<'static>,
    ) -> Option<Waiter<'_>> {
        let queue = self.queue();
        if most.is_some_and(|most| self.waiting() >= most) {
            return None;
        }
        let last = queue.callers.len();
        Some(self.stand(queue, last, since, deadline, wants, asked_at))
    }

    /// Takes the place back that a caller had before it was given a connection that failed it.
    pub(in crate::pool) fn rejoin(
        &self,
        since: Instant,
        deadline: Option<Instant>,
        wants: Wants,
        asked_at: &'static Location<'static>,
    ) -> Waiter<'_> {
        let queue = self.queue();
        // By the time of arrival, and not at the front: another caller who had come earlier may be
        // back, too.
        let at = queue.callers.partition_point(|other| other.since <= since);
        self.stand(queue, at, since, deadline, wants, asked_at)
    }

    fn stand(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        at: usize,
        since: Instant,
        deadline: Option<Instant>,
        wants: Wants,
        asked_at: &'static Location<'static>,
    ) -> Waiter<'_> {
        let turn = Mutex::new(WaitState::Waiting(None));
        let caller = Arc::new(Caller { since, deadline, wants, asked_at, turn });
        if let Some(deadline) = deadline
            && queue.first_deadline.is_none_or(|first| deadline < first)
        {
            queue.first_deadline = Some(deadline);
        }
        queue.callers.insert(at, Arc::clone(&caller));
        self.count(wants).fetch_add(1, Ordering::SeqCst);
        drop(queue);
        // Before the look at what there is: see `is_empty`, and `Slots` for the dialer.
        fence(Ordering::SeqCst);
        Waiter { wait_queue: self, caller }
    }

    /// Gives this to the first who waits. Returns it if nobody does.
    ///
    /// The queue and its count change under one lock: were a caller out of the queue and still
    /// counted, a connection that is returned meanwhile would be offered to nobody, over and over.
    pub(in crate::pool) fn give(&self, served: Served) -> Result<(), Served> {
        let mut queue = self.queue();
        queue.drop_gone();
        // After the gone ones are dropped the first one waits.
        let Some(caller) = queue.callers.pop_front() else { return Err(served) };
        self.call(queue, &caller, served);
        Ok(())
    }

    /// Gives this to the first who waits for a share. Returns it if nobody does.
    pub(in crate::pool) fn give_share(&self, part: SharePart) -> Result<(), SharePart> {
        let mut queue = self.queue();
        queue.drop_gone();
        let wants_it = |caller: &Arc<Caller>| caller.wants == Wants::Share && !caller.has_gone();
        let at = queue.callers.iter().position(wants_it);
        let Some(caller) = at.and_then(|at| queue.callers.remove(at)) else { return Err(part) };
        self.call(queue, &caller, Ok(Given::Share(part)));
        Ok(())
    }

    /// Calls one who was just taken out of the queue, and so waits: nobody leaves without its lock.
    #[inline(always)]
    fn call(&self, queue: MutexGuard<'_, Queue>, caller: &Caller, served: Served) {
        self.forget(caller);
        let task = caller.take(served);
        drop(queue);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// One who waits no more, with the queue locked.
    fn forget(&self, caller: &Caller) {
        self.count(caller.wants).fetch_sub(1, Ordering::SeqCst);
    }

    fn count(&self, wants: Wants) -> &AtomicUsize {
        match wants {
            Wants::Lease => &self.alone,
            Wants::Share => &self.sharing,
        }
    }

    /// How many wait since this moment or longer, and since when the next one does.
    pub(in crate::pool) fn since(&self, moment: Instant) -> (usize, Option<Instant>) {
        let queue = self.queue();
        let waiting = |caller: &&Arc<Caller>| matches!(*caller.turn(), WaitState::Waiting(_));
        // They stand in order of arrival.
        // Binary search: the dialer asks at each of its turns.
        let at = queue.callers.partition_point(|caller| caller.since <= moment);
        let long = queue.callers.iter().take(at).filter(waiting).count();
        (long, queue.callers.iter().skip(at).find(waiting).map(|caller| caller.since))
    }

    /// The first ones who wait, so many at most.
    pub(in crate::pool) fn report(&self, now: Instant, most: usize) -> Vec<WaiterReport> {
        let queue = self.queue();
        let waiting = queue.callers.iter().filter(|caller| !caller.has_gone());
        let report = |caller: &Arc<Caller>| WaiterReport {
            waited: now.saturating_duration_since(caller.since),
            left: caller.deadline.map(|at| at.saturating_duration_since(now)),
            wants_share: caller.wants == Wants::Share,
            asked_at: caller.asked_at,
        };
        waiting.take(most).map(report).collect()
    }

    /// Since when the first one waits.
    pub(in crate::pool) fn first_since(&self) -> Option<Instant> {
        let queue = self.queue();
        // They stand in order of arrival.
        queue.callers.iter().find(|caller| !caller.has_gone()).map(|caller| caller.since)
    }

    /// The earliest deadline of those who wait. Before its [last call](LAST_CALL) it may be that of
    /// one who was served or has gone since.
    pub(in crate::pool) fn first_deadline(&self, now: Instant) -> Option<Instant> {
        let mut queue = self.queue();
        if queue.first_deadline.is_some_and(|first| first <= now + LAST_CALL) {
            // Looked for only then: each time costs a look at everybody.
            let waiting = |caller: &&Arc<Caller>| matches!(*caller.turn(), WaitState::Waiting(_));
            let deadlines = queue.callers.iter().filter(waiting).filter_map(|c| c.deadline);
            queue.first_deadline = deadlines.min();
        }
        queue.first_deadline
    }

    /// Has every caller look around: what served them may have ended.
    pub(in crate::pool) fn wake_all(&self) {
        // Copied, since wakers are foreign code and are not called under the lock.
        let callers: Vec<_> = self.queue().callers.iter().cloned().collect();
        for caller in callers {
            let task = match &mut *caller.turn() {
                WaitState::Waiting(task) => task.take(),
                WaitState::Called(_) | WaitState::Gone => None,
            };
            if let Some(task) = task {
                task.wake();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn drop_gone(&mut self) {
        while self.gone > 0 && self.callers.front().is_some_and(|caller| caller.has_gone()) {
            self.callers.pop_front();
            self.gone -= 1;
        }
        // Those behind one who waits for long: not more than there are others.
        if self.gone > 32 && self.gone > self.callers.len() / 2 {
            self.callers.retain(|caller| !caller.has_gone());
            self.gone = 0;
        }
    }
}

impl Caller {
    fn has_gone(&self) -> bool {
        matches!(*self.turn(), WaitState::Gone)
    }

    /// Takes what it is given, and returns its task. Only for one who is in the queue, and so waits.
    #[inline(always)]
    fn take(&self, served: Served) -> Option<Waker> {
        match std::mem::replace(&mut *self.turn(), WaitState::Called(served)) {
            WaitState::Waiting(task) => task,
            WaitState::Called(_) | WaitState::Gone => {
                unreachable!("only those who wait are in the queue")
            }
        }
    }

    /// Takes what the caller was given. Until then `task` waits.
    fn called(&self, task: &Waker) -> Option<Served> {
        let mut new = None;
        loop {
            let mut turn = self.turn();
            match &mut *turn {
                WaitState::Waiting(Some(known)) if known.will_wake(task) => return None,
                WaitState::Waiting(known) if new.is_some() => {
                    std::mem::swap(known, &mut new);
                    drop(turn);
                    // The last one goes with no lock held.
                    drop(new);
                    return None;
                }
                // Wakers are foreign code: cloned with no lock held.
                WaitState::Waiting(_) => {
                    drop(turn);
                    new = Some(task.clone());
                }
                called => match std::mem::replace(called, WaitState::Gone) {
                    WaitState::Called(served) => return Some(served),
                    WaitState::Waiting(_) | WaitState::Gone => {
                        unreachable!("a caller asks until it was called, and then no more")
                    }
                },
            }
        }
    }

    fn turn(&self) -> MutexGuard<'_, WaitState> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. Dropping it leaves the queue; a connection that had just been given to it
/// goes back, and so to the next.
pub(in crate::pool) struct Waiter<'a> {
    wait_queue: &'a WaitQueue,
    caller: Arc<Caller>,
}

impl Waiter<'_> {
    pub(in crate::pool) fn wants(&self) -> Wants {
        self.caller.wants
    }

    /// Resolves when the caller is called. `look_around` runs at every poll before that.
    ///
    /// Cancel safety: nothing is lost; the waiter keeps what was given to it.
    pub(in crate::pool) async fn called(&self, look_around: impl Fn()) -> Served {
        poll_fn(|cx| match self.caller.called(cx.waker()) {
            Some(served) => Poll::Ready(served),
            None => {
                look_around();
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let was_called = !matches!(*self.caller.turn(), WaitState::Waiting(_));
        // Who was called once is in no queue any more.
        let queue = (!was_called).then(|| self.wait_queue.queue());
        let turn = std::mem::replace(&mut *self.caller.turn(), WaitState::Gone);
        if let (WaitState::Waiting(_), Some(mut queue)) = (&turn, queue) {
            self.wait_queue.forget(&self.caller);
            queue.gone += 1;
            queue.drop_gone();
        }
        // A task is forgotten, or a connection goes back, with no lock held.
        drop(turn);
    }
}

#[cfg(test)]
#[path = "wait_queue_tests.rs"]
mod tests;
