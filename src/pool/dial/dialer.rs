//! The dialer: new connections, made by tasks of their own.
//!
//! A caller does not dial: it waits in line for whatever comes first, a connection that is returned
//! or one that was made. A dial belongs to nobody, so that none is thrown away when its caller goes.
//! One rule decides, whenever anything has changed: while more callers wait than dials are under
//! way, a slot is free, fewer than `max_connecting` are under way, and some peer may be dialed,
//! start a dial. `min_idle` is the same rule without callers. Where the last dials failed, one at a
//! time is made, and before the time of a waiting caller is over one more is tried.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::FirstConnect;
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::net::{self, ConnectError, Directory, PeerAddr};
use crate::pool::PoolInner;
use crate::pool::acquire::idle_set::Taken;
use crate::pool::common::Common;
use crate::pool::conn::entry::Entry;
use crate::pool::conn::erased::PoolProtocol;
use crate::pool::conn::lease::Lease;
use crate::pool::conn::reset;
use crate::pool::dial::peers::{BRIEF_TRY_LIMIT, Demand, TRY_LIMIT};
use crate::pool::dial::slots::{Slot, Slots};
use crate::stream::{Conn, Connector, Handshake, Route};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A dial that has not ended after this long may be one that never does: it no longer counts for a
/// caller, so that another one may be made beside it. By now the kernel has repeated its SYN.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// What is known of the dials of a pool.
#[derive(Debug, Default)]
pub(in crate::pool) struct Dials {
    /// For callers, or to have enough idle ones.
    under_way: AtomicUsize,
    /// To peers that were ejected.
    trying: AtomicUsize,
    /// All of them. Pushed and taken under this lock, nothing else.
    tasks: Mutex<Vec<DialTask>>,
    /// Of the last one that failed, unless one has succeeded since.
    error: Mutex<Option<Arc<ConnectError>>>,
    /// One has succeeded, ever.
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
    /// It is to a peer that was ejected, and is given up when a caller needs its place.
    is_patient: bool,
    /// It is to a peer that was ejected.
    is_try: bool,
}

impl Dials {
    pub(in crate::pool) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    /// Those to peers that were ejected included.
    pub(in crate::pool) fn all_under_way(&self) -> usize {
        self.under_way() + self.trying()
    }

    fn trying(&self) -> usize {
        self.trying.load(Ordering::Acquire)
    }

    fn add(&self, task: DialTask) {
        let mut tasks = lock(&self.tasks);
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
        (count.min(self.under_way()), next)
    }

    /// Gives up a dial to an ejected peer, if it is `needed` and there is one. Its end wakes the
    /// dialer.
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
        lock(&self.error).clone()
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

    fn ended(&self, error: Option<Arc<ConnectError>>) {
        if error.is_none() {
            self.succeeded.store(true, Ordering::Release);
        }
        let last = std::mem::replace(&mut *lock(&self.error), error);
        // It may hold an error of a protocol, whose drop is foreign code: with no lock held.
        drop(last);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the pool is closed or gone. Its dials end with it.
pub(in crate::pool) async fn run(pool: Weak<PoolInner>, slots: Arc<Slots>) {
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
            for ping in inner.pings.take() {
                dials.spawn(async move { drop(ping.await) });
            }
            let again = inner.look_names_up(&mut dials, &mut lookup);
            [inner.start_dials(&mut dials), again].into_iter().flatten().min()
        };
        let next = next.map_or(Deadline::NEVER, Deadline::at);
        let _ = next.run(slots.changed()).await;
    }
}

