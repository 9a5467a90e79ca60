//! [`Inner`]: the parts of a pool, and the tasks in its background.

use std::fmt;
use std::pin::pin;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::closing::Ending;
use super::common::Common;
use super::core::Core;
use super::dialer::Dials;
use super::lease::Lease;
use super::line::Line;
use super::ping::{Pinger, Pings};
use super::registry::Counts;
use super::reset::Resets;
use super::slots::Slots;
use super::speech::Spoke;
use super::store::{MOST_CLOSED, Store};
use super::warm::Wishes;
use super::{dialer, maintenance};
use crate::beat::beat;
use crate::config::Settings;
use crate::event::CloseReason;
use crate::status::Status;
use crate::stream::Connector;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::sync::{Arc, Weak};
use crate::telemetry::{Emitter, Gauges};

/// Whether this is called inside a tokio runtime.
pub(super) fn has_runtime() -> bool {
    // A handle is a reference that is counted; a task knows for less that it is one.
    tokio::task::try_id().is_some() || tokio::runtime::Handle::try_current().is_ok()
}

/// The inside of a pool.
pub(super) struct Inner {
    pub(super) connector: Connector,
    pub(super) line: Line,
    /// Connections with callers, or on their way to one.
    pub(super) guards: AtomicUsize,
    pub(super) dials: Arc<Dials>,
    /// Idle connections that somebody waits for.
    pub(super) wishes: Wishes,
    /// Pings whose callers have gone.
    pub(super) pings: Pings,
    /// Somebody was told of a release that was forgotten.
    pub(super) has_warned: AtomicBool,
    /// A connection came back to a closed pool.
    pub(super) came_back: Notify,
    pub(super) pinger: Pinger,
    /// `None`: bare streams.
    pub(super) speech: Spoke,
    pub(super) resets: Resets,
    pub(super) slots: Arc<Slots>,
    pub(super) store: Store,
    pub(super) common: Arc<Common>,
    /// Whether a maintenance task runs. It ends with its runtime; the next checkout starts another.
    pub(super) maintained: Arc<AtomicBool>,
}

impl Inner {
    pub(super) fn new(connector: Connector, pinger: Pinger, speech: Spoke) -> Self {
        let settings = connector.settings();
        let size = settings.max_size;
        let common = Arc::new(Common::new(Arc::clone(connector.emitter()), settings));
        Self {
            line: Line::default(),
            guards: AtomicUsize::new(0),
            dials: Arc::default(),
            wishes: Wishes::default(),
            pings: Pings::default(),
            has_warned: AtomicBool::new(false),
            came_back: Notify::new(),
            pinger,
            speech,
            resets: Resets::default(),
            slots: Arc::clone(&common.slots),
            store: Store::new(size, settings.order),
            common,
            maintained: Arc::default(),
            connector,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    pub(super) fn emitter(&self) -> &Emitter {
        self.connector.emitter()
    }

    /// Closed or paused: nobody is to be served.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_closed() || self.common.is_paused()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.common.is_closed()
    }

    /// Starts the maintenance task unless one is running: it ends with the runtime it was started
    /// in. Called at every checkout.
    pub(super) fn maintain(self: &Arc<Self>) {
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
    pub(super) fn sweep_if_closed(&self, core: &Core) {
        if self.is_closed() {
            core.evict(CloseReason::PoolClosed);
        }
    }

    /// Has the maintenance task close it; without one it is closed here.
    pub(super) fn close_later(&self, ending: Ending) {
        self.common.closing.add(ending);
        self.common.inbox.nudge();
        // In one order with the end of that task: one of the two sees the other.
        fence(Ordering::SeqCst);
        if !self.maintained.load(Ordering::SeqCst) {
            drop(self.common.closing.take());
        }
    }

    /// A usable idle connection, if there is one.
    #[inline(always)]
    pub(super) fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        let taken = self.store.take(|ending| self.close_later(ending))?;
        Some(Lease::new(self, taken))
    }

    pub(super) fn guards(&self) -> usize {
        // After the pool was marked as closed, in every thread's eyes.
        self.guards.load(Ordering::SeqCst)
    }

    pub(super) fn close(self: &Arc<Self>) {
        if self.common.close() {
            return;
        }
        self.serve();
        self.resets.discard();
        self.pings.discard();
        for (index, core) in self.common.registry.idle().into_iter().enumerate() {
            let Some(conn) = core.take_idle() else { continue };
            let ending = Ending::new(core, conn, CloseReason::PoolClosed);
            if index >= MOST_CLOSED {
                self.close_later(ending);
            }
        }
        self.common.suspects.close();
        self.store.sweep();
        self.slots.announce();
        self.dials.announce();
        self.common.inbox.nudge();
        self.refresh_gauges();
    }

    pub(super) fn status(&self) -> Status {
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
            waiting: self.line.waiting(),
            paused: self.common.is_paused(),
            closed: self.is_closed(),
        }
    }

    pub(super) fn refresh_gauges(&self) {
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

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Says that the maintenance task has ended, however it ended.
pub(super) struct Running {
    pool: Weak<Inner>,
    common: Arc<Common>,
    flag: Arc<AtomicBool>,
}

impl Running {
    pub(super) fn of(inner: &Arc<Inner>) -> Self {
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
            pool.line.wake_all();
        }
    }
}
