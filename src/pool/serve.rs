//! Giving out: whatever is idle goes to the callers in line, the first one first.

use std::sync::Arc;

use super::Inner;
use super::lease::Lease;
use super::line::Failed;
use crate::error::CheckoutFailure;
use crate::net::ConnectError;

impl Inner {
    /// Serves the line from the idle connections. To be called whenever there may be one more of
    /// either. Never waits; while one thread serves, the others only tell it to look again.
    pub(super) fn serve(self: &Arc<Self>) {
        if !self.line.begin() {
            return;
        }
        while self.line.has_news() {
            while let Some(caller) = self.line.front() {
                if self.common.is_paused() && !self.is_closed() {
                    break;
                }
                let result = if self.is_closed() {
                    Err(Failed::from(CheckoutFailure::Closed))
                } else {
                    match self.next() {
                        Some(lease) => Ok(lease),
                        None => break,
                    }
                };
                // What a caller who has just gone did not take: a lease that is dropped goes back.
                drop(self.line.call(&caller, result));
            }
            // Made for callers who have gone: to the idle ones, unless somebody has come.
            while let Some(lease) = self.line.next_fresh() {
                match self.line.front().filter(|_| !self.is_stopped()) {
                    Some(caller) => drop(self.line.call(&caller, Ok(lease))),
                    None => drop(lease),
                }
            }
        }
    }

    fn next(self: &Arc<Self>) -> Option<Lease> {
        let fresh = self.line.next_fresh();
        fresh.or_else(|| self.store.take().map(|taken| Lease::new(self, taken)))
    }

    /// Gives a connection that was just made to the first in line. It is not looked at before: some
    /// protocols begin with the server's word.
    pub(super) fn serve_fresh(self: &Arc<Self>, lease: Lease) {
        self.line.push_fresh(lease);
        self.serve();
    }

    /// Tells those who wait for a new connection that there will be none: nobody else's turn would
    /// come sooner, and no later dial would end otherwise.
    pub(super) fn fail_waiters(self: &Arc<Self>, error: &Arc<ConnectError>) {
        let failed = Failed { failure: CheckoutFailure::Connect, connect: Some(Arc::clone(error)) };
        let waiting = self.line.waiting();
        let for_new_ones =
            self.slots.limit().saturating_sub(self.guards()).clamp(1, waiting.max(1));
        for _ in 0..for_new_ones.min(waiting) {
            let Some(caller) = self.line.front() else { return };
            drop(self.line.call(&caller, Err(failed.clone())));
        }
    }
}
