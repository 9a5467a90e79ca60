//! Checkout: admission, then an idle connection or a new one, all before one deadline.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use tokio::time::Instant;
use tracing::Instrument;

use super::Inner;
use super::admission::{Refused, Ticket};
use super::core::Core;
use super::guard::Guard;
use super::slots::Slot;
use super::store::Taken;
use crate::deadline::Deadline;
use crate::error::{CheckoutError, CheckoutFailure, Phase};
use crate::event::{CheckoutOutcome, CloseReason, Event, Operation};
use crate::net::ConnectError;
use crate::telemetry;

/// Takes a connection from the pool.
pub(super) async fn checkout(inner: &Arc<Inner>) -> Result<Guard, CheckoutError> {
    let ticket = inner.admission.try_enter();
    if let Some(ticket) = ticket {
        // The usual case: no timer, no allocation, no clock but the one the check needs.
        match inner.store.take() {
            Some(taken) => Ok(hand_out(inner, ticket, taken, Duration::ZERO)),
            None => wait(inner, Some(ticket)).await,
        }
    } else {
        wait(inner, None).await
    }
}

fn hand_out(inner: &Arc<Inner>, ticket: Ticket<'_>, taken: Taken, waited: Duration) -> Guard {
    let guard = Guard::new(inner, ticket, taken);
    inner.maintain();
    inner.emitter().emit(Event::CheckedOut { conn: guard.id(), waited });
    guard
}

async fn wait(inner: &Arc<Inner>, ticket: Option<Ticket<'_>>) -> Result<Guard, CheckoutError> {
    let span = telemetry::checkout_span(inner.emitter().name());
    let mut attempt = Attempt::begin(inner);
    let result = obtain(inner, ticket, attempt.deadline).instrument(span.clone()).await;
    attempt.over = true;
    let waited = attempt.began.elapsed();
    match result {
        Ok((ticket, taken)) => {
            span.record("peer", tracing::field::display(taken.stream.peer_addr()));
            span.record("conn_id", taken.stream.id().get());
            Ok(hand_out(inner, ticket, taken, waited))
        }
        Err(failed) => Err(attempt.report(failed, waited)),
    }
}

/// Why [`obtain`] ended without a connection.
struct Failed {
    failure: CheckoutFailure,
    connect: Option<ConnectError>,
}

impl From<CheckoutFailure> for Failed {
    fn from(failure: CheckoutFailure) -> Self {
        Self { failure, connect: None }
    }
}

async fn obtain<'a>(
    inner: &'a Arc<Inner>,
    ticket: Option<Ticket<'a>>,
    deadline: Deadline,
) -> Result<(Ticket<'a>, Taken), Failed> {
    let settings = inner.settings();
    let ticket = match ticket {
        Some(ticket) => ticket,
        None => match deadline.run(inner.admission.enter()).await {
            Ok(Ok(ticket)) => ticket,
            Ok(Err(Refused::Full)) => return Err(CheckoutFailure::QueueFull.into()),
            Ok(Err(Refused::Closed)) => return Err(CheckoutFailure::Closed.into()),
            Err(_) => return Err(CheckoutFailure::Timeout(Phase::Queue).into()),
        },
    };
    let mut patience = None;
    loop {
        // Enabled before the look, so that a change between look and wait is not lost.
        let mut changed = pin!(inner.slots.changed());
        changed.as_mut().enable();
        if inner.is_closed() {
            return Err(CheckoutFailure::Closed.into());
        }
        if let Some(taken) = inner.store.take() {
            return Ok((ticket, taken));
        }
        let silent = inner.common.suspects.count();
        if silent > 0 {
            // They are being asked; one that answers is as good as a new one, and sooner there.
            let patience =
                *patience.get_or_insert_with(|| Deadline::after(Some(settings.patience)));
            if patience.instant().is_some_and(|moment| Instant::now() < moment) {
                let first = deadline.min(patience);
                if first.run(changed).await.is_err() && first == deadline {
                    return Err(CheckoutFailure::Timeout(Phase::Check).into());
                }
                continue;
            }
        }
        if let Some(slot) = inner.slots.try_take() {
            let taken = dial(inner, slot, deadline).await?;
            return Ok((ticket, taken));
        }
        // Every slot is taken by a connection that is being looked at or closed.
        if silent > 0 {
            inner.common.suspects.want_slot();
            inner.common.inbox.nudge();
        }
        if deadline.run(changed).await.is_err() {
            return Err(CheckoutFailure::Timeout(Phase::Connect).into());
        }
    }
}

