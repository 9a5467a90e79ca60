//! Checkout: an idle connection at once, or a place in the queue; all before one deadline.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::{CheckoutError, CheckoutFailure};
use crate::event::{Check, CheckVerdict, CloseReason, ConnId, Event};
use crate::liveness::Liveness;
use crate::net::PeerAddr;
use crate::pool::acquire::pending::PendingCheckout;
use crate::pool::acquire::ping::Proof;
use crate::pool::acquire::sharing::{Rule, SharePart};
use crate::pool::acquire::wait_queue::{Failed, Given, Waiter, Wants};
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, State};
use crate::pool::conn::lease::Lease;
use crate::pool::health::closing::{DeferredClose, MOST_CLOSED};
use crate::pool::health::quarantine::ProbeStart;
use crate::pool::inner::PoolInner;
use crate::pool::inner::has_runtime;
use crate::protocol::Conn;
use crate::sync::Arc;
use crate::telemetry::Span;

/// Until when a checkout may wait.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) enum Until {
    /// For `timeouts.checkout` from its first poll.
    Configured,
    /// Until this moment, however late it is polled.
    By(Deadline),
}

/// Takes a connection from the pool, before its time is over.
pub(in crate::pool) async fn checkout(
    inner: &Arc<PoolInner>,
    until: Until,
    taken_at: &'static Location<'static>,
) -> Result<Lease, CheckoutError> {
    // The usual case: one system call, the peek (`sys/peek.rs`); a second one, TCP_INFO, where the last
    // proof of life is too old (`PoolInner::silence`). No timer, no allocation, no clock but the one the
    // check needs.
    if Span::are_wanted() {
        // On the heap: this future is not made larger by what hardly any has.
        return Box::pin(checkout_in_span(inner, until, taken_at)).await;
    }
    match inner.at_once() {
        Some(mut lease) if !inner.prepares() => {
            lease.hand_out(inner, Duration::ZERO, taken_at);
            Ok(lease)
        }
        taken => checkout_waiting(inner, taken, until, Fitness::Any, taken_at, Span::none()).await,
    }
}

/// As [`checkout`], seen by a subscriber: what is found on the way is told in the span, and its length is
/// that of the checkout.
#[cold]
async fn checkout_in_span(
    inner: &Arc<PoolInner>,
    until: Until,
    taken_at: &'static Location<'static>,
) -> Result<Lease, CheckoutError> {
    let span = Span::of_checkout(inner.emitter().name());
    match span.in_scope(|| inner.at_once()) {
        Some(mut lease) if !inner.prepares() => {
            span.record_conn(lease.id(), lease.peer_addr());
            // In the caller's span, which is noted.
            lease.hand_out(inner, Duration::ZERO, taken_at);
            Ok(lease)
        }
        taken => checkout_waiting(inner, taken, until, Fitness::Any, taken_at, span).await,
    }
}

fn checkout_waiting(
    inner: &Arc<PoolInner>,
    taken: Option<Lease>,
    until: Until,
    fitness: Fitness,
    taken_at: &'static Location<'static>,
    span: Span,
) -> impl Future<Output = Result<Lease, CheckoutError>> {
    // Nobody is given a share who did not want one.
    let wanted = Wanted { wants: Wants::Lease, fitness, take: Given::into_lease };
    wait(inner, taken, until, wanted, taken_at, span)
}

/// Takes a share of a connection, before its time is over.
pub(in crate::pool) async fn share(
    inner: &Arc<PoolInner>,
    rule: Rule,
    until: Until,
    taken_at: &'static Location<'static>,
) -> Result<SharePart, CheckoutError> {
    if Span::are_wanted() {
        return Box::pin(share_in_span(inner, rule, until, taken_at)).await;
    }
    match inner.share_at_once(rule) {
        Some(Given::Share(mut part)) => {
            part.hand_out(inner, Duration::ZERO, taken_at);
            Ok(part)
        }
        other => {
            let taken = other.and_then(Given::into_lease);
            share_waiting(inner, rule, taken, until, taken_at, Span::none()).await
        }
    }
}

