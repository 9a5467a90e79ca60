//! A dial, from a slot to a connection that is handed to the first in the queue.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::CloseReason;
use crate::net::{ConnectError, PeerAddr};
use crate::pool::conn::lease::Lease;
use crate::pool::dial::dialer::FailedDial;
use crate::pool::dial::slots::Slot;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::stream::{AfterConnect, Handshake, Route};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// A dial to a peer that was ejected.
pub(super) struct Try {
    pub(super) peer: PeerAddr,
    pub(super) limit: Duration,
}

/// A dial under way.
pub(super) struct Dial {
    slot: Option<Slot>,
    only: Option<Try>,
    /// The generation of the pool when the dial began: what it makes is stale once the pool has moved
    /// on.
    generation: u64,
    began: Instant,
    over: bool,
    in_flight: DialInFlight,
}

impl Dial {
    pub(super) fn new(
        pool: &Arc<PoolInner>,
        slot: Slot,
        only: Option<Try>,
        generation: u64,
        began: Instant,
    ) -> Self {
        let in_flight = DialInFlight::begin(pool, only.is_some());
        Self { slot: Some(slot), only, generation, began, over: false, in_flight }
    }

    pub(super) async fn run(mut self) {
        let pool = Arc::clone(&self.in_flight.pool);
        let settings = pool.connector.live().snapshot();
        let mut limit = settings.timeouts.connect;
        if let Some(only) = &self.only {
            limit = Some(limit.map_or(only.limit, |limit| limit.min(only.limit)));
        }
        let only = self.only.as_ref().map(|only| &only.peer);
        let handshake = pool.protocol.as_deref().map(|protocol| protocol as &dyn Handshake);
        let after_connect = pool.hooks.after_connect.is_some().then_some(&*pool);
        let after_connect = after_connect.map(|pool| pool as &dyn AfterConnect);
        let (settings, directory) = (&*settings, &pool.peers);
        let route = Route { settings, directory, only, handshake, after_connect, limit };
        let dialed = pool.connector.connect_by(route).await;
        // Not given up any more, whatever comes of it.
        self.over = true;
        let Some(slot) = self.slot.take() else { return };
        match dialed {
            Ok(conn) => self.connected(&pool, conn, slot),
            Err(error) => self.failed(&pool, error, slot),
        }
    }

    fn connected(&self, pool: &Arc<PoolInner>, mut conn: Conn, slot: Slot) {
        pool.dials.ended(None);
        let entry = pool.adopt(&mut conn, slot, self.generation);
        // After the adoption, so that it has its one close event in any case.
        let closed = pool.is_closed().then_some(CloseReason::PoolClosed);
        // Where the pool was invalidated meanwhile it may lead to where nobody wants to go.
        if let Some(reason) = closed.or_else(|| entry.retired()) {
            return pool.finish(&entry, conn, reason, None);
        }
        let since = entry.age();
        // The dial stops counting only when its caller does, or one too many would be made.
        // The connection is not looked at before: some protocols begin with the server's word.
        pool.hand_over(Lease::new(pool, entry, conn, since));
    }

    fn failed(&self, pool: &Arc<PoolInner>, error: ConnectError, slot: Slot) {
        drop(slot);
        // A peer that is not back yet is no news to anybody.
        if self.only.is_some() {
            return;
        }
        // No address was tried: the pause is that of the name, not of a peer.
        if error.attempts().iter().all(|attempt| attempt.is_lookup()) {
            pool.peers.lost_its_way(self.began);
        }
        let failed = FailedDial { began: self.began, error: Arc::new(error) };
        pool.dials.ended(Some(failed.clone()));
        if pool.dials.is_vain(&failed.error, pool.settings().first_connect) {
            pool.fail_waiters(&failed);
        }
    }
}

impl Drop for Dial {
    /// Without an end the dial was given up: with its runtime, for callers, or by a panic in
    /// foreign code.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let peers = &self.in_flight.pool.peers;
        if let Some(only) = &self.only {
            peers.given_up(&only.peer);
        }
        if std::thread::panicking() {
            peers.lost_its_way(self.began);
        }
    }
}

/// Counts a dial that is under way, and has the dialer look again when it no longer is.
struct DialInFlight {
    pool: Arc<PoolInner>,
    is_try: bool,
}

impl DialInFlight {
    fn begin(pool: &Arc<PoolInner>, is_try: bool) -> Self {
        let in_flight = Self { pool: Arc::clone(pool), is_try };
        in_flight.counter().fetch_add(1, Ordering::AcqRel);
        in_flight
    }

    fn counter(&self) -> &AtomicUsize {
        let dials = &self.pool.dials;
        if self.is_try { &dials.trying } else { &dials.under_way }
    }
}

impl Drop for DialInFlight {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::AcqRel);
        self.pool.dials.announce();
        self.pool.slots.announce();
    }
}
