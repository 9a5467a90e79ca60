//! [`Turns`]: so many at a time, in order of arrival, and how many that is may change.

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many at a time, in order of arrival.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// Counts are changed under this lock, nothing else.
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    most: usize,
    /// Of the permits that are not free, how many there are too many.
    surplus: usize,
}

/// A turn. Dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        let (free, counts) = (Arc::new(Semaphore::new(most)), Counts { most, surplus: 0 });
        Arc::new(Self { free, counts: Mutex::new(counts) })
    }

    /// Waits for a turn.
    pub(super) async fn next(self: &Arc<Self>) -> Option<Turn> {
        loop {
            // It is never closed.
            let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
            if !self.is_surplus() {
                return Some(Turn { turns: Arc::clone(self), permit: Some(permit) });
            }
            // Added for more than there may be by now.
            permit.forget();
        }
    }

    /// Whether a permit that is held now is one too many. If so, it is to be forgotten.
    fn is_surplus(&self) -> bool {
        let mut counts = self.counts();
        let is_surplus = counts.surplus > 0;
        counts.surplus -= usize::from(is_surplus);
        is_surplus
    }

    /// From now on this many. Who has a turn keeps it; where there are more than that, as many of them are
    /// followed by nobody; one who was about to have one may have to wait again, behind the others. `most` is
    /// asked under the lock: of two calls, the later one has the later word.
    pub(super) fn set(&self, most: impl FnOnce() -> usize) {
        let more = self.count(most);
        // Wakes those who wait. If another call has taken them away again meanwhile, they are surplus.
        self.free.add_permits(more);
    }

    /// Returns how many permits are to be added.
    fn count(&self, most: impl FnOnce() -> usize) -> usize {
        let mut counts = self.counts();
        let most = most().max(1);
        let before = std::mem::replace(&mut counts.most, most);
        let kept = counts.surplus.min(most.saturating_sub(before));
        counts.surplus -= kept;
        let fewer = before.saturating_sub(most);
        // Taking free ones away wakes nobody.
        counts.surplus += fewer - self.free.forget_permits(fewer);
        most.saturating_sub(before) - kept
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let is_surplus = self.turns.is_surplus();
        match self.permit.take() {
            Some(permit) if is_surplus => permit.forget(),
            permit => drop(permit),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(turns: &Arc<Turns>) -> Option<Turn> {
        turns.next().now_or_never().flatten()
    }

    #[test]
    fn as_many_have_a_turn_as_there_may_be_now_and_nobody_loses_one() {
        let turns = Turns::new(2);
        let (a, b) = (take(&turns).unwrap(), take(&turns).unwrap());
        assert!(take(&turns).is_none());
        turns.set(|| 1);
        drop(a);
        assert!(take(&turns).is_none(), "there is one already");
        drop(b);
        let c = take(&turns).unwrap();
        assert!(take(&turns).is_none());
        // Down and up again while somebody has one.
        turns.set(|| 3);
        turns.set(|| 1);
        turns.set(|| 3);
        let (d, e) = (take(&turns).unwrap(), take(&turns).unwrap());
        assert!(take(&turns).is_none());
        turns.set(|| 1);
        turns.set(|| 2);
        drop((c, d));
        let f = take(&turns).unwrap();
        assert!(take(&turns).is_none(), "one is left of before, and there may be two");
        drop((e, f));
        assert_eq!(turns.free.available_permits(), 2);
    }

    /// The rise of the first call comes to those who wait after the second one has lowered it again.
    #[test]
    fn a_rise_that_is_overtaken_by_a_fall_lets_nobody_in() {
        let turns = Turns::new(1);
        let a = take(&turns).unwrap();
        let mut waits = Box::pin(turns.next());
        assert!(waits.as_mut().now_or_never().is_none());
        let more = turns.count(|| 3);
        turns.set(|| 1);
        turns.free.add_permits(more);
        assert!(waits.as_mut().now_or_never().is_none(), "there is one already");
        assert!(take(&turns).is_none());
        drop(a);
        let b = waits.as_mut().now_or_never().flatten().unwrap();
        assert!(take(&turns).is_none());
        drop(b);
        assert_eq!((turns.free.available_permits(), turns.counts().surplus), (1, 0));
    }
}
