//! [`PoolInner`]: the parts of a pool, and the tasks in its background.

use std::fmt;
use std::pin::pin;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::beat::beat;
use crate::config::Settings;
use crate::event::CloseReason;
use crate::pool::acquire::idle_set::{IdleSet, MOST_CLOSED};
use crate::pool::acquire::ping::{Pinger, Pings};
use crate::pool::acquire::wait_queue::WaitQueue;
use crate::pool::common::Common;
use crate::pool::conn::entry::Entry;
use crate::pool::conn::erased::PoolProtocol;
use crate::pool::conn::lease::Lease;
use crate::pool::conn::registry::Counts;
use crate::pool::conn::reset::Resets;
use crate::pool::control::warm_up::WarmUpTargets;
use crate::pool::dial::dialer;
use crate::pool::dial::dialer::Dials;
use crate::pool::dial::slots::Slots;
use crate::pool::health::closing::Ending;
use crate::pool::health::maintenance;
use crate::status::Status;
use crate::stream::Connector;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::sync::{Arc, Weak};
use crate::telemetry::{Emitter, Gauges};

/// Whether this is called inside a tokio runtime.
pub(in crate::pool) fn has_runtime() -> bool {
    // A handle is a reference that is counted; a task knows for less that it is one.
    tokio::task::try_id().is_some() || tokio::runtime::Handle::try_current().is_ok()
}

/// The inside of a pool.
pub(in crate::pool) struct PoolInner {
    pub(in crate::pool) connector: Connector,
    pub(in crate::pool) wait_queue: WaitQueue,
    /// Connections with callers, or on their way to one.
    pub(in crate::pool) guards: AtomicUsize,
    pub(in crate::pool) dials: Arc<Dials>,
    /// Idle connections that somebody waits for.
    pub(in crate::pool) warm_up_targets: WarmUpTargets,
    /// Pings whose callers have gone.
    pub(in crate::pool) pings: Pings,
    /// Somebody was told of a release that was forgotten.
    pub(in crate::pool) has_warned: AtomicBool,
    /// A connection came back to a closed pool.
    pub(in crate::pool) came_back: Notify,
    pub(in crate::pool) pinger: Pinger,
    /// `None`: bare streams.
    pub(in crate::pool) protocol: PoolProtocol,
    pub(in crate::pool) resets: Resets,
    pub(in crate::pool) slots: Arc<Slots>,
    pub(in crate::pool) idle_set: IdleSet,
    pub(in crate::pool) common: Arc<Common>,
    /// Whether a maintenance task runs. It ends with its runtime; the next checkout starts another.
    pub(in crate::pool) maintained: Arc<AtomicBool>,
}

impl PoolInner {
    pub(in crate::pool) fn new(
        connector: Connector,
        pinger: Pinger,
        protocol: PoolProtocol,
    ) -> Self {
        let settings = connector.settings();
        let size = settings.max_size;
        let common = Arc::new(Common::new(Arc::clone(connector.emitter()), settings));
        Self {
            wait_queue: WaitQueue::default(),
            guards: AtomicUsize::new(0),
            dials: Arc::default(),
            warm_up_targets: WarmUpTargets::default(),
            pings: Pings::default(),
            has_warned: AtomicBool::new(false),
            came_back: Notify::new(),
            pinger,
            protocol,
            resets: Resets::default(),
            slots: Arc::clone(&common.slots),
            idle_set: IdleSet::new(size, settings.order),
            common,
            maintained: Arc::default(),
            connector,
        }
    }

    pub(in crate::pool) fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    pub(in crate::pool) fn emitter(&self) -> &Emitter {
        self.connector.emitter()
    }

    /// Closed or paused: nobody is to be served.
    pub(in crate::pool) fn is_stopped(&self) -> bool {
        self.is_closed() || self.common.is_paused()
    }