async fn dial(inner: &Arc<Inner>, slot: Slot, deadline: Deadline) -> Result<Taken, Failed> {
    inner.maintain();
    let dialed = {
        let dial = pin!(inner.connector.connect_before(deadline));
        let closed = pin!(closed(inner));
        match select(dial, closed).await {
            Either::Left((dialed, _)) => dialed,
            Either::Right(_) => return Err(CheckoutFailure::Closed.into()),
        }
    };
    match dialed {
        Ok(stream) => {
            let mut stream = Box::new(stream);
            let core = Core::new(&inner.common, &mut stream, slot, inner.settings().max_lifetime);
            if inner.is_closed() {
                core.close(stream, CloseReason::PoolClosed, None);
                return Err(CheckoutFailure::Closed.into());
            }
            let taken = inner.store.adopt(&core, stream);
            // An idle connection may have been out of sight while it made room for this one, and
            // whoever looked for one in that moment has found none and waits.
            inner.slots.announce();
            Ok(taken)
        }
        Err(error) => {
            drop(slot);
            // One may have come back in the meantime.
            if let Some(taken) = inner.store.take() {
                return Ok(taken);
            }
            let late = deadline.instant().is_some_and(|moment| Instant::now() >= moment);
            let failure = match late {
                true => CheckoutFailure::Timeout(Phase::Connect),
                false => CheckoutFailure::Connect,
            };
            Err(Failed { failure, connect: Some(error) })
        }
    }
}

/// Resolves when the pool is closed.
async fn closed(inner: &Inner) {
    loop {
        let mut changed = pin!(inner.slots.changed());
        changed.as_mut().enable();
        if inner.is_closed() {
            return;
        }
        changed.await;
    }
}

/// One checkout that has to wait. Reports its end exactly once, also when its caller goes away.
struct Attempt<'a> {
    inner: &'a Arc<Inner>,
    began: Instant,
    limit: Option<Duration>,
    deadline: Deadline,
    over: bool,
}

impl<'a> Attempt<'a> {
    fn begin(inner: &'a Arc<Inner>) -> Self {
        let limit = inner.settings().timeouts.checkout;
        let deadline = Deadline::after(limit);
        Self { inner, began: Instant::now(), limit, deadline, over: false }
    }

    fn report(&self, failed: Failed, waited: Duration) -> CheckoutError {
        let emitter = self.inner.emitter();
        let outcome = match failed.failure {
            CheckoutFailure::Timeout(_) => CheckoutOutcome::Timeout,
            CheckoutFailure::QueueFull => CheckoutOutcome::QueueFull,
            CheckoutFailure::Connect => CheckoutOutcome::ConnectFailed,
            CheckoutFailure::Closed => CheckoutOutcome::Closed,
        };
        if let (CheckoutOutcome::Timeout, Some(after)) = (outcome, self.limit) {
            emitter.emit(Event::TimedOut { operation: Operation::Checkout, conn: None, after });
        }
        emitter.emit(Event::CheckoutFailed { outcome, waited });
        CheckoutError {
            failure: failed.failure,
            pool: emitter.name().into(),
            waited,
            status: self.inner.status(),
            connect: failed.connect.map(Arc::new),
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.over {
            let outcome = CheckoutOutcome::Cancelled;
            let waited = self.began.elapsed();
            self.inner.emitter().emit(Event::CheckoutFailed { outcome, waited });
        }
    }
}
