//! Connections ahead of the first caller.

use std::pin::pin;

use tokio::time::Instant;

use crate::config::Settings;
use crate::deadline::Deadline;
use crate::error::{CheckoutError, CheckoutFailure, Phase};
use crate::pool::acquire::wait_queue::Failed;
use crate::pool::inner::PoolInner;
use crate::pool::inner::has_runtime;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends of a warm-up besides success and the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum GiveUp {
    /// An error that had better not be waited for: see [`Dials::is_vain`].
    ///
    /// [`Dials::is_vain`]: crate::pool::dial::dialer::Dials::is_vain
    WhenHopeless,
    /// The first dial that fails.
    AtOnce,
}

/// How many idle connections those who wait for them want, one number each.
#[derive(Debug, Default)]
pub(in crate::pool) struct WarmUpTargets(Mutex<Vec<usize>>);

impl WarmUpTargets {
    fn most(&self) -> usize {
        self.lock().iter().copied().max().unwrap_or_default()
    }

    /// Whether anybody waits for some.
    pub(in crate::pool) fn are_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the dialer for idle connections as long as it lives.
struct WarmUpTarget<'a>(&'a WarmUpTargets, usize);

impl<'a> WarmUpTarget<'a> {
    fn new(warm_up_targets: &'a WarmUpTargets, count: usize) -> Self {
        warm_up_targets.lock().push(count);
        Self(warm_up_targets, count)
    }
}

impl Drop for WarmUpTarget<'_> {
    fn drop(&mut self) {
        let mut warm_up_targets = self.0.lock();
        if let Some(at) = warm_up_targets.iter().position(|count| *count == self.1) {
            warm_up_targets.swap_remove(at);
        }
    }
}

impl PoolInner {
    /// How many idle connections there should be.
    pub(in crate::pool) fn least_idle(&self, settings: &Settings) -> usize {
        let least = settings.min_idle.max(self.warm_up_targets.most());
        least.min(self.slots.limit())
    }

    /// Waits until there are this many connections, idle, in use or shared.
    pub(in crate::pool) async fn warm_up(
        self: &Arc<Self>,
        count: usize,
        give_up: GiveUp,
    ) -> Result<(), CheckoutError> {
        let (began, limit) = (Instant::now(), self.settings().timeouts.checkout);
        if !has_runtime() {
            return Err(self.error(CheckoutFailure::NoRuntime.into(), began.elapsed()));
        }
        let deadline = Deadline::after(limit);
        let count = count.min(self.slots.limit());
        // An error from before this call is no news.
        let before = self.dials.last_error();
        let _wish = WarmUpTarget::new(&self.warm_up_targets, count);
        self.maintain();
        loop {
            let mut changed = pin!(self.dials.news());
            // Enabled before the look, or a dial that ends in between would be missed.
            changed.as_mut().enable();
            let status = self.status();
            // One that was just made counts as in use until it has found its place.
            let settled = status.idle >= count || self.dials.under_way() == 0;
            if status.idle + status.in_use + status.shared >= count && settled {
                return Ok(());
            }
            let error = self.dials.last_error_since(began);
            let news = match (&error, &before) {
                (Some(error), Some(before)) => !Arc::ptr_eq(error, before),
                (error, _) => error.is_some(),
            };
            let first = self.settings().first_connect;
            let hopeless = error.as_ref().is_some_and(|error| self.dials.is_vain(error, first));
            let failure = if self.is_closed() {
                Some(CheckoutFailure::Closed)
            } else if news && (give_up == GiveUp::AtOnce || hopeless) {
                Some(CheckoutFailure::Connect)
            } else {
                self.slots.announce();
                let is_over = deadline.instant().is_some_and(|at| at <= Instant::now());
                // After the deadline there is one more look at what is there.
                let _ = deadline.run(changed).await;
                is_over.then_some(CheckoutFailure::Timeout(Phase::Connect))
            };
            if let Some(failure) = failure {
                let connect = self.dials.last_error();
                return Err(self.error(Failed { connect, ..failure.into() }, began.elapsed()));
            }
        }
    }
}
