//! The line: callers who wait for a connection, in order of arrival.
//!
//! Whatever becomes free goes to the first of them. One thread at a time gives out
//! ([`Line::begin`]); the others leave a note for it. So a caller who came later is never served
//! first, and nobody waits for a lock while a socket is looked at.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::lease::Lease;
use crate::error::CheckoutFailure;
use crate::net::ConnectError;

/// Why a caller gets no connection.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) failure: CheckoutFailure,
    pub(super) connect: Option<Arc<ConnectError>>,
}

impl From<CheckoutFailure> for Failed {
    fn from(failure: CheckoutFailure) -> Self {
        Self { failure, connect: None }
    }
}

/// Callers who wait.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Pushed and popped under this lock, nothing else.
    queue: Mutex<Queue>,
    /// Those who still wait.
    waiting: AtomicUsize,
    /// Connections that were just made. Pushed and popped under this lock, nothing else.
    fresh: Mutex<VecDeque<Lease>>,
    /// Somebody gives out.
    serving: AtomicBool,
    /// Something changed since whoever gives out has last looked.
    again: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    callers: VecDeque<Arc<Caller>>,
    /// How many of them have gone, about.
    gone: usize,
}

/// One caller.
#[derive(Debug)]
pub(super) struct Caller {
    since: Instant,
    turn: Mutex<Turn>,
    task: AtomicWaker,
}

#[derive(Debug)]
enum Turn {
    Waiting,
    /// Boxed: most callers only wait.
    Called(Box<Result<Lease, Failed>>),
    Gone,
}

impl Line {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// As [`is_empty`](Self::is_empty), for whoever has just put something into the store: either it
    /// sees the caller who joins, or that caller sees what was put there.
    pub(super) fn is_empty_after_all(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Joins the end of the line, unless `most` are waiting already.
    pub(super) fn join(&self, since: Instant, most: Option<usize>) -> Option<Spot<'_>> {
        let queue = self.queue();
        if most.is_some_and(|most| self.waiting() >= most) {
            return None;
        }
        let last = queue.callers.len();
        Some(self.stand(queue, last, since))
    }

