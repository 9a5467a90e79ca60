//! The dialer: new connections, made by tasks of their own.
//!
//! A caller does not dial: it waits in the queue for whatever comes first, a connection that is
//! returned or one that was made. A dial belongs to nobody, so that none is thrown away when its
//! caller goes. A single rule decides, whenever anything has changed: while more callers wait than
//! dials are under way, a slot is free, fewer than `max_connecting` are under way, and some peer
//! may be dialed, start a dial. `min_idle` is the same rule without callers. Where the last dials
//! failed, one at a time is made, and before the time of a waiting caller is over one more is
//! tried.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{FirstConnect, Settings};
use crate::deadline::Deadline;
use crate::net::ConnectError;
use crate::pool::conn::reset;
use crate::pool::dial::peers::{BRIEF_TRY_LIMIT, Demand, TRY_LIMIT};
use crate::pool::dial::slots::Slot;
use crate::pool::dial::task::{Dial, Try};
use crate::pool::inner::PoolInner;
use crate::report::{self, DialerReport, DialerWait};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A dial that has not ended after this long may be one that never does: it no longer counts for a
/// caller, so that another one may be made beside it. By now the kernel has repeated its SYN.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// A dial that failed, and when it began.
#[derive(Debug, Clone)]
pub(in crate::pool) struct FailedDial {
    pub(in crate::pool) began: Instant,
    pub(in crate::pool) error: Arc<ConnectError>,
}

impl FailedDial {
    /// Whether none later would be spared it. Another one has an answer for those who were there when it
    /// began: what it met may be over by now.
    pub(in crate::pool) fn is_final(&self) -> bool {
        !self.error.is_retryable()
    }
}

/// The dials of a pool: how many, and how the last one ended.
#[derive(Debug, Default)]
pub(in crate::pool) struct Dials {
    /// For callers, or to have enough idle ones.
    pub(super) under_way: AtomicUsize,
    /// To peers that were ejected.
    pub(super) trying: AtomicUsize,
    /// Tasks of all dials. Pushed and taken under this lock, nothing else.
    tasks: Mutex<Vec<DialTask>>,
    /// Of the last one that failed, unless one has succeeded since.
    failed: Mutex<Option<FailedDial>>,
    /// A dial of this pool has succeeded, ever.
    succeeded: AtomicBool,
    end: Notify,
}

/// The task of one dial.
#[derive(Debug)]
struct DialTask {
    handle: AbortHandle,
    began: Instant,
    /// The generation of the pool when the dial began.
    generation: u64,
    /// The dial is to an ejected peer, and is given up when a caller needs its place.
    is_patient: bool,
    /// The dial is to an ejected peer.
    is_try: bool,
}

impl Dials {
    pub(in crate::pool) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// Number of dials, those to ejected peers included.
    pub(in crate::pool) fn all_under_way(&self) -> usize {
        self.under_way() + self.trying()
    }

    fn trying(&self) -> usize {
        self.trying.load(Ordering::Acquire)
    }

    fn add(&self, task: DialTask) {
        let mut tasks = lock(&self.tasks);
        // Swept here, and not at each end: the list is as long as the last burst at most.
        tasks.retain(|task| !task.handle.is_finished());
        tasks.push(task);
    }

    /// How many may still end soon, and when there will be fewer.
    fn hopeful(&self, now: Instant) -> (usize, Option<Instant>) {
        let doubtful_at = |task: &DialTask| task.began + DOUBTFUL;
        let tasks = lock(&self.tasks);
        let under_way = tasks.iter().filter(|task| !task.is_try && !task.handle.is_finished());
        let hopeful = under_way.map(doubtful_at).filter(|at| now < *at);
        let (count, next) = hopeful.fold((0, None::<Instant>), |(count, next), at| {
            (count + 1, Some(next.map_or(at, |next| next.min(at))))
        });
        // A task that has counted itself out is not finished for another moment.
        (count.min(self.under_way()), next)
    }

    /// For how long each dial under way has been so, the longest first.
    fn report(&self, now: Instant) -> Vec<Duration> {
        let tasks = lock(&self.tasks);
        let under_way = tasks.iter().filter(|task| !task.handle.is_finished());
        // They were put in as they began.
        under_way.map(|task| now.saturating_duration_since(task.began)).take(report::MOST).collect()
    }

