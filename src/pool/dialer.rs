//! The dialer: new connections, made by tasks of their own.
//!
//! A caller does not dial: it waits in line for whatever comes first, a connection that is returned
//! or one that was made. A dial belongs to nobody, so that none is thrown away when its caller goes.
//! One rule decides, whenever anything has changed: while more callers wait than dials are under
//! way, a slot is free, fewer than `max_connecting` are under way, and some peer may be dialed,
//! start a dial. `min_idle` is the same rule without callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Inner;
use super::common::Common;
use super::core::Core;
use super::guard::Guard;
use super::peers::TRY_LIMIT;
use super::slots::{Slot, Slots};
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::net::{self, ConnectError, Directory, PeerAddr};
use crate::stream::{Connector, Route};

/// What is known of the dials of a pool.
#[derive(Debug, Default)]
pub(super) struct Dials {
    under_way: AtomicUsize,
    /// Of the last one that failed, unless one has succeeded since.
    error: Mutex<Option<Arc<ConnectError>>>,
    end: Notify,
}

impl Dials {
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
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
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
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
            let (demand, later) = self.demand(now);
            if demand <= under_way {
                sooner(later);
                return next;
            }
            let most = self.settings().max_connecting;
            if under_way >= most {
                return next;
            }
            if let Err(at) = self.common.peers.may_dial(now) {
                sooner(Some(at));
                return next;
            }
            let Some(slot) = self.slots.try_take() else {
                // Those that are being asked for a sign of life may have to make room.
                if self.common.suspects.count() > 0 {
                    self.common.suspects.want_slots((demand.min(most)) - under_way);
                    self.common.inbox.nudge();
                }
                return next;
            };
            dials.spawn(self.begin_dial(slot, None).run());
        }
    }

    /// How many connections are missing: for callers whom no silent connection may still serve, and
    /// to have `min_idle` of them. And when there will be more of those callers.
    fn demand(&self, now: Instant) -> (usize, Option<Instant>) {
        if self.common.is_paused() {
            return (0, None);
        }
        let silent = self.common.suspects.count() > 0;
        let (callers, later) = match now.checked_sub(self.patience()).filter(|_| silent) {
            // They are being asked; one that answers is as good as a new one, and sooner there.
            Some(long_ago) => self.line.since(long_ago),
            None => (self.line.waiting(), None),
        };
        let spare = match self.least_idle() {
            0 => 0,
            least => least.saturating_sub(self.common.registry.idle_count()),
        };
        (callers + spare, later.map(|since| since + self.patience()))
    }

    /// How long a caller waits for silent connections: not less than their answers need.
    fn patience(&self) -> Duration {
        self.settings().patience.max(self.common.suspects.round_trip())
    }

    /// One dial to a peer that was ejected, when its pause is over and nobody waits.
    fn try_ejected_again(
        self: &Arc<Self>,
        now: Instant,
        dials: &mut JoinSet<()>,
    ) -> Option<Instant> {
        let next = self.common.peers.next_try()?;
        if next > now {
            return Some(next);
        }
        // Callers come first, and their dials wake this again.
        if self.dials.under_way() > 0 || !self.line.is_empty() || self.common.is_paused() {
            return None;
        }
        let slot = self.slots.try_take()?;
        let peer = self.common.peers.try_again(now)?;
        dials.spawn(self.begin_dial(slot, Some(peer)).run());
        self.common.peers.next_try()
    }

    fn begin_dial(self: &Arc<Self>, slot: Slot, only: Option<PeerAddr>) -> Dial {
        self.dials.under_way.fetch_add(1, Ordering::AcqRel);
        Dial {
            pool: Arc::downgrade(self),
            connector: self.connector.clone(),
            common: Arc::clone(&self.common),
            slot: Some(slot),
            only,
            generation: self.common.generation(),
            under_way: UnderWay(Arc::clone(&self.dials), Arc::clone(&self.slots)),
        }
    }

    /// Looks names up while nothing is dialed, so that an address that left its name is noticed.
    fn look_names_up(
        &self,
        dials: &mut JoinSet<()>,
        last: &mut Option<Instant>,
    ) -> Option<Instant> {
        let every = self.settings().dns_refresh?;
        let now = Instant::now();
        let due = *last.get_or_insert(now) + every;
        if now < due {
            return Some(due);
        }
        *last = Some(now);
        let (connector, common) = (self.connector.clone(), Arc::clone(&self.common));
        dials.spawn(async move {
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
        Some(now + every)
    }
}

/// One dial. It holds no pool while it runs.
struct Dial {
    pool: Weak<Inner>,
    connector: Connector,
    common: Arc<Common>,
    slot: Option<Slot>,
    only: Option<PeerAddr>,
    /// Of the pool, when the dial began.
    generation: u32,
    under_way: UnderWay,
}

impl Dial {
    async fn run(mut self) {
        let limit = self.connector.settings().timeouts.connect;
        let limit = match &self.only {
            Some(_) => Some(limit.map_or(TRY_LIMIT, |limit| limit.min(TRY_LIMIT))),
            None => limit,
        };
        let route = Route { directory: &self.common.peers, only: self.only.as_ref(), limit };
        let dialed = self.connector.connect_by(route).await;
        let Some(slot) = self.slot.take() else { return };
        match dialed {
            Ok(stream) => {
                self.under_way.0.ended(None);
                let mut stream = Box::new(stream);
                let core = Core::new(&self.common, &mut stream, slot, self.generation);
                let Some(pool) = self.pool.upgrade().filter(|pool| !pool.is_closed()) else {
                    return core.close(stream, CloseReason::PoolClosed, None);
                };
                // The pool was invalidated meanwhile: it may lead to where nobody wants to go.
                if let Some(reason) = core.retired() {
                    return core.close(stream, reason, None);
                }
                let taken = pool.store.adopt(&core, stream);
                // No longer counted only when its caller is not, or one too many would be made.
                pool.serve_fresh(Guard::unclaimed(&pool, taken));
                drop(self.under_way);
            }
            Err(error) => {
                if error.attempts().iter().all(|attempt| attempt.is_lookup()) {
                    self.common.peers.lost_its_way();
                }
                let error = Arc::new(error);
                if self.only.is_none() {
                    self.under_way.0.ended(Some(Arc::clone(&error)));
                }
                drop(slot);
                drop(self.under_way);
                if let Some(pool) = self.pool.upgrade().filter(|_| !error.is_retryable()) {
                    pool.fail_waiters(&error);
                }
            }
        }
    }
}

/// Counts a dial that is under way, and has the dialer look again when it no longer is.
struct UnderWay(Arc<Dials>, Arc<Slots>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.end.notify_waiters();
        self.1.announce();
    }
}
