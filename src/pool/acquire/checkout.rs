//! Checkout: an idle connection at once, or a place in the queue; all before one deadline.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::{CheckoutDetails, CheckoutError, CheckoutFailure, Phase};
use crate::event::{Check, CheckVerdict, CheckoutOutcome, CloseReason, ConnId, Event, Operation};
use crate::liveness::Liveness;
use crate::net::{ConnectError, PeerAddr};
use crate::pool::acquire::ping::Proof;
use crate::pool::acquire::sharing::{Rule, SharePart};
use crate::pool::acquire::wait_queue::{Failed, Given, Waiter, Wants};
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, State};
use crate::pool::conn::lease::Lease;
use crate::pool::dial::peers::Demand;
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
    /// For this long from its first poll; `None`: for ever.
    For(Option<Duration>),
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
    match inner.at_once() {
        Some(mut lease) if !inner.pings() => {
            lease.hand_out(inner, Duration::ZERO, taken_at);
            Ok(lease)
        }
        taken => checkout_waiting(inner, taken, until, Fitness::Any, taken_at).await,
    }
}

fn checkout_waiting(
    inner: &Arc<PoolInner>,
    taken: Option<Lease>,
    until: Until,
    fitness: Fitness,
    taken_at: &'static Location<'static>,
) -> impl Future<Output = Result<Lease, CheckoutError>> {
    let take = |given| match given {
        Given::Lease(lease) => Some(lease),
        // Which nobody is given who did not want it.
        Given::Share(_) => None,
    };
    wait(inner, taken, until, Wanted { wants: Wants::Lease, fitness, take }, taken_at)
}

/// Takes a share of a connection, before its time is over.
pub(in crate::pool) async fn share(
    inner: &Arc<PoolInner>,
    rule: Rule,
    until: Until,
    taken_at: &'static Location<'static>,
) -> Result<SharePart, CheckoutError> {
    let taken = match inner.share_at_once(rule) {
        Some(Given::Share(mut part)) => {
            part.hand_out(inner, Duration::ZERO, taken_at);
            return Ok(part);
        }
        Some(Given::Lease(lease)) => Some(lease),
        None => None,
    };
    let take = |given| match given {
        Given::Lease(lease) => inner.share(lease, rule),
        Given::Share(part) => Some(part),
    };
    let wanted = Wanted { wants: Wants::Share, fitness: Fitness::Any, take };
    wait(inner, taken, until, wanted, taken_at).await
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
    checkout_waiting(inner, inner.at_once(), until, fitness, taken_at).await
}

/// Takes an idle connection, if there is one and nobody waits for it.
pub(in crate::pool) fn try_checkout(
    inner: &Arc<PoolInner>,
    taken_at: &'static Location<'static>,
) -> Option<Lease> {
    // Whether it needs a ping cannot be found out without waiting.
    let mut lease = inner.at_once()?;
    lease.hand_out(inner, Duration::ZERO, taken_at);
    Some(lease)
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
) -> Result<T, CheckoutError>
where
    T: Obtained,
    F: Fn(Given) -> Option<T>,
{
    // A span per checkout would cost an allocation in the usual case: only those that wait have
    // one.
    let span = Span::of_checkout(inner.emitter().name());
    let mut attempt = PendingCheckout::begin(inner, until);
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
            Ok(taken)
        }
        Err(failed) => Err(attempt.report(failed, waited)),
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
                    Proof::Late => return Err(inner.late()),
                },
                None => None,
            },
        };
        if let Some(taken) = taken {
            return Ok(taken);
        }
        // Its place is the one it had.
        let waiter = inner.wait_queue.rejoin(attempt.began, attempt.deadline.instant(), wants);
        given = served(inner, waiter, attempt.deadline).await?;
    }
}

/// The connection, if it is still what the caller needs. Else it goes where it belongs.
fn fit(mut lease: Lease, fitness: Fitness) -> Option<Lease> {
    // The pool may have been invalidated while it was on its way.
    if let Some(reason) = lease.retired() {
        lease.throw_away(reason);
        return None;
    }
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
    let most = inner.settings().max_waiting.map(|most| most.saturating_add(inner.unclaimed()));
    let deadline = attempt.deadline.instant();
    inner
        .wait_queue
        .join(attempt.began, deadline, most, wants)
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
            let entry = self.idle_set.take()?;
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
    fn unusable(
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

    /// Connections that nobody holds, made or not.
    fn unclaimed(&self) -> usize {
        self.slots.limit().saturating_sub(self.guards())
    }

    /// Why nobody can be served before somebody changes something, if so: the last dial failed in a
    /// way that repeating does not cure, the next one is not due, and nobody has a connection to
    /// return.
    fn hopeless(&self) -> Option<Arc<ConnectError>> {
        let error = self.dials.last_error().filter(|error| !error.is_retryable())?;
        let soon = self.guards() > 0 || self.peers.may_dial(Instant::now(), Demand::Nobody).is_ok();
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
            holders: self.longest_holders(),
        })
    }

    /// The failure of a caller whose deadline has passed: for what it was waiting.
    fn late(&self) -> Failed {
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
struct PendingCheckout<'a> {
    inner: &'a Arc<PoolInner>,
    began: Instant,
    limit: Option<Duration>,
    deadline: Deadline,
    over: bool,
}

impl<'a> PendingCheckout<'a> {
    fn begin(inner: &'a Arc<PoolInner>, until: Until) -> Self {
        let began = Instant::now();
        let (deadline, limit) = match until {
            Until::For(limit) => (Deadline::within(began, limit), limit),
            Until::By(deadline) => {
                (deadline, deadline.instant().map(|at| at.saturating_duration_since(began)))
            }
        };
        Self { inner, began, limit, deadline, over: false }
    }

    fn report(&self, failed: Failed, waited: Duration) -> CheckoutError {
        let emitter = self.inner.emitter();
        let outcome = match failed.failure {
            CheckoutFailure::Timeout(_) => CheckoutOutcome::Timeout,
            CheckoutFailure::QueueFull => CheckoutOutcome::QueueFull,
            CheckoutFailure::Connect | CheckoutFailure::NoRuntime => CheckoutOutcome::ConnectFailed,
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