/// See [`checkout_in_span`].
#[cold]
async fn share_in_span(
    inner: &Arc<PoolInner>,
    rule: Rule,
    until: Until,
    taken_at: &'static Location<'static>,
) -> Result<SharePart, CheckoutError> {
    let span = Span::of_checkout(inner.emitter().name());
    match span.in_scope(|| inner.share_at_once(rule)) {
        Some(Given::Share(mut part)) => {
            span.record_conn(part.id(), part.peer_addr());
            part.hand_out(inner, Duration::ZERO, taken_at);
            Ok(part)
        }
        other => {
            let taken = other.and_then(Given::into_lease);
            share_waiting(inner, rule, taken, until, taken_at, span).await
        }
    }
}

fn share_waiting(
    inner: &Arc<PoolInner>,
    rule: Rule,
    taken: Option<Lease>,
    until: Until,
    taken_at: &'static Location<'static>,
    span: Span,
) -> impl Future<Output = Result<SharePart, CheckoutError>> {
    let take = move |given| match given {
        Given::Lease(lease) => inner.share(lease, rule),
        Given::Share(part) => Some(part),
    };
    let wanted = Wanted { wants: Wants::Share, fitness: Fitness::Any, take };
    wait(inner, taken, until, wanted, taken_at, span)
}

/// Demands on a connection beyond those that hold for all.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) enum Fitness {
    Any,
    /// It was made, or its peer heard, after this moment.
    ProvedSince(Instant),
    /// It was made after this moment.
    MadeSince(Instant),
}

/// As [`checkout`], for a connection of this fitness.
pub(in crate::pool) async fn checkout_fit(
    inner: &Arc<PoolInner>,
    until: Until,
    fitness: Fitness,
    taken_at: &'static Location<'static>,
) -> Result<Lease, CheckoutError> {
    let span = match Span::are_wanted() {
        true => Span::of_checkout(inner.emitter().name()),
        false => Span::none(),
    };
    let taken = span.in_scope(|| inner.at_once());
    checkout_waiting(inner, taken, until, fitness, taken_at, span).await
}

/// Takes an idle connection, if there is one and nobody waits for it.
pub(in crate::pool) fn try_checkout(
    inner: &Arc<PoolInner>,
    taken_at: &'static Location<'static>,
) -> Option<Lease> {
    // Whether it needs a ping cannot be found out without waiting.
    let mut lease = inner.at_once()?;
    if inner.hooks.before_checkout.is_some() {
        lease = inner.prepared_at_once(lease)?;
    }
    lease.hand_out(inner, Duration::ZERO, taken_at);
    Some(lease)
}

/// Gives a caller a connection that was got elsewhere.
pub(in crate::pool) fn hand_out(
    lease: &mut Lease,
    waited: Duration,
    taken_at: &'static Location<'static>,
) {
    let inner = Arc::clone(lease.inner());
    lease.hand_out(&inner, waited, taken_at);
}

/// What a caller who has to wait wants.
struct Wanted<F> {
    wants: Wants,
    fitness: Fitness,
    /// Makes it of what the caller is given; `None`, if that turns out to be no good.
    take: F,
}

/// Waits for it.
async fn wait<T, F>(
    inner: &Arc<PoolInner>,
    taken: Option<Lease>,
    until: Until,
    wanted: Wanted<F>,
    taken_at: &'static Location<'static>,
    span: Span,
) -> Result<T, CheckoutError>
where
    T: Obtained,
    F: Fn(Given) -> Option<T>,
{
    let mut attempt = PendingCheckout::begin(inner, until, taken_at);
    let result = if span.is_disabled() {
        obtain(inner, taken, &attempt, wanted).await
    } else {
        span.instrument(obtain(inner, taken, &attempt, wanted)).await
    };
    attempt.over = true;
    let waited = attempt.began.elapsed();
    match result {
        Ok(mut taken) => {
            span.record_conn(taken.conn_id(), taken.peer());
            taken.hand_out(inner, waited, taken_at);
            if attempt.wait_warning.is_some_and(|limit| waited >= limit) {
                let (conn, peer) = (taken.conn_id(), taken.peer().clone());
                inner.emitter().emit(Event::WaitedTooLong { conn, peer, waited, taken_at });
            }
            Ok(taken)
        }
        Err(failed) => Err(span.in_scope(|| attempt.report(failed, waited))),
    }
}

