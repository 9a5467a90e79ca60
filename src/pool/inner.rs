//! [`PoolInner`]: the parts of a pool, and what is done to one connection wherever that is found out:
//! [`publish`](PoolInner::publish) makes an idle one known, [`finish`](PoolInner::finish) ends one.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{LiveSettings, SettingsNow};
use crate::event::{Check, CheckVerdict, CloseReason, Event};
use crate::liveness::UNASKED;
use crate::pool::acquire::idle_set::IdleSet;
use crate::pool::acquire::ping::{PingInTime, Pinger};
use crate::pool::acquire::sharing::SharedSet;
use crate::pool::acquire::wait_queue::WaitQueue;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, FiredEntries, Listing, Parts};
use crate::pool::conn::erased::PoolProtocol;
use crate::pool::conn::generation::PoolGeneration;
use crate::pool::conn::registry::{Counts, Registry};
use crate::pool::conn::reset::Resets;
use crate::pool::control::reconfigure::Configured;
use crate::pool::control::warm_up::WarmUpTargets;
use crate::pool::dial::dialer::{self, Dials};
use crate::pool::dial::peers::Peers;
use crate::pool::dial::slots::{Slot, Slots};
use crate::pool::health::closing::{DeferredClose, MOST_CLOSED};
use crate::pool::health::maintenance;
use crate::pool::health::quarantine::ProbingQueue;
use crate::pool::hooks::Hooks;
use crate::pool::inbox::Inbox;
use crate::protocol::{Conn, Lingering};
use crate::status::Status;
use crate::stream::Connector;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::telemetry::Emitter;

/// Whether this is called inside a tokio runtime.
pub(in crate::pool) fn has_runtime() -> bool {
    // A handle is a reference that is counted; a task knows for less that it is one.
    tokio::task::try_id().is_some() || tokio::runtime::Handle::try_current().is_ok()
}

/// The inside of a pool. Guards and background tasks hold it; the pool is closed when the last handle
/// of its user goes, whoever else holds this.
pub(in crate::pool) struct PoolInner {
    pub(in crate::pool) connector: Connector,
    /// The configuration as it was given, or changed last.
    pub(in crate::pool) configured: Configured,
    /// `None`: bare streams.
    pub(in crate::pool) protocol: PoolProtocol,
    pub(in crate::pool) pinger: Pinger,
    pub(in crate::pool) hooks: Hooks,
    pub(in crate::pool) wait_queue: WaitQueue,
    pub(in crate::pool) idle_set: IdleSet,
    /// Connections that several callers use.
    pub(in crate::pool) shares: SharedSet,
    /// Connections with callers, or on their way to one.
    pub(in crate::pool) guards: AtomicUsize,
    pub(in crate::pool) slots: Arc<Slots>,
    pub(in crate::pool) peers: Peers,
    pub(in crate::pool) dials: Dials,
    /// Idle connections that somebody waits for.
    pub(in crate::pool) warm_up_targets: WarmUpTargets,
    pub(in crate::pool) registry: Registry,
    pub(in crate::pool) generation: Arc<PoolGeneration>,
    pub(in crate::pool) fired_queue: Arc<FiredEntries>,
    pub(in crate::pool) probing: ProbingQueue,
    /// Connections that are reset before the next caller gets them.
    pub(in crate::pool) resets: Resets,
    /// Pings whose callers have gone, to be run in a task of the pool. A ping holds the pool.
    pub(in crate::pool) pings: Inbox<PingInTime>,
    /// Connections that nobody uses any more and that are not closed yet.
    pub(in crate::pool) closing: Inbox<DeferredClose>,
    /// Connections that their owner gave up while they were being looked at, and why: closed when the
    /// look is over.
    pub(in crate::pool) given_up: Inbox<(Arc<Entry>, CloseReason)>,
    /// A connection has ended. Rings for who watches a plain deadpool.
    pub(in crate::pool) ended: Notify,
    closed: AtomicBool,
    /// A doubt was raised against the connections to a peer, and they have not been asked yet.
    pub(in crate::pool) has_doubts: AtomicBool,
    /// A connection has ended since the idle set was last swept.
    pub(in crate::pool) has_ended: AtomicBool,
    /// The one warning of a forgotten release was given.
    pub(in crate::pool) has_warned: AtomicBool,
    /// A connection came back to a closed pool.
    pub(in crate::pool) came_back: Notify,
    /// The pool was closed, or has no use for connections that are in use: for those who hold them
    /// without an end.
    pub(in crate::pool) recalled: Notify,
    /// Whether a maintenance task runs. The task ends with its runtime; the next checkout starts
    /// another.
    pub(in crate::pool) maintained: AtomicBool,
}