    /// Takes the place back that a caller had before it was given a connection that failed it.
    pub(super) fn rejoin(&self, since: Instant) -> Spot<'_> {
        let queue = self.queue();
        let at = queue.callers.partition_point(|other| other.since <= since);
        self.stand(queue, at, since)
    }

    fn stand(&self, mut queue: MutexGuard<'_, Queue>, at: usize, since: Instant) -> Spot<'_> {
        let caller = Caller { since, turn: Mutex::new(Turn::Waiting), task: AtomicWaker::new() };
        let caller = Arc::new(caller);
        queue.callers.insert(at, Arc::clone(&caller));
        self.waiting.fetch_add(1, Ordering::AcqRel);
        drop(queue);
        // See `is_empty_after_all`.
        fence(Ordering::SeqCst);
        Spot { line: self, caller }
    }

    /// Asks for the right to give out. `false`: somebody else does, and will look again.
    pub(super) fn begin(&self) -> bool {
        self.again.store(true, Ordering::SeqCst);
        !self.serving.swap(true, Ordering::SeqCst)
    }

    /// Whether something has changed since the last look; if not, the right is given back.
    pub(super) fn has_news(&self) -> bool {
        loop {
            if self.again.swap(false, Ordering::SeqCst) {
                return true;
            }
            self.serving.store(false, Ordering::SeqCst);
            // Whoever came between the two found the right taken.
            if !self.again.load(Ordering::SeqCst) || self.serving.swap(true, Ordering::SeqCst) {
                return false;
            }
        }
    }

    pub(super) fn push_fresh(&self, lease: Lease) {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).push_back(lease);
    }

    pub(super) fn next_fresh(&self) -> Option<Lease> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The first who waits.
    pub(super) fn front(&self) -> Option<Arc<Caller>> {
        let mut queue = self.queue();
        queue.drop_gone();
        queue.callers.front().cloned()
    }

    /// Calls this caller. Gives back what it did not take: it has gone.
    pub(super) fn call(
        &self,
        caller: &Arc<Caller>,
        result: Result<Lease, Failed>,
    ) -> Result<(), Box<Result<Lease, Failed>>> {
        let result = Box::new(result);
        {
            let mut turn = caller.turn();
            if !matches!(*turn, Turn::Waiting) {
                return Err(result);
            }
            *turn = Turn::Called(result);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        let mut queue = self.queue();
        if let Some(at) = queue.callers.iter().position(|one| Arc::ptr_eq(one, caller)) {
            queue.callers.remove(at);
        }
        drop(queue);
        caller.task.wake();
        Ok(())
    }

    /// How many wait since this moment or longer, and since when the next one does.
    pub(super) fn since(&self, moment: Instant) -> (usize, Option<Instant>) {
        let queue = self.queue();
        let waiting = |caller: &&Arc<Caller>| matches!(*caller.turn(), Turn::Waiting);
        // They stand in order of arrival.
        let at = queue.callers.partition_point(|caller| caller.since <= moment);
        let long = queue.callers.iter().take(at).filter(waiting).count();
        (long, queue.callers.iter().skip(at).find(waiting).map(|caller| caller.since))
    }

    /// Has every caller look around: what served them may have ended.
    pub(super) fn wake_all(&self) {
        let callers: Vec<_> = self.queue().callers.iter().cloned().collect();
        for caller in callers {
            caller.task.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn drop_gone(&mut self) {
        while self.callers.front().is_some_and(|caller| caller.has_gone()) {
            self.callers.pop_front();
            self.gone = self.gone.saturating_sub(1);
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
        matches!(*self.turn(), Turn::Gone)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line. Dropping it leaves the line; a connection that had just been given to it
/// goes back, and so to the next.
pub(super) struct Spot<'a> {
    line: &'a Line,
    caller: Arc<Caller>,
}

impl Spot<'_> {
    /// Resolves when the caller is called. `look_around` runs at every poll before that.
    ///
    /// Cancel safety: nothing is lost; the spot keeps what was given to it.
    pub(super) async fn called(&self, look_around: impl Fn()) -> Result<Lease, Failed> {
        poll_fn(|cx| {
            self.caller.task.register(cx.waker());
            let mut turn = self.caller.turn();
            match std::mem::replace(&mut *turn, Turn::Gone) {
                Turn::Called(result) => return Poll::Ready(*result),
                Turn::Waiting => *turn = Turn::Waiting,
                Turn::Gone => unreachable!("a spot is asked until it was called, and then dropped"),
            }
            drop(turn);
            look_around();
            Poll::Pending
        })
        .await
    }
}

impl Drop for Spot<'_> {
    fn drop(&mut self) {
        let turn = std::mem::replace(&mut *self.caller.turn(), Turn::Gone);
        match turn {
            Turn::Waiting => {
                self.line.waiting.fetch_sub(1, Ordering::AcqRel);
                let mut queue = self.line.queue();
                queue.gone += 1;
                queue.drop_gone();
            }
            // A connection goes back from here, with no lock held.
            Turn::Called(result) => drop(result),
            Turn::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn join(line: &Line) -> Spot<'_> {
        line.join(Instant::now(), None).unwrap()
    }

    fn outcome(spot: &Spot<'_>) -> Option<CheckoutFailure> {
        spot.called(|| {}).now_or_never().map(|result| result.unwrap_err().failure)
    }

    /// Calls the first one.
    fn call(line: &Line) -> bool {
        let caller = line.front().unwrap();
        line.call(&caller, Err(CheckoutFailure::Connect.into())).is_ok()
    }

    #[test]
    fn callers_are_called_in_order_of_arrival() {
        let line = Line::default();
        let (first, second) = (join(&line), join(&line));
        assert!(call(&line));
        assert_eq!(outcome(&second), None);
        assert_eq!(outcome(&first), Some(CheckoutFailure::Connect));
        assert_eq!(line.waiting(), 1);
        assert!(call(&line));
        assert_eq!(outcome(&second), Some(CheckoutFailure::Connect));
        assert!(line.is_empty() && line.front().is_none());
    }

    #[test]
    fn a_caller_who_leaves_is_passed_over_and_gives_back_what_it_was_given() {
        let line = Line::default();
        let (first, second) = (join(&line), join(&line));
        let called = line.front().unwrap();
        drop(first);
        let refused = line.call(&called, Err(CheckoutFailure::Connect.into()));
        assert!(refused.is_err(), "nobody is there to take it");
        assert!(call(&line));
        assert!(outcome(&second).is_some());
    }

    #[test]
    fn a_full_line_lets_nobody_join() {
        let line = Line::default();
        let spot = line.join(Instant::now(), Some(1)).unwrap();
        assert!(line.join(Instant::now(), Some(1)).is_none());
        drop(spot);
        assert!(line.join(Instant::now(), Some(1)).is_some());
    }

    #[test]
    fn those_who_left_do_not_pile_up_behind_one_who_waits() {
        let line = Line::default();
        let _first = join(&line);
        for _ in 0..10_000 {
            drop(join(&line));
        }
        assert!(line.queue().callers.len() < 100);
        assert_eq!(line.waiting(), 1);
    }

    #[test]
    fn one_at_a_time_gives_out_and_looks_again_when_told_to() {
        let line = Line::default();
        assert!(line.begin());
        assert!(line.has_news());
        assert!(!line.begin(), "somebody does");
        assert!(line.has_news(), "and was told");
        assert!(!line.has_news());
        assert!(line.begin());
    }

    #[test]
    fn callers_are_counted_by_how_long_they_wait() {
        let line = Line::default();
        let start = Instant::now();
        let at = |seconds| start + std::time::Duration::from_secs(seconds);
        let spots: Vec<_> = (0..4).map(|n| line.join(at(n), None).unwrap()).collect();
        assert_eq!(line.since(at(1)), (2, Some(at(2))));
        drop(spots);
        assert_eq!(line.since(at(9)), (0, None));
    }
}