    pub(in crate::pool) fn is_closed(&self) -> bool {
        self.common.is_closed()
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
        let running = Running::of(self);
        let settings = self.settings();
        let beat = beat([
            settings.idle_timeout,
            settings.max_lifetime,
            settings.max_silence,
            settings.hold_warning,
        ]);
        let maintenance = maintenance::run(Arc::downgrade(self), Arc::clone(&self.common), beat);
        let dialer = dialer::run(Arc::downgrade(self), Arc::clone(&self.slots));
        tokio::spawn(async move {
            let _running = running;
            // A task of its own: every eviction wakes it, and whoever is awake again when it yields
            // is run before the runtime has looked at its sockets.
            let mut dialers = JoinSet::new();
            dialers.spawn(dialer);
            // Each ends when the pool does.
            select(pin!(maintenance), pin!(dialers.join_next())).await;
        });
    }

    /// A connection that went idle just as the pool was closed may have been missed by it.
    pub(in crate::pool) fn sweep_if_closed(&self, entry: &Entry) {
        if self.is_closed() {
            entry.evict(CloseReason::PoolClosed);
        }
    }

    /// Has the maintenance task close it; without one it is closed here.
    pub(in crate::pool) fn close_later(&self, ending: Ending) {
        self.common.closing.add(ending);
        self.common.fired_queue.wake();
        // In one order with the end of that task: one of the two sees the other.
        fence(Ordering::SeqCst);
        if !self.maintained.load(Ordering::SeqCst) {
            drop(self.common.closing.take());
        }
    }

    /// A usable idle connection, if there is one.
    #[inline(always)]
    pub(in crate::pool) fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        let taken = self.idle_set.take(|ending| self.close_later(ending))?;
        Some(Lease::new(self, taken))
    }

    pub(in crate::pool) fn guards(&self) -> usize {
        // After the pool was marked as closed, in every thread's eyes.
        self.guards.load(Ordering::SeqCst)
    }

    pub(in crate::pool) fn close(self: &Arc<Self>) {
        if self.common.close() {
            return;
        }
        self.serve();
        self.resets.discard();
        self.pings.discard();
        for (index, entry) in self.common.registry.idle().into_iter().enumerate() {
            let Some(conn) = entry.take_idle() else { continue };
            let ending = Ending::new(entry, conn, CloseReason::PoolClosed);
            if index >= MOST_CLOSED {
                self.close_later(ending);
            }
        }
        self.common.suspects.close();
        self.idle_set.sweep();
        self.slots.announce();
        self.dials.announce();
        self.common.fired_queue.wake();
        self.refresh_gauges();
    }

    pub(in crate::pool) fn status(&self) -> Status {
        let Counts { idle, in_use: busy, connecting } = self.common.registry.count(&self.slots);
        let quarantined = self.common.suspects.count().min(busy);
        // A connection that is being closed has its slot until its socket is closed.
        let connecting = connecting.min(self.dials.all_under_way());
        Status {
            max_size: self.slots.limit(),
            idle,
            in_use: busy - quarantined,
            resetting: self.resets.count().min(busy - quarantined),
            connecting,
            quarantined,
            ending: self.slots.ending(),
            waiting: self.wait_queue.waiting(),
            paused: self.common.is_paused(),
            closed: self.is_closed(),
        }
    }

    pub(in crate::pool) fn refresh_gauges(&self) {
        let Status { max_size, idle, in_use, connecting, quarantined, ending, waiting, .. } =
            self.status();
        self.emitter().telemetry().gauges(&Gauges {
            idle,
            in_use,
            quarantined,
            ending,
            connecting,
            max: max_size,
            waiters: waiting,
            peers: self.common.peers.counts(),
        });
    }
}

impl fmt::Debug for PoolInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolInner").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Says that the maintenance task has ended, however it ended.
pub(in crate::pool) struct Running {
    pool: Weak<PoolInner>,
    common: Arc<Common>,
    flag: Arc<AtomicBool>,
}

impl Running {
    pub(in crate::pool) fn of(inner: &Arc<PoolInner>) -> Self {
        Self {
            pool: Arc::downgrade(inner),
            common: Arc::clone(&inner.common),
            flag: Arc::clone(&inner.maintained),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Nobody else will: each holds what it is kept in.
        drop(self.common.closing.take());
        // Callers in another runtime start one there.
        if let Some(pool) = self.pool.upgrade() {
            pool.wait_queue.wake_all();
        }
    }
}