impl PoolInner {
    pub(in crate::pool) fn new(
        connector: Connector,
        configured: Configured,
        pinger: Pinger,
        protocol: PoolProtocol,
        hooks: Hooks,
    ) -> Self {
        let settings = connector.settings();
        Self {
            configured,
            protocol,
            pinger,
            hooks,
            wait_queue: WaitQueue::default(),
            idle_set: IdleSet::new(settings.max_size),
            shares: SharedSet::default(),
            guards: AtomicUsize::new(0),
            slots: Slots::new(settings.max_size),
            peers: Peers::new(Arc::clone(connector.emitter()), connector.live()),
            dials: Dials::default(),
            warm_up_targets: WarmUpTargets::default(),
            registry: Registry::default(),
            generation: Arc::default(),
            fired_queue: Arc::default(),
            probing: ProbingQueue::default(),
            resets: Resets::default(),
            pings: Inbox::default(),
            closing: Inbox::default(),
            given_up: Inbox::default(),
            ended: Notify::new(),
            closed: AtomicBool::new(false),
            has_doubts: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            came_back: Notify::new(),
            recalled: Notify::new(),
            maintained: AtomicBool::new(false),
            connector,
        }
    }

    /// The settings in force, for one look.
    pub(in crate::pool) fn settings(&self) -> SettingsNow {
        self.connector.settings()
    }

    #[inline(always)]
    pub(in crate::pool) fn live(&self) -> &LiveSettings {
        self.connector.live()
    }

    pub(in crate::pool) fn emitter(&self) -> &Emitter {
        self.connector.emitter()
    }

    pub(in crate::pool) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closed or paused: nobody is to be served.
    pub(in crate::pool) fn is_stopped(&self) -> bool {
        self.is_closed() || self.generation.is_paused()
    }

    pub(in crate::pool) fn guards(&self) -> usize {
        // After the pool was marked as closed, in every thread's eyes.
        self.guards.load(Ordering::SeqCst)
    }

    // One connection.

    /// Takes in a connection that was just made. Its dial began in this generation.
    pub(in crate::pool) fn adopt(
        &self,
        conn: &mut Conn,
        slot: Slot,
        generation: u64,
    ) -> Arc<Entry> {
        let peer = self.peers.join(conn.stream().peer_addr());
        let entry = Entry::new(
            conn,
            Parts {
                slot,
                peer,
                generation,
                pool_generation: &self.generation,
                fired_queue: &self.fired_queue,
            },
        );
        self.registry.add(&entry);
        self.limit_life(&entry);
        entry
    }

    /// Makes a connection known that has just become idle: to maintenance, if its sentinel has fired
    /// meanwhile; to whoever closes the pool; and, where it needs a place, to callers.
    pub(in crate::pool) fn publish(self: &Arc<Self>, entry: &Arc<Entry>, listing: Listing) {
        // Whoever was told of it before may have found nobody home.
        if entry.has_fired() {
            self.fired_queue.push(Arc::downgrade(entry));
        }
        // It became idle before this look, in every thread's eyes: whoever closed the pool has met it,
        // or is seen here.
        if self.is_closed() {
            self.evict(entry, CloseReason::PoolClosed);
        } else if listing == Listing::Lost {
            self.idle_set.put(Arc::clone(entry));
            if !self.wait_queue.is_empty() {
                self.serve();
            }
        }
    }

    /// Closes an idle connection. False if it is not idle.
    pub(in crate::pool) fn evict(&self, entry: &Entry, reason: CloseReason) -> bool {
        let Some(conn) = entry.start_check() else { return false };
        self.finish(entry, conn, reason, None);
        true
    }