/// What a caller gets.
trait Obtained {
    fn conn_id(&self) -> ConnId;

    fn peer(&self) -> &PeerAddr;

    fn claim(&mut self, taken_at: &'static Location<'static>);

    /// The caller has it.
    fn hand_out(
        &mut self,
        inner: &Arc<PoolInner>,
        waited: Duration,
        taken_at: &'static Location<'static>,
    ) {
        // First, so that a caller who is told of as a holder has it.
        self.claim(taken_at);
        inner.maintain();
        inner.emitter().checked_out(self.conn_id(), waited);
    }
}

impl Obtained for Lease {
    fn conn_id(&self) -> ConnId {
        self.id()
    }

    fn peer(&self) -> &PeerAddr {
        self.peer_addr()
    }

    fn claim(&mut self, taken_at: &'static Location<'static>) {
        (**self).claim(taken_at);
    }
}

impl Obtained for SharePart {
    fn conn_id(&self) -> ConnId {
        self.id()
    }

    fn peer(&self) -> &PeerAddr {
        self.peer_addr()
    }

    fn claim(&mut self, taken_at: &'static Location<'static>) {
        self.claim_share(taken_at);
    }
}

async fn obtain<T, F>(
    inner: &Arc<PoolInner>,
    taken: Option<Lease>,
    attempt: &PendingCheckout<'_>,
    wanted: Wanted<F>,
) -> Result<T, Failed>
where
    F: Fn(Given) -> Option<T>,
{
    let Wanted { wants, fitness, take } = wanted;
    let mut given = match taken {
        Some(lease) => Given::Lease(lease),
        None => {
            // Neither timers nor dials would go.
            if !has_runtime() {
                return Err(CheckoutFailure::NoRuntime.into());
            }
            served(inner, join(inner, attempt, wants)?, attempt.deadline).await?
        }
    };
    loop {
        let taken = match given {
            Given::Share(part) => take(Given::Share(part)),
            Given::Lease(lease) => match fit(lease, fitness) {
                Some(lease) => match inner.proved(lease, attempt.deadline).await {
                    Proof::Given(lease) => take(Given::Lease(lease)),
                    Proof::Refused => None,
                    // One that was idle may be stale; a new one is as good as any.
                    Proof::RefusedByHook(refused) if !refused.is_new => None,
                    Proof::RefusedByHook(refused) => {
                        let hook = Some(refused.error);
                        return Err(Failed { hook, ..CheckoutFailure::Hook.into() });
                    }
                    Proof::Late => return Err(inner.late()),
                },
                None => None,
            },
        };
        if let Some(taken) = taken {
            return Ok(taken);
        }
        // Its place is the one it had.
        let (began, deadline) = (attempt.began, attempt.deadline.instant());
        let waiter = inner.wait_queue.rejoin(began, deadline, wants, attempt.taken_at);
        given = served(inner, waiter, attempt.deadline).await?;
    }
}

/// The connection, if it is still what the caller needs. Else it goes where it belongs.
fn fit(lease: Lease, fitness: Fitness) -> Option<Lease> {
    // The pool may have been invalidated while it was on its way.
    let lease = lease.unless_retired()?;
    let is_fit = match fitness {
        Fitness::Any => true,
        Fitness::ProvedSince(moment) => lease.is_proved_since(moment),
        Fitness::MadeSince(moment) => !lease.is_older_than(moment),
    };
    if is_fit { Some(lease) } else { lease.ask() }
}

