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
    /// Of those who have a turn, how many there are too many.
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
        // It is never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(Turn { turns: Arc::clone(self), permit: Some(permit) })
    }

    /// From now on this many. Who has a turn keeps it; where there are more than that, as many of them are
    /// followed by nobody. `most` is asked under the lock: of two calls, the later one has the later word.
    pub(super) fn set(&self, most: impl FnOnce() -> usize) {
        let more = {
            let mut counts = self.counts();
            let most = most().max(1);
            let before = std::mem::replace(&mut counts.most, most);
            let kept = counts.surplus.min(most.saturating_sub(before));
            counts.surplus -= kept;
            let fewer = before.saturating_sub(most);
            // Taking free ones away wakes nobody.
            counts.surplus += fewer - self.free.forget_permits(fewer);
            most.saturating_sub(before) - kept
        };
        // Wakes those who wait.
        self.free.add_permits(more);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let is_surplus = {
            let mut counts = self.turns.counts();
            let is_surplus = counts.surplus > 0;
            counts.surplus -= usize::from(is_surplus);
            is_surplus
        };
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
}