    /// Closes an idle connection that is not wanted any more. False if it is.
    pub(in crate::pool) fn evict_unwanted(&self, entry: &Entry) -> bool {
        self.unwanted(entry, entry.age()).is_some_and(|reason| self.evict(entry, reason))
    }

    /// Why the pool would rather not have a connection, or have it back, if so.
    #[inline]
    pub(in crate::pool) fn unwanted(&self, entry: &Entry, now: Age) -> Option<CloseReason> {
        let surplus = || self.slots.are_over().then_some(CloseReason::Resized);
        entry.outlived(now).or_else(surplus)
    }

    /// Ends a connection. Only for whoever has its stream. `used` is how long it was in use, if it comes
    /// straight from its user.
    pub(in crate::pool) fn finish(
        &self,
        entry: &Entry,
        conn: Conn,
        reason: CloseReason,
        used: Option<Duration>,
    ) {
        entry.mark_closed();
        let conn = match &self.hooks.before_close {
            None => conn,
            Some(_) => match self.close_behind_hook(entry, conn, reason, used) {
                Ok(()) => return,
                Err(conn) => conn,
            },
        };
        self.finish_now(entry, conn, reason, used);
    }

    /// As [`finish`](Self::finish), of a connection that is marked as closed and has no hook to wait for.
    pub(in crate::pool) fn finish_now(
        &self,
        entry: &Entry,
        conn: Conn,
        reason: CloseReason,
        used: Option<Duration>,
    ) {
        let kept = conn.close(reason);
        self.end(entry, reason, used, kept);
    }

    /// Lets a connection go on its own way, out of the pool.
    pub(in crate::pool) fn detach(&self, entry: &Entry, used: Duration) {
        entry.mark_closed();
        self.end(entry, CloseReason::Detached, Some(used), None);
    }

    /// The registry forgets it, everybody learns why, and its slot is free: in this order, so that no
    /// observer hears of a successor first.
    ///
    /// Where the peer still works for it, its slot is kept by whoever asks it to stop.
    fn end(
        &self,
        entry: &Entry,
        reason: CloseReason,
        used: Option<Duration>,
        kept: Option<Arc<Lingering>>,
    ) {
        // Taken out now and dropped last: the slot is free when all else is done.
        let slot = entry.take_slot();
        self.registry.remove(entry.id);
        self.has_ended.store(true, Ordering::Release);
        self.emitter().emit(Event::Closed {
            conn: entry.id,
            peer: entry.peer.addr().clone(),
            reason,
            age: entry.opened().elapsed(),
            used,
            code: entry.close_code(reason),
        });
        if reason.is_death() {
            self.peers.note_death(entry.peer.addr(), reason);
        }
        if reason.is_silent_death() {
            self.peers.died(entry.peer.addr());
            // Who was heard within a second was not asked by the kernel, and cannot have died before
            // this one.
            self.doubt_siblings(entry, Instant::now().checked_sub(UNASKED));
        } else if reason.is_end_by_peer() && !entry.was_heard() {
            self.peers.ended_unused(&entry.peer, entry.opened());
        }
        entry.peer.end();
        self.ended.notify_one();
        match (kept, slot) {
            (Some(kept), Some(slot)) => kept.take_place(slot.ending()),
            // Its place is somebody else's already: nothing is kept without one.
            (Some(kept), None) => kept.pass(),
            (None, slot) => drop(slot),
        }
    }

    /// Has the maintenance task close it; without one it is closed here.
    pub(in crate::pool) fn close_later(&self, ending: DeferredClose) {
        // It is never closed.
        let _ = self.closing.push(ending);
        self.fired_queue.wake();
        // In one order with the end of that task: one of the two sees the other.
        fence(Ordering::SeqCst);
        if !self.maintained.load(Ordering::SeqCst) {
            drop(self.closing.take());
        }
    }

    /// Notes that the peer of a connection was heard then.
    pub(in crate::pool) fn prove(&self, entry: &Entry, heard: Age) {
        entry.note_heard(heard);
        if entry.peer.is_suspected() {
            self.peers.heard(&entry.peer, entry.moment(heard));
        }
    }

