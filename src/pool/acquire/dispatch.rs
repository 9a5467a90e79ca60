//! Giving out: whatever is free goes to the callers in line, the first one first.

use crate::sync::Arc;

use crate::error::CheckoutFailure;
use crate::pool::acquire::wait_queue::{Failed, Given};
use crate::pool::conn::lease::Lease;
use crate::pool::dial::dialer::FailedDial;
use crate::pool::inner::PoolInner;
use crate::status::Status;

impl PoolInner {
    /// Serves the queue from the idle connections. To be called whenever there may be one more of
    /// either. Never waits.
    pub(in crate::pool) fn serve(self: &Arc<Self>) {
        while !self.wait_queue.is_empty() {
            if self.is_closed() {
                while self.wait_queue.give(Err(CheckoutFailure::Closed.into())).is_ok() {}
            }
            if self.is_stopped() {
                return;
            }
            // One at a time: what is not usable must not cost a caller its turn.
            let Some(lease) = self.take_idle() else { return };
            self.hand_over(lease);
        }
    }

    /// Gives a connection that was just made, taken or returned to the first in line; if nobody
    /// waits, to the idle ones.
    pub(in crate::pool) fn hand_over(self: &Arc<Self>, lease: Lease) {
        let refused = match self.is_stopped() {
            true => Some(Ok(Given::Lease(lease))),
            false => self.wait_queue.give(Ok(Given::Lease(lease))).err(),
        };
        // A lease that is dropped goes back, or is closed.
        drop(refused);
        // Who was served keeps nothing from those who share any more.
        self.serve_sharers();
    }

    /// Tells everybody who waits that there is nothing to wait for any more: what they hoped for, a connection
    /// that was reset or asked for a sign of life, has ended without serving them.
    pub(in crate::pool) fn fail_hopeless(&self) {
        let has_none = || self.dials.under_way() == 0 && self.registry.is_empty();
        if self.wait_queue.is_empty() || !has_none() {
            return;
        }
        let Some(error) = self.hopeless() else { return };
        let failed = Failed { connect: Some(error), ..CheckoutFailure::Connect.into() };
        while self.wait_queue.give(Err(failed.clone())).is_ok() {}
    }

    /// Tells those who wait for a new connection that there will be none, after a dial that failed
    /// [in vain](crate::pool::dial::dialer::Dials::is_vain). That is everybody where the pool has no
    /// connection; else as many as there are connections that nobody holds, at least one. Whoever came when
    /// the dial had begun waits for another one.
    pub(in crate::pool) fn fail_waiters(self: &Arc<Self>, dial: &FailedDial) {
        let connect = Some(Arc::clone(&dial.error));
        let failed = Failed { connect, ..CheckoutFailure::Connect.into() };
        let waiting = match dial.is_final() {
            true => self.wait_queue.waiting(),
            false => self.wait_queue.since(dial.began).0,
        };
        let Status { idle, in_use, shared, quarantined, .. } = self.status();
        let for_new_ones = match idle + in_use + shared + quarantined {
            0 => waiting,
            _ => self.slots.limit().saturating_sub(self.guards()).clamp(1, waiting.max(1)),
        };
        for _ in 0..for_new_ones.min(waiting) {
            if self.wait_queue.give(Err(failed.clone())).is_err() {
                return;
            }
        }
    }
}