    /// Gives up a dial to an ejected peer, if it is `needed` and there is one. The end of that dial
    /// wakes the dialer.
    fn give_up_trying(&self, needed: bool) {
        if needed && self.trying() > 0 {
            self.give_up(|task| task.is_patient);
        }
    }

    /// Gives up those that began before this generation: what they make would be closed at once.
    pub(in crate::pool) fn give_up_older(&self, generation: u64) {
        self.give_up(|task| task.generation < generation);
    }

    fn give_up(&self, which: impl Fn(&DialTask) -> bool) {
        let given_up: Vec<_> = {
            let mut tasks = lock(&self.tasks);
            tasks.extract_if(.., |task| which(task)).collect()
        };
        for task in given_up {
            task.handle.abort();
        }
    }

    /// Why the last dial failed, unless one has succeeded since.
    pub(in crate::pool) fn last_error(&self) -> Option<Arc<ConnectError>> {
        lock(&self.failed).as_ref().map(|failed| Arc::clone(&failed.error))
    }

    /// The same, if it is an answer to whoever asks since this moment.
    pub(in crate::pool) fn last_error_since(&self, moment: Instant) -> Option<Arc<ConnectError>> {
        let failed = lock(&self.failed).clone()?;
        (moment <= failed.began || failed.is_final()).then_some(failed.error)
    }

