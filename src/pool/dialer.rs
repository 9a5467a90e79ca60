//! The dialer: new connections, made by tasks of their own.
//!
//! A caller does not dial: it waits in line for whatever comes first, a connection that is returned
//! or one that was made. A dial belongs to nobody, so that none is thrown away when its caller goes.
//! One rule decides, whenever anything has changed: while more callers wait than dials are under
//! way, a slot is free, fewer than `max_connecting` are under way, and some peer may be dialed,
//! start a dial. `min_idle` is the same rule without callers.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::common::Common;
use super::core::Core;
use super::lease::Lease;
use super::peers::{BRIEF_TRY_LIMIT, TRY_LIMIT};
use super::slots::{Slot, Slots};
use super::speech::Spoke;
use super::store::Taken;
use super::{Inner, reset};
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::net::{self, ConnectError, Directory, PeerAddr};
use crate::stream::{Conn, Connector, Handshake, Route};

/// What is known of the dials of a pool.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// For callers, or to have enough idle ones.
    under_way: AtomicUsize,
    /// To peers that were ejected.
    trying: AtomicUsize,
    /// One of those that may be given up when a caller needs its place.
    patient: Mutex<Option<AbortHandle>>,
    /// Of the last one that failed, unless one has succeeded since.
    error: Mutex<Option<Arc<ConnectError>>>,
    end: Notify,
}

impl Dials {
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// Those to peers that were ejected included.
    pub(super) fn all_under_way(&self) -> usize {
        self.under_way() + self.trying()
    }

    fn trying(&self) -> usize {
        self.trying.load(Ordering::Acquire)
    }

    fn note_try(&self, task: Option<AbortHandle>) {
        let last = {
            let mut patient = self.patient.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *patient, task)
        };
        drop(last);
    }

    /// Gives up a dial to an ejected peer, if it is `needed` and there is one. Its end wakes the
    /// dialer.
    fn give_up_trying(&self, needed: bool) {
        if needed && self.trying() > 0 {
            let task = self.patient.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task.abort();
            }
        }
    }

    /// Why the last dial failed, unless one has succeeded since.
    pub(super) fn last_error(&self) -> Option<Arc<ConnectError>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when a dial has ended, after it was enabled.
    pub(super) fn ends(&self) -> Notified<'_> {
        self.end.notified()
    }

    fn ended(&self, error: Option<Arc<ConnectError>>) {
        let last = {
            let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, error)
        };
        // A protocol's own error may be in it: it goes with no lock held.
        drop(last);
    }
}

/// Runs until the pool is closed or gone. Its dials end with it.
pub(super) async fn run(pool: Weak<Inner>, slots: Arc<Slots>) {
    let mut dials = JoinSet::new();
    let mut lookup = None;
    loop {
        let next = {
            let Some(inner) = pool.upgrade() else { return };
            if inner.is_closed() {
                return;
            }
            while dials.try_join_next().is_some() {}
            for lease in inner.resets.take() {
                dials.spawn(reset::reset(lease));
            }
            let again = inner.look_names_up(&mut dials, &mut lookup);
            [inner.start_dials(&mut dials), again].into_iter().flatten().min()
        };
        let next = next.map_or(Deadline::NEVER, Deadline::at);
        let _ = next.run(slots.changed()).await;
    }
}

impl Inner {
    /// The rule. Returns when it has to be looked at again, should nothing change before.
    fn start_dials(self: &Arc<Self>, dials: &mut JoinSet<()>) -> Option<Instant> {
        let now = Instant::now();
        let mut next = self.try_ejected_again(now, dials);
        let mut sooner = |at: Option<Instant>| next = next.into_iter().chain(at).min();
        loop {
            let under_way = self.dials.under_way();
            let Demand { callers, spare, later } = self.demand(now);
            sooner(later);
            if callers + spare <= under_way {
                return next;
            }
            let most = self.settings().max_connecting;
            if under_way + self.dials.trying() >= most {
                self.dials.give_up_trying(under_way < most);
                return next;
            }
            if let Err(at) = self.common.peers.may_dial(now) {
                sooner(Some(at));
                return next;
            }
            let Some(slot) = self.slots.try_take() else {
                self.dials.give_up_trying(true);
                // Those that are being asked for a sign of life may have to make room.
                let wanted = callers.min(most).saturating_sub(under_way);
                if self.common.suspects.count() > 0 && wanted > 0 {
                    self.common.suspects.want_slots(wanted);
                    self.common.inbox.nudge();
                }
                return next;
            };
            dials.spawn(self.begin_dial(slot, None).run());
        }
    }