    /// Notes whether the user of a connection has read a byte: if it ends now, that is no sign of an
    /// upstream that wants none.
    pub(in crate::pool) fn note_use(&self, entry: &Entry, conn: &Conn) {
        if entry.note_use(conn) && entry.peer.is_on_trial() {
            self.peers.used_well(&entry.peer);
        }
    }

    pub(in crate::pool) fn report_check(
        &self,
        entry: &Entry,
        check: Check,
        verdict: CheckVerdict,
        heard: Option<Duration>,
    ) {
        self.emitter().emit(Event::Checked { conn: entry.id, check, verdict, heard });
    }

    /// Says that the peek found nothing.
    #[inline(always)]
    pub(in crate::pool) fn report_alive(&self, entry: &Entry) {
        self.emitter().found_alive(entry.id, Check::Peek);
    }

    // All of them.

    /// Closes the pool. A connection that goes idle after this is closed by the thread that
    /// [publishes](Self::publish) it.
    pub(in crate::pool) fn close(self: &Arc<Self>) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        fence(Ordering::SeqCst);
        self.serve();
        self.resets.close();
        drop(self.pings.close());
        for (index, entry) in self.registry.idle().into_iter().enumerate() {
            let Some(conn) = entry.start_check() else { continue };
            let ending = DeferredClose::new(self, entry, conn, CloseReason::PoolClosed);
            if index >= MOST_CLOSED {
                self.close_later(ending);
            }
        }
        drop(self.probing.close());
        self.idle_set.sweep();
        self.slots.announce();
        self.dials.announce();
        self.fired_queue.wake();
        self.ended.notify_one();
        self.refresh_gauges();
        self.recalled.notify_waiters();
    }

    /// Starts the maintenance task unless one is running: it ends with the runtime it was started
    /// in. Called at every checkout.
    pub(in crate::pool) fn maintain(self: &Arc<Self>) {
        if self.maintained.load(Ordering::Relaxed) || self.is_closed() {
            return;
        }
        // Without one there is nobody to do it. Whoever waits for something is told so.
        if !has_runtime() || self.maintained.swap(true, Ordering::AcqRel) {
            return;
        }
        // Made before the task: a runtime that drops it unpolled clears the flag, too.
        let running = Running(Arc::clone(self));
        let maintenance = maintenance::run(Arc::clone(self));
        let dialer = dialer::run(Arc::clone(self));
        tokio::spawn(async move {
            let _running = running;
            // A task of its own: every eviction wakes it, and whoever is awake again when it yields
            // is run before the runtime has looked at its sockets.
            let mut dialers = JoinSet::new();
            dialers.spawn(dialer);
            // Each ends when the pool is closed.
            select(pin!(maintenance), pin!(dialers.join_next())).await;
        });
    }

    pub(in crate::pool) fn status(&self) -> Status {
        let Counts { idle, in_use: busy, connecting } = self.registry.count(&self.slots);
        let quarantined = self.probing.count().min(busy);
        let (shared, shares) = self.shares.counts();
        let shared = shared.min(busy - quarantined);
        // A connection that is being closed has its slot until its socket is closed.
        let connecting = connecting.min(self.dials.all_under_way());
        Status {
            max_size: self.slots.limit(),
            idle,
            in_use: busy - quarantined - shared,
            shared,
            shares,
            resetting: self.resets.count().min(busy - quarantined - shared),
            connecting,
            quarantined,
            ending: self.slots.ending(),
            waiting: self.wait_queue.waiting(),
            paused: self.generation.is_paused(),
            closed: self.is_closed(),
        }
    }
}

impl fmt::Debug for PoolInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolInner").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Says that the maintenance task has ended, however it ended.
pub(in crate::pool) struct Running(pub(in crate::pool) Arc<PoolInner>);

impl Drop for Running {
    fn drop(&mut self) {
        let Self(pool) = self;
        pool.maintained.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Nobody else will: each holds what it is kept in.
        drop(pool.closing.take());
        // Callers in another runtime start one there.
        pool.wait_queue.wake_all();
    }
}
