//! Slots: how many connections may exist, from the start of a dial to the close of the socket.

use crate::protocol::Place;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts what exists. The count of slots, and not the idle set's size, is the pool's limit.
#[derive(Debug)]
pub(in crate::pool) struct Slots {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Of those, how many are of connections that have ended and for which their peer still works.
    ending: AtomicUsize,
    /// Rings when a change may call for a dial: a slot is free, a caller waits. The dialer alone
    /// waits here.
    changed: Notify,
}

impl Slots {
    pub(in crate::pool) fn new(limit: usize) -> Arc<Self> {
        let limit = AtomicUsize::new(limit);
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            ending: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// A slot for a connection that is about to be made.
    pub(in crate::pool) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let more = |used| (used < self.limit()).then_some(used + 1);
        // Taken and compared in one step: two dials never share the last slot.
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Slot(Arc::clone(self)))
    }

    pub(in crate::pool) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    /// From now on this many. Connections beyond the limit stay until they are closed. To be
    /// [announced](Self::announce).
    pub(in crate::pool) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Release);
    }

    /// From now on this many at least.
    pub(in crate::pool) fn raise_limit(&self, limit: usize) {
        self.limit.fetch_max(limit, Ordering::AcqRel);
    }

    /// Whether there is one to take.
    pub(in crate::pool) fn are_free(&self) -> bool {
        self.used() < self.limit()
    }

    /// Whether there are more than there may be.
    pub(in crate::pool) fn are_over(&self) -> bool {
        self.used() > self.limit()
    }

    pub(in crate::pool) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(in crate::pool) fn ending(&self) -> usize {
        self.ending.load(Ordering::Acquire)
    }

    /// Has the dialer look again.
    pub(in crate::pool) fn announce(&self) {
        self.changed.notify_one();
    }

    /// Resolves when something was announced since the last time.
    pub(in crate::pool) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The right of one connection to exist. Dropped after its socket is closed.
#[derive(Debug)]
pub(in crate::pool) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the announcement, or the dialer would find none and sleep.
        self.0.used.fetch_sub(1, Ordering::AcqRel);
        self.0.announce();
    }
}

impl Slot {
    /// Turns the slot into a place that is kept: its connection has ended, and its peer still works
    /// for it.
    pub(in crate::pool) fn ending(self) -> Place {
        self.0.ending.fetch_add(1, Ordering::AcqRel);
        Box::new(KeptSlot(self))
    }
}

/// See [`Slot::ending`].
struct KeptSlot(Slot);

impl Drop for KeptSlot {
    fn drop(&mut self) {
        self.0.0.ending.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_held_from_dial_to_close_and_never_more_than_the_limit() {
        let slots = Slots::new(2);
        let a = slots.try_take().unwrap();
        let b = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
        drop(b);
        assert!(slots.try_take().is_some());
        let ending = a.ending();
        assert_eq!((slots.used(), slots.ending()), (1, 1));
        drop(ending);
        assert_eq!((slots.used(), slots.ending()), (0, 0));
    }
}