    /// How many connections are missing.
    fn demand(&self, now: Instant) -> Demand {
        if self.common.is_paused() {
            return Demand::default();
        }
        let (waiting, silent) = (self.line.waiting(), self.common.suspects.count());
        let soon = silent + self.resets.count();
        let (callers, later) = match now.checked_sub(self.patience()).filter(|_| soon > 0) {
            // They are being asked, or reset; those that become fit are as good as new ones, and
            // sooner there.
            Some(long_ago) => {
                let (long, next) = self.line.since(long_ago);
                (long.max(waiting.saturating_sub(soon)), next.map(|since| since + self.patience()))
            }
            None => (waiting, None),
        };
        let least = self.least_idle();
        if least == 0 {
            return Demand { callers, spare: 0, later };
        }
        // These are likely to come back: they are not made twice.
        let spare = least.saturating_sub(self.common.registry.idle_count() + soon);
        match self.common.peers.may_stock(now) {
            Ok(()) => Demand { callers, spare, later },
            Err(at) => Demand { callers, spare: 0, later: later.into_iter().chain([at]).min() },
        }
    }

    /// How long a caller waits for silent connections: not less than their answers need.
    fn patience(&self) -> Duration {
        self.settings().patience.max(self.common.suspects.round_trip())
    }

    /// One dial to a peer that was ejected, when its pause is over. Callers come first; but where
    /// some always wait, it has its turn when it is overdue.
    fn try_ejected_again(
        self: &Arc<Self>,
        now: Instant,
        dials: &mut JoinSet<()>,
    ) -> Option<Instant> {
        let due = self.common.peers.next_try()?;
        if due > now {
            return Some(due);
        }
        if self.dials.trying() > 0 || self.common.is_paused() {
            return None;
        }
        let busy = self.dials.under_way() > 0 || !self.line.is_empty();
        let overdue = due + self.settings().backoff.most;
        if busy && now < overdue {
            return Some(overdue);
        }
        // Whoever frees one wakes the dialer.
        let slot = self.slots.try_take()?;
        let peer = self.common.peers.try_again(now)?;
        let limit = if busy { BRIEF_TRY_LIMIT } else { TRY_LIMIT };
        let dial = self.begin_dial(slot, Some(Try { peer, limit }));
        let task = dials.spawn(dial.run());
        // Those who wait already are not to end it, or it would never be made.
        self.dials.note_try((!busy).then_some(task));
        self.common.peers.next_try()
    }

    fn begin_dial(self: &Arc<Self>, slot: Slot, only: Option<Try>) -> Dial {
        let (dials, slots) = (Arc::clone(&self.dials), Arc::clone(&self.slots));
        Dial {
            pool: Arc::downgrade(self),
            connector: self.connector.clone(),
            common: Arc::clone(&self.common),
            speech: self.speech.clone(),
            slot: Some(slot),
            under_way: UnderWay::begin(dials, slots, only.is_some()),
            only,
            generation: self.common.generation.now(),
            over: false,
        }
    }

    /// Looks names up while nothing is dialed, so that an address that left its name is noticed.
    fn look_names_up(&self, dials: &mut JoinSet<()>, last: &mut Option<Lookup>) -> Option<Instant> {
        let every = self.settings().dns_refresh?;
        let now = Instant::now();
        let last = last.get_or_insert(Lookup { began: now, task: None });
        let due = last.began + every;
        if now < due {
            return Some(due);
        }
        last.began = now;
        if last.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Some(now + every);
        }
        let (connector, common) = (self.connector.clone(), Arc::clone(&self.common));
        let task = dials.spawn(async move {
            let limit = Deadline::after(connector.settings().timeouts.connect);
            for (index, endpoint) in connector.settings().endpoints.iter().enumerate() {
                // A name server that does not answer changes nothing.
                if net::known(endpoint).is_none()
                    && let Ok(Ok(addrs)) = limit.run(connector.resolver().resolve(endpoint)).await
                {
                    common.peers.resolved(index, &addrs);
                    common.inbox.nudge();
                }
            }
        });
        last.task = Some(task);
        Some(now + every)
    }
}

