//! A checkout that has to wait, and why it gets nothing.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::{CheckoutDetails, CheckoutError, CheckoutFailure, Phase};
use crate::event::{CheckoutOutcome, Event, Operation};
use crate::net::ConnectError;
use crate::pool::acquire::checkout::Until;
use crate::pool::acquire::wait_queue::Failed;
use crate::pool::dial::peers::Demand;
use crate::pool::inner::PoolInner;
use crate::sync::Arc;

impl PoolInner {
    /// Connections that nobody holds, made or not.
    pub(super) fn unclaimed(&self) -> usize {
        self.slots.limit().saturating_sub(self.guards())
    }

    /// Why nobody can be served before somebody changes something, if so: the last dial failed in a
    /// way that repeating does not cure, the next one is not due, and there is no connection that may come
    /// back, from its user, from its reset, or when its peer has answered.
    pub(super) fn hopeless(&self) -> Option<Arc<ConnectError>> {
        let error = self.dials.last_error().filter(|error| !error.is_retryable())?;
        let soon = self.guards() + self.resets.count() + self.probing.count() > 0
            || self.peers.may_dial(Instant::now(), Demand::Nobody).is_ok();
        (!soon).then_some(error)
    }

    /// The error for a caller who gets no connection.
    pub(in crate::pool) fn error(&self, failed: Failed, waited: Duration) -> CheckoutError {
        let mut status = self.status();
        // It has left the queue by now, and was one of them.
        status.waiting += usize::from(failed.has_waited);
        CheckoutError::new(CheckoutDetails {
            failure: failed.failure,
            pool: self.emitter().name().into(),
            waited,
            status,
            connect: failed.connect,
            hook: failed.hook,
            holders: self.longest_holders(),
        })
    }

    /// The failure of a caller whose deadline has passed: for what it was waiting.
    pub(super) fn late(&self) -> Failed {
        let error = self.dials.last_error();
        let phase = if self.generation.is_paused() {
            Phase::Paused
        } else if self.unclaimed() == 0 {
            Phase::Queue
        } else if self.dials.under_way() == 0 && error.is_none() && self.probing.count() > 0 {
            Phase::Check
        } else {
            Phase::Connect
        };
        let connect = error.filter(|_| phase == Phase::Connect);
        Failed { connect, ..CheckoutFailure::Timeout(phase).into() }
    }
}

/// A checkout that has to wait. Reports its end exactly once, also when its caller goes away.
pub(super) struct PendingCheckout<'a> {
    inner: &'a Arc<PoolInner>,
    pub(super) began: Instant,
    limit: Option<Duration>,
    pub(super) deadline: Deadline,
    pub(super) max_waiting: Option<usize>,
    pub(super) wait_warning: Option<Duration>,
    /// The place where its caller asked.
    pub(super) taken_at: &'static Location<'static>,
    pub(super) over: bool,
}

impl<'a> PendingCheckout<'a> {
    pub(super) fn begin(
        inner: &'a Arc<PoolInner>,
        until: Until,
        taken_at: &'static Location<'static>,
    ) -> Self {
        let began = Instant::now();
        // One look at the settings: this checkout goes by them, however long it waits.
        let (configured, max_waiting, wait_warning) = {
            let settings = inner.settings();
            (settings.timeouts.checkout, settings.max_waiting, settings.wait_warning)
        };
        let (deadline, limit) = match until {
            Until::Configured => (Deadline::within(began, configured), configured),
            Until::By(deadline) => {
                (deadline, deadline.instant().map(|at| at.saturating_duration_since(began)))
            }
        };
        Self { inner, began, limit, deadline, max_waiting, wait_warning, taken_at, over: false }
    }

    pub(super) fn report(&self, failed: Failed, waited: Duration) -> CheckoutError {
        let emitter = self.inner.emitter();
        let outcome = match failed.failure {
            CheckoutFailure::Timeout(_) => CheckoutOutcome::Timeout,
            CheckoutFailure::QueueFull => CheckoutOutcome::QueueFull,
            CheckoutFailure::Connect | CheckoutFailure::NoRuntime => CheckoutOutcome::ConnectFailed,
            CheckoutFailure::Hook => CheckoutOutcome::Hook,
            CheckoutFailure::Closed => CheckoutOutcome::Closed,
        };
        if let (CheckoutOutcome::Timeout, Some(after)) = (outcome, self.limit) {
            emitter.emit(Event::TimedOut { operation: Operation::Checkout, conn: None, after });
        }
        emitter.emit(Event::CheckoutFailed { outcome, waited });
        self.inner.error(failed, waited)
    }
}

impl Drop for PendingCheckout<'_> {
    fn drop(&mut self) {
        // What was kept for this one may be shared again.
        self.inner.serve_sharers();
        if !self.over {
            let outcome = CheckoutOutcome::Cancelled;
            let waited = self.began.elapsed();
            self.inner.emitter().emit(Event::CheckoutFailed { outcome, waited });
        }
    }
}
