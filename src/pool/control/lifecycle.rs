//! Operations on a pool as a whole: invalidate, pause, close.

use std::pin::pin;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::Holder;
use crate::event::CloseReason;
use crate::pool::conn::entry::Entry;
use crate::pool::health::closing::MOST_CLOSED;
use crate::pool::inner::PoolInner;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

impl PoolInner {
    /// No connection of today is used again. Idle ones are closed, those in use when they come back,
    /// or at once if `interrupt` says so.
    pub(in crate::pool) fn invalidate(self: &Arc<Self>, interrupt: bool) {
        self.generation.end(CloseReason::Invalidated);
        self.end_unwanted();
        // After the generation has ended: what begins from now on is of the new one.
        self.dials.give_up_older(self.generation.now());
        if interrupt {
            self.interrupt_all(CloseReason::Invalidated, |entry| entry.retired().is_some());
        }
    }

    /// As [`invalidate`](Self::invalidate), unless it has happened since this connection was made.
    pub(in crate::pool) fn invalidate_older_than(self: &Arc<Self>, entry: &Entry) -> bool {
        let first = entry.end_generation(CloseReason::Invalidated);
        if first {
            self.end_unwanted();
            self.dials.give_up_older(self.generation.now());
        }
        first
    }

    pub(in crate::pool) fn pause(self: &Arc<Self>) {
        self.generation.set_paused(true);
        self.generation.end(CloseReason::Paused);
        self.end_unwanted();
        self.dials.give_up_older(self.generation.now());
        self.dials.announce();
    }

    pub(in crate::pool) fn resume(self: &Arc<Self>) {
        self.generation.set_paused(false);
        self.slots.announce();
        self.serve();
    }

    /// Closes the idle connections that are not wanted any more, the longest idle ones first.
    /// Connections that are left to the maintenance task are handed out to nobody meanwhile.
    pub(in crate::pool) fn end_unwanted(&self) {
        let is_maintained = self.maintained.load(Ordering::Acquire);
        let most = if is_maintained { MOST_CLOSED } else { usize::MAX };
        for entry in self.longest_idle().into_iter().take(most) {
            self.evict_unwanted(&entry);
        }
        self.idle_set.sweep();
        // The others, and those being asked for a sign of life.
        self.fired_queue.wake();
        self.refresh_gauges();
        self.recalled.notify_waiters();
    }

    /// Interrupts the users of these connections: their next operation fails with this reason.
    /// Returns how many there were.
    fn interrupt_all(&self, reason: CloseReason, which: impl Fn(&Entry) -> bool) -> usize {
        let in_use = self.registry.in_use();
        in_use.iter().filter(|entry| which(entry) && entry.interrupt(reason)).count()
    }

    /// Closes the pool, waits for the connections in use until the deadline, and interrupts those
    /// that are left then. Returns how many those were.
    pub(in crate::pool) async fn close_and_wait(self: &Arc<Self>, deadline: Deadline) -> usize {
        self.close();
        loop {
            let mut came_back = pin!(self.came_back.notified());
            // Enabled before the count is read, or the last return could be missed.
            came_back.as_mut().enable();
            if self.guards() == 0 {
                return 0;
            }
            if deadline.run(came_back).await.is_err() {
                return self.interrupt_all(CloseReason::PoolClosed, |_| true);
            }
        }
    }

    /// Reports connections that were held for too long.
    pub(in crate::pool) fn report_holders(&self) {
        let Some(limit) = self.settings().hold_warning else { return };
        let now = Instant::now();
        for entry in self.registry.in_use() {
            let Some((event, span)) = entry.held_too_long(now, limit) else { continue };
            // The log line says what the caller was doing.
            span.in_scope(|| self.emitter().emit(event));
        }
        self.report_sharers();
    }

    /// The three callers who have held connections the longest, if that is noted.
    pub(in crate::pool) fn longest_holders(&self) -> Vec<Holder> {
        if self.settings().hold_warning.is_none() {
            return Vec::new();
        }
        let now = Instant::now();
        let in_use = self.registry.in_use();
        let mut holders: Vec<_> = in_use.iter().filter_map(|entry| entry.holder(now)).collect();
        holders.extend(self.sharers(now));
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held));
        holders.truncate(3);
        holders
    }
}