/// The last time names were looked up for nobody's dial.
struct Lookup {
    began: Instant,
    task: Option<AbortHandle>,
}

/// How many connections are missing: for callers whom no silent connection may still serve, and to
/// have enough idle ones. And when there will be more.
#[derive(Debug, Default)]
struct Demand {
    callers: usize,
    spare: usize,
    later: Option<Instant>,
}

/// A dial to a peer that was ejected.
struct Try {
    peer: PeerAddr,
    limit: Duration,
}

/// One dial. It holds no pool while it runs.
struct Dial {
    pool: Weak<Inner>,
    connector: Connector,
    common: Arc<Common>,
    speech: Spoke,
    only: Option<Try>,
    /// Of the pool, when the dial began.
    generation: u64,
    over: bool,
    slot: Option<Slot>,
    under_way: UnderWay,
}

impl Dial {
    async fn run(mut self) {
        let mut limit = self.connector.settings().timeouts.connect;
        if let Some(only) = &self.only {
            limit = Some(limit.map_or(only.limit, |limit| limit.min(only.limit)));
        }
        let only = self.only.as_ref().map(|only| &only.peer);
        let handshake = self.speech.as_deref().map(|speech| speech as &dyn Handshake);
        let route = Route { directory: &self.common.peers, only, handshake, limit };
        let dialed = self.connector.connect_by(route).await;
        self.over = true;
        let Some(slot) = self.slot.take() else { return };
        match dialed {
            Ok(conn) => self.connected(conn, slot),
            Err(error) => self.failed(error, slot),
        }
    }

    fn connected(&self, mut conn: Conn, slot: Slot) {
        self.under_way.dials.ended(None);
        let core = Core::new(&self.common, &mut conn, slot, self.generation);
        let Some(pool) = self.pool.upgrade().filter(|pool| !pool.is_closed()) else {
            return core.close(conn, CloseReason::PoolClosed, None);
        };
        // The pool was invalidated meanwhile: it may lead to where nobody wants to go.
        if let Some(reason) = core.retired() {
            return core.close(conn, reason, None);
        }
        let since = core.age();
        let taken = Taken { core, conn, since };
        // No longer counted only when its caller is not, or one too many would be made.
        // Not looked at before: some protocols begin with the server's word.
        pool.hand_over(Lease::new(&pool, taken));
    }

    fn failed(&self, error: ConnectError, slot: Slot) {
        drop(slot);
        // A peer that is not back yet is no news to anybody.
        if self.only.is_some() {
            return;
        }
        if error.attempts().iter().all(|attempt| attempt.is_lookup()) {
            self.common.peers.lost_its_way();
        }
        let error = Arc::new(error);
        self.under_way.dials.ended(Some(Arc::clone(&error)));
        if let Some(pool) = self.pool.upgrade().filter(|_| !error.is_retryable()) {
            pool.fail_waiters(&error);
        }
    }
}

impl Drop for Dial {
    /// It was given up: with its runtime, for callers, or by a panic in foreign code.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(only) = &self.only {
            self.common.peers.given_up(&only.peer);
        }
        if std::thread::panicking() {
            self.common.peers.lost_its_way();
        }
    }
}

/// Counts a dial that is under way, and has the dialer look again when it no longer is.
struct UnderWay {
    dials: Arc<Dials>,
    slots: Arc<Slots>,
    trying: bool,
}

impl UnderWay {
    fn begin(dials: Arc<Dials>, slots: Arc<Slots>, trying: bool) -> Self {
        let under_way = Self { dials, slots, trying };
        under_way.counter().fetch_add(1, Ordering::AcqRel);
        under_way
    }

    fn counter(&self) -> &AtomicUsize {
        if self.trying { &self.dials.trying } else { &self.dials.under_way }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::AcqRel);
        self.dials.end.notify_waiters();
        self.slots.announce();
    }
}
