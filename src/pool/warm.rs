//! Connections ahead of the first caller.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::Inner;
use crate::deadline::Deadline;
use crate::error::{CheckoutError, CheckoutFailure, Phase};

/// What ends the wait besides success and the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GiveUp {
    /// An error that no later dial would be spared.
    WhenHopeless,
    /// Any dial that fails.
    AtOnce,
}

/// Asks the dialer for idle connections as long as it lives.
struct Wish<'a>(&'a AtomicUsize);

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Inner {
    /// How many idle connections there should be.
    pub(super) fn least_idle(&self) -> usize {
        let least = self.settings().min_idle.max(self.wish.load(Ordering::Acquire));
        least.min(self.slots.limit())
    }

    /// Waits until there are this many connections, idle or in use.
    pub(super) async fn warm_up(
        self: &Arc<Self>,
        count: usize,
        give_up: GiveUp,
    ) -> Result<(), CheckoutError> {
        let (began, limit) = (Instant::now(), self.settings().timeouts.checkout);
        let deadline = Deadline::after(limit);
        let count = count.min(self.slots.limit());
        let before = self.dials.last_error();
        self.wish.store(count, Ordering::Release);
        let _wish = Wish(&self.wish);
        self.maintain();
        loop {
            let mut ended = pin!(self.dials.ends());
            ended.as_mut().enable();
            let status = self.status();
            // One that was just made counts as in use until it has found its place.
            let settled = status.idle >= count || self.dials.under_way() == 0;
            if status.idle + status.in_use >= count && settled {
                return Ok(());
            }
            let error = self.dials.last_error();
            let news = match (&error, &before) {
                (Some(error), Some(before)) => !Arc::ptr_eq(error, before),
                (error, _) => error.is_some(),
            };
            let hopeless = error.as_ref().is_some_and(|error| !error.is_retryable());
            let failure = if self.is_closed() {
                Some(CheckoutFailure::Closed)
            } else if news && (give_up == GiveUp::AtOnce || hopeless) {
                Some(CheckoutFailure::Connect)
            } else {
                self.slots.announce();
                let late = deadline.run(ended).await.is_err();
                late.then_some(CheckoutFailure::Timeout(Phase::Connect))
            };
            if let Some(failure) = failure {
                return Err(CheckoutError {
                    failure,
                    pool: self.emitter().name().into(),
                    waited: began.elapsed(),
                    status: self.status(),
                    connect: self.dials.last_error(),
                    holders: self.longest_holders(),
                });
            }
        }
    }
}
