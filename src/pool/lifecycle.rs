//! What is done to a pool as a whole: invalidate, resize, pause, close.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::Inner;
use super::core::Core;
use crate::deadline::Deadline;
use crate::error::Holder;
use crate::event::CloseReason;

/// Closing a socket costs about 10 µs. So many are closed in the caller's own time; the maintenance
/// task closes the rest, one by one between other tasks. None of them is handed out meanwhile.
const AT_ONCE: usize = 64;

impl Inner {
    /// No connection of today is used again. Idle ones are closed now, those in use when they come
    /// back, or at once if `interrupt` says so.
    pub(super) fn invalidate(self: &Arc<Self>, interrupt: bool) {
        self.common.generation.end(CloseReason::Invalidated);
        self.evict_all(CloseReason::Invalidated);
        if interrupt {
            self.interrupt_all(CloseReason::Invalidated, |core| core.retired().is_some());
        }
    }

    /// As [`invalidate`](Self::invalidate), unless it has happened since this connection was made.
    pub(super) fn invalidate_older_than(self: &Arc<Self>, core: &Core) -> bool {
        let first = self.common.generation.end_of(core.generation, CloseReason::Invalidated);
        if first {
            self.evict_all(CloseReason::Invalidated);
        }
        first
    }

    pub(super) fn pause(self: &Arc<Self>) {
        self.common.set_paused(true);
        self.common.generation.end(CloseReason::Paused);
        self.evict_all(CloseReason::Paused);
    }

    pub(super) fn resume(self: &Arc<Self>) {
        self.common.set_paused(false);
        self.slots.announce();
        self.serve();
    }

    pub(super) fn resize(self: &Arc<Self>, size: usize) {
        self.store.grow(size);
        self.slots.set_limit(size);
        for core in self.surplus().into_iter().take(AT_ONCE) {
            self.evict_surplus(&core);
        }
        self.common.inbox.nudge();
        self.serve();
        self.refresh_gauges();
    }

    /// After a resize down: the idle ones, if there are too many, the longest idle ones first.
    pub(super) fn surplus(&self) -> Vec<Arc<Core>> {
        if !self.slots.are_over() {
            return Vec::new();
        }
        let mut idle = self.common.registry.idle();
        idle.sort_by_cached_key(|core| core.moment(core.idle_since()));
        idle
    }

    /// Closes this idle connection if there are too many. Those in use follow when they come back.
    pub(super) fn evict_surplus(&self, core: &Core) -> bool {
        self.slots.are_over() && core.evict(CloseReason::Resized)
    }

    fn evict_all(&self, reason: CloseReason) {
        for core in self.common.registry.idle().into_iter().take(AT_ONCE) {
            core.evict(reason);
        }
        self.store.sweep();
        // The others, and those being asked for a sign of life.
        self.common.inbox.nudge();
        self.refresh_gauges();
    }

    /// Whatever the users of these connections do next fails with this reason. Returns how many
    /// there were.
    fn interrupt_all(&self, reason: CloseReason, which: impl Fn(&Core) -> bool) -> usize {
        let in_use = self.common.registry.in_use();
        in_use.iter().filter(|core| which(core) && core.interrupt(reason)).count()
    }

    /// Closes the pool, waits for the connections in use until the deadline, and interrupts those
    /// that are left then. Returns how many those were.
    pub(super) async fn close_by(self: &Arc<Self>, deadline: Deadline) -> usize {
        self.close();
        loop {
            let mut came_back = pin!(self.came_back.notified());
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
    pub(super) fn report_holders(&self) {
        let Some(limit) = self.settings().hold_warning else { return };
        let now = Instant::now();
        for core in self.common.registry.in_use() {
            core.report_holder(now, limit);
        }
    }

    /// Who has held connections the longest, if that is noted.
    pub(super) fn longest_holders(&self) -> Vec<Holder> {
        if !self.common.notes_holders {
            return Vec::new();
        }
        let now = Instant::now();
        let in_use = self.common.registry.in_use();
        let mut holders: Vec<_> = in_use.iter().filter_map(|core| core.holder(now)).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held));
        holders.truncate(3);
        holders
    }
}