impl PoolInner {
    /// The rule. Returns when it has to be looked at again, should nothing change before.
    fn start_dials(self: &Arc<Self>, dials: &mut JoinSet<()>) -> Option<Instant> {
        let now = Instant::now();
        let mut next = self.try_ejected_again(now, dials);
        let mut sooner = |at: Option<Instant>| next = next.into_iter().chain(at).min();
        loop {
            let under_way = self.dials.under_way();
            let (hopeful, doubtful_at) = self.dials.hopeful(now);
            let Missing { callers, spare, later } = self.missing(now);
            sooner(later);
            // For nobody it is not doubted: there is time.
            let for_callers = callers > hopeful;
            if !for_callers && callers + spare <= under_way {
                sooner(doubtful_at.filter(|_| callers > 0));
                return next;
            }
            let most = self.settings().max_connecting;
            if under_way + self.dials.trying() >= most {
                self.dials.give_up_trying(under_way < most);
                return next;
            }
            let at_a_time = match self.common.peers.may_dial(now, self.demand(for_callers, now)) {
                Ok(at_a_time) => at_a_time,
                Err(at) => {
                    sooner(Some(at));
                    return next;
                }
            };
            if hopeful >= at_a_time {
                sooner(doubtful_at);
                return next;
            }
            let Some(slot) = self.slots.try_take() else {
                self.dials.give_up_trying(true);
                // Those that are being asked for a sign of life may have to make room.
                let wanted = callers.min(most).saturating_sub(under_way);
                if self.common.suspects.count() > 0 && wanted > 0 {
                    self.common.suspects.want_slots(wanted);
                    self.common.fired_queue.wake();
                }
                return next;
            };
            self.start_dial(slot, None, false, dials);
        }
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

    /// How many connections are missing.
    fn missing(&self, now: Instant) -> Missing {
        if self.common.is_paused() {
            return Missing::default();
        }
        let (waiting, silent) = (self.wait_queue.waiting(), self.common.suspects.count());
        let soon = silent + self.resets.count();
        let (callers, later) = match now.checked_sub(self.patience()).filter(|_| soon > 0) {
            // They are being asked, or reset; those that become fit are as good as new ones, and
            // sooner there.
            Some(long_ago) => {
                let (long, next) = self.wait_queue.since(long_ago);
                (long.max(waiting.saturating_sub(soon)), next.map(|since| since + self.patience()))
            }
            None => (waiting, None),
        };
        let least = self.least_idle();
        if least == 0 {
            return Missing { callers, spare: 0, later };
        }
        // These are likely to come back: they are not made twice.
        let spare = least.saturating_sub(self.common.registry.idle_count() + soon);
        Missing { callers, spare, later }
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
        let busy = self.dials.under_way() > 0 || !self.wait_queue.is_empty();
        let overdue = due + self.settings().backoff.most;
        if busy && now < overdue {
            return Some(overdue);
        }
        // Whoever frees one wakes the dialer.
        let slot = self.slots.try_take()?;
        let peer = self.common.peers.try_again(now)?;
        let limit = if busy { BRIEF_TRY_LIMIT } else { TRY_LIMIT };
        // Those who wait already are not to end it, or it would never be made.
        self.start_dial(slot, Some(Try { peer, limit }), !busy, dials);
        self.common.peers.next_try()
    }

    fn start_dial(
        self: &Arc<Self>,
        slot: Slot,
        only: Option<Try>,
        is_patient: bool,
        tasks: &mut JoinSet<()>,
    ) {
        let (dials, slots) = (Arc::clone(&self.dials), Arc::clone(&self.slots));
        let (began, is_try) = (Instant::now(), only.is_some());
        let generation = self.common.generation.now();
        let dial = Dial {
            pool: Arc::downgrade(self),
            connector: self.connector.clone(),
            common: Arc::clone(&self.common),
            protocol: self.protocol.clone(),
            slot: Some(slot),
            under_way: UnderWay::begin(dials, slots, is_try),
            only,
            generation,
            began,
            over: false,
        };
        let handle = tasks.spawn(dial.run());
        self.dials.add(DialTask { handle, began, generation, is_patient, is_try });
        // The pool may have been invalidated between the look and the list.
        self.dials.give_up_older(self.common.generation.now());
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
            let endpoints = connector.settings().endpoints.iter().enumerate();
            let names = endpoints.filter(|(_, endpoint)| net::known(endpoint).is_none());
            // All at once: one whose server does not answer keeps no other from being looked up.
            let lookups = names.map(|(index, endpoint)| {
                let (connector, common) = (&connector, &common);
                let limit = Deadline::after(connector.settings().timeouts.connect);
                async move {
                    // A name server that does not answer changes nothing.
                    let resolved = limit.run(connector.resolver().resolve(endpoint)).await;
                    if let Ok(Ok(addrs)) = resolved {
                        common.peers.resolved(index, &addrs);
                        common.fired_queue.wake();
                    }
                }
            });
            join_all(lookups).await;
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
struct Missing {
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
    pool: Weak<PoolInner>,
    connector: Connector,
    common: Arc<Common>,
    protocol: PoolProtocol,
    only: Option<Try>,
    /// The generation of the pool when the dial began: what it makes is stale once the pool has moved
    /// on.
    generation: u64,
    began: Instant,
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
        let handshake = self.protocol.as_deref().map(|protocol| protocol as &dyn Handshake);
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
        let entry = Entry::new(&self.common, &mut conn, slot, self.generation);
        let Some(pool) = self.pool.upgrade().filter(|pool| !pool.is_closed()) else {
            return entry.close(conn, CloseReason::PoolClosed, None);
        };
        // The pool was invalidated meanwhile: it may lead to where nobody wants to go.
        if let Some(reason) = entry.retired() {
            return entry.close(conn, reason, None);
        }
        let since = entry.age();
        let taken = Taken { entry, conn, since };
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
            self.common.peers.lost_its_way(self.began);
        }
        let error = Arc::new(error);
        self.under_way.dials.ended(Some(Arc::clone(&error)));
        let first = self.connector.settings().first_connect;
        let is_vain = self.under_way.dials.is_vain(&error, first);
        if let Some(pool) = self.pool.upgrade().filter(|_| is_vain) {
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
            self.common.peers.lost_its_way(self.began);
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
        self.dials.announce();
        self.slots.announce();
    }
}