    /// Resolves when a dial has ended, or something else that those who wait for one look at has
    /// changed, after it was enabled.
    pub(in crate::pool) fn news(&self) -> Notified<'_> {
        self.end.notified()
    }

    /// Has those who wait for a dial look again.
    pub(in crate::pool) fn announce(&self) {
        self.end.notify_waiters();
    }

    /// Whether this is how a dial fails that had better not be waited for: none later would be spared
    /// it, or none has ever succeeded and this one met what a wrong setting brings.
    pub(in crate::pool) fn is_vain(&self, error: &ConnectError, first: FirstConnect) -> bool {
        let is_first = first == FirstConnect::FailFast && !self.succeeded.load(Ordering::Acquire);
        !error.is_retryable() || (is_first && error.is_conclusive())
    }

    pub(super) fn ended(&self, failed: Option<FailedDial>) {
        if failed.is_none() {
            self.succeeded.store(true, Ordering::Release);
        }
        let last = std::mem::replace(&mut *lock(&self.failed), failed);
        // It may hold an error of a protocol, whose drop is foreign code: with no lock held.
        drop(last);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the pool is closed. The dials end with this task.
pub(in crate::pool) async fn run(pool: Arc<PoolInner>) {
    let mut tasks = JoinSet::new();
    let mut lookup = None;
    while !pool.is_closed() {
        // Results are nothing; a set that is never joined grows.
        while tasks.try_join_next().is_some() {}
        for lease in pool.resets.take() {
            tasks.spawn(reset::reset(lease));
        }
        for ping in pool.pings.take() {
            tasks.spawn(async move { drop(ping.await) });
        }
        let again = pool.look_names_up(&mut tasks, &mut lookup);
        let next = [pool.start_dials(&mut tasks), again].into_iter().flatten().min();
        let next = next.map_or(Deadline::NEVER, Deadline::at);
        pool.fail_hopeless();
        let _ = next.run(pool.slots.changed()).await;
    }
}

impl PoolInner {
    /// Follows the [rule](Self::decide). Returns when it has to be looked at again, should nothing change
    /// before.
    fn start_dials(self: &Arc<Self>, dials: &mut JoinSet<()>) -> Option<Instant> {
        let now = Instant::now();
        let mut next = self.try_ejected_again(now, dials);
        loop {
            let Decision { step, again, callers, spare, under_way } = self.decide(now);
            next = next.into_iter().chain(again).min();
            if spare == 0 {
                self.shares.has_enough();
            }
            match step {
                Step::Dial => {}
                Step::Busy => {
                    self.dials.give_up_trying(under_way < self.settings().max_connecting);
                    return next;
                }
                _ => return next,
            }
            // Last of all conditions, so that a slot is only taken for a dial that begins.
            let Some(slot) = self.slots.try_take() else {
                self.dials.give_up_trying(true);
                // Those that are being asked for a sign of life may have to make room.
                let most = self.settings().max_connecting;
                let wanted = callers.min(most).saturating_sub(under_way);
                if self.probing.count() > 0 && wanted > 0 {
                    self.probing.want_slots(wanted);
                    self.fired_queue.wake();
                }
                return next;
            };
            self.start_dial(slot, None, false, dials);
        }
    }

    /// The rule: whether a dial is to begin, and if not, for what it waits. Changes nothing.
    fn decide(&self, now: Instant) -> Decision {
        let settings = self.settings();
        let under_way = self.dials.under_way();
        let (hopeful, doubtful_at) = self.dials.hopeful(now);
        let Missing { callers, spare, later } = self.missing(&settings, now);
        let mut decision = Decision { step: Step::Dial, again: later, callers, spare, under_way };
        let mut sooner = |at: Option<Instant>| {
            decision.again = decision.again.into_iter().chain(at).min();
        };
        // For nobody it is not doubted: there is time.
        let for_callers = callers > hopeful;
        if !for_callers && callers + spare <= under_way {
            sooner(doubtful_at.filter(|_| callers > 0));
            decision.step = Step::Enough;
            return decision;
        }
        // Before the peers are asked: while this many are under way, no pause matters.
        if under_way + self.dials.trying() >= settings.max_connecting {
            decision.step = Step::Busy;
            return decision;
        }
        match self.peers.may_dial(now, self.demand(for_callers, now)) {
            Ok(at_a_time) if hopeful >= at_a_time => {
                sooner(doubtful_at);
                decision.step = Step::OneAtATime;
            }
            Ok(_) => {}
            Err(at) => {
                sooner(Some(at));
                decision.step = Step::Pause(at);
            }
        }
        decision
    }

    /// What the dialer does, for whoever asks: by the same rule.
    pub(in crate::pool) fn report_dialer(&self, now: Instant) -> DialerReport {
        let left = |at: Instant| Some(at.saturating_duration_since(now));
        let under_way = self.dials.report(now);
        // The longest one is the first to have no time left.
        let limit = self.settings().timeouts.connect.zip(under_way.first());
        let first_end = limit.map(|(limit, longest)| limit.saturating_sub(*longest));
        let Decision { step, again, .. } = self.decide(now);
        let (waits_for, left) = match step {
            _ if self.is_closed() => (DialerWait::Closed, None),
            _ if self.generation.is_paused() => (DialerWait::Resume, None),
            _ if !self.maintained.load(Ordering::Acquire) => (DialerWait::Runtime, None),
            Step::Enough if self.wait_queue.is_empty() || self.dials.under_way() > 0 => {
                (DialerWait::Demand, None)
            }
            // Somebody waits, and is not counted yet: those who are asked or reset may serve.
            Step::Enough => (DialerWait::Silent, again.and_then(left)),
            Step::Busy => (DialerWait::Dials, first_end),
            Step::OneAtATime => (DialerWait::OneDial, first_end),
            Step::Pause(at) => (DialerWait::Pause, left(at)),
            Step::Dial if !self.slots.are_free() => (DialerWait::Slot, None),
            Step::Dial => (DialerWait::Turn, None),
        };
        DialerReport { under_way, waits_for, left }
    }

    /// For whom a dial would be. Callers are nobody to an upstream that refuses for good: each dial
    /// with a wrong password brings an account nearer to its lock.
    fn demand(&self, for_callers: bool, now: Instant) -> Demand {
        let is_denied = || self.dials.last_error().is_some_and(|error| !error.is_retryable());
        // Who warms the pool up waits, too.
        match (for_callers || self.warm_up_targets.are_any()) && !is_denied() {
            true => Demand::Callers(self.wait_queue.first_deadline(now)),
            false => Demand::Nobody,
        }
    }

    /// How long a caller waits for silent connections: not less than their answers need.
    pub(in crate::pool) fn patience(&self) -> Duration {
        self.settings().patience.max(self.probing.round_trip())
    }

    /// How many connections are missing.
    fn missing(&self, settings: &Settings, now: Instant) -> Missing {
        if self.generation.is_paused() {
            return Missing::default();
        }
        let sharers = self.wait_queue.sharing();
        let alone = self.wait_queue.waiting().saturating_sub(sharers);
        let waiting = alone + self.shares.needed_by(sharers, settings.max_shares);
        let silent = self.probing.count();
        let soon = silent + self.resets.count();
        let patience = self.patience();
        let (callers, later) = match now.checked_sub(patience).filter(|_| soon > 0) {
            // They are being asked, or reset; those that become fit are as good as new ones, and
            // sooner there.
            Some(long_ago) => {
                let (long, next) = self.wait_queue.since(long_ago);
                // Those that are asked since may still serve whoever has waited for something else before.
                let (fresh, first) = self.probing.asked_after(long_ago, long);
                let next = [next, first].into_iter().flatten().min();
                (
                    long.min(waiting).saturating_sub(fresh).max(waiting.saturating_sub(soon)),
                    next.map(|since| since + patience),
                )
            }
            None => (waiting, None),
        };
        let least = self.least_idle(settings).max(usize::from(self.shares.is_crowded()));
        // These are likely to come back: they are not made twice.
        let there = || self.registry.idle_count() + soon;
        let spare = if least == 0 { 0 } else { least.saturating_sub(there()) };
        Missing { callers, spare, later }
    }

    /// Starts a dial to an ejected peer, when the peer's pause is over. Callers come first; but
    /// where some always wait, it has its turn when it is overdue.
    fn try_ejected_again(
        self: &Arc<Self>,
        now: Instant,
        dials: &mut JoinSet<()>,
    ) -> Option<Instant> {
        let due = self.peers.next_try()?;
        if due > now {
            return Some(due);
        }
        // One at a time: an ejected peer is no hurry, and each try holds a slot.
        if self.dials.trying() > 0 || self.generation.is_paused() {
            return None;
        }
        let busy = self.dials.under_way() > 0 || !self.wait_queue.is_empty();
        let overdue = due + self.settings().backoff.most;
        if busy && now < overdue {
            return Some(overdue);
        }
        // Whoever frees one wakes the dialer.
        let slot = self.slots.try_take()?;
        let peer = self.peers.try_again(now)?;
        let limit = if busy { BRIEF_TRY_LIMIT } else { TRY_LIMIT };
        // Those who wait already are not to end it, or it would never be made.
        self.start_dial(slot, Some(Try { peer, limit }), !busy, dials);
        self.peers.next_try()
    }

    fn start_dial(
        self: &Arc<Self>,
        slot: Slot,
        only: Option<Try>,
        is_patient: bool,
        tasks: &mut JoinSet<()>,
    ) {
        let (began, is_try) = (Instant::now(), only.is_some());
        // Before the task runs: an invalidation from now on makes the dial stale.
        let generation = self.generation.now();
        let dial = Dial::new(self, slot, only, generation, began);
        let handle = tasks.spawn(dial.run());
        self.dials.add(DialTask { handle, began, generation, is_patient, is_try });
        // The pool may have been invalidated between the look and the list.
        self.dials.give_up_older(self.generation.now());
    }
}

/// What the rule says now.
struct Decision {
    step: Step,
    /// When it has to be looked at again, should nothing change before.
    again: Option<Instant>,
    /// Connections that are missing.
    callers: usize,
    spare: usize,
    under_way: usize,
}

enum Step {
    /// A dial is to begin, if there is a slot.
    Dial,
    /// As many are under way as are wanted.
    Enough,
    /// As many are under way as may be.
    Busy,
    /// The last ones failed, and one is under way that finds out.
    OneAtATime,
    /// No peer may be dialed before this moment.
    Pause(Instant),
}

/// How many connections are missing: for callers whom no silent connection may still serve, and to
/// have enough idle ones. And when there will be more.
#[derive(Debug, Default)]
struct Missing {
    callers: usize,
    spare: usize,
    later: Option<Instant>,
}