/// Joins the queue.
fn join<'a>(
    inner: &'a Arc<PoolInner>,
    attempt: &PendingCheckout<'_>,
    wants: Wants,
) -> Result<Waiter<'a>, Failed> {
    if inner.is_closed() {
        return Err(CheckoutFailure::Closed.into());
    }
    if let Some(error) = inner.hopeless() {
        return Err(Failed { connect: Some(error), ..CheckoutFailure::Connect.into() });
    }
    // Those for whom a connection may be made do not count: they will not wait for others.
    let most = attempt.max_waiting.map(|most| most.saturating_add(inner.unclaimed()));
    let deadline = attempt.deadline.instant();
    inner
        .wait_queue
        .join(attempt.began, deadline, most, wants, attempt.taken_at)
        .ok_or_else(|| CheckoutFailure::QueueFull.into())
}

async fn served(
    inner: &Arc<PoolInner>,
    waiter: Waiter<'_>,
    deadline: Deadline,
) -> Result<Given, Failed> {
    // One may have come back between the look and the queue; else one has to be made.
    if inner.is_closed() || !inner.idle_set.is_empty() {
        inner.serve();
    }
    if waiter.wants() == Wants::Share {
        inner.serve_sharers();
    }
    // Without a free slot or a silent connection the dialer could do nothing: it is left asleep.
    if inner.slots.are_free() || inner.probing.count() > 0 {
        inner.slots.announce();
    }
    let result = match deadline.run(waiter.called(|| inner.maintain())).await {
        Ok(result) => result,
        Err(_) => Err(inner.late()),
    };
    result.map_err(|failed| Failed { has_waited: true, ..failed })
}

impl PoolInner {
    /// Takes a usable idle connection, if there is one. Never waits. Unusable connections on the
    /// way are closed: [`MOST_CLOSED`] of them here, since a caller waits for that, the others
    /// later.
    #[inline(always)]
    pub(in crate::pool) fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        let mut closed = 0;
        loop {
            // Taken out first: while it is judged, no other caller meets it.
            let entry = self.idle_set.take(self.live().order())?;
            if entry.is(State::Closed) {
                continue;
            }
            // The clock is read once; all limits are compared with this age.
            let now = entry.age();
            let Some((conn, has_fired)) = entry.claim() else { continue };
            let Some(reason) = self.unusable(&entry, &conn, has_fired, now) else {
                let Some(info) = self.silence(&entry, &conn, now) else {
                    conn.set_idle(false);
                    return Some(Lease::new(self, entry, conn, now));
                };
                // Its handle was dropped just now; it is listed again when it is heard.
                entry.unlist();
                self.quarantine(entry, conn, ProbeStart::Reading(info));
                continue;
            };
            let ending = DeferredClose::new(self, entry, conn, reason);
            closed += 1;
            if closed > MOST_CLOSED {
                self.close_later(ending);
            }
        }
    }

    /// Why an idle connection must not be handed out, if so.
    #[inline(always)]
    pub(in crate::pool) fn unusable(
        &self,
        entry: &Entry,
        conn: &Conn,
        has_fired: bool,
        now: Age,
    ) -> Option<CloseReason> {
        if let Some(reason) = self.unwanted(entry, now).or_else(|| entry.idle_too_long(now)) {
            return Some(reason);
        }
        // Last of these, since it costs a system call: what the limits end need not be peeked at.
        match conn.check(has_fired) {
            Liveness::Alive => {
                self.report_alive(entry);
                None
            }
            Liveness::Dead(reason) => {
                self.report_check(entry, Check::Peek, CheckVerdict::Dead, None);
                Some(reason)
            }
        }
    }

    #[inline(always)]
    pub(in crate::pool) fn at_once(self: &Arc<Self>) -> Option<Lease> {
        if !self.wait_queue.is_empty() {
            return None;
        }
        let lease = self.take_idle()?;
        // Only now that it is counted: whoever closes the pool either waits for it, or is seen here.
        // Dropped, it is closed.
        (!self.is_closed()).then_some(lease)
    }
}
