//! A peer, and the tie between it and one connection.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::CloseReason;
use crate::net::PeerAddr;
use crate::pool::conn::generation::Generation;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A peer, shared with every connection to it.
#[derive(Debug)]
pub(in crate::pool) struct Peer {
    pub(in crate::pool) addr: PeerAddr,
    /// Of its connections.
    pub(super) generation: Generation,
    /// Connections that are open, and attempts under way.
    pub(super) open: AtomicUsize,
    pub(super) attempts: AtomicUsize,
    /// Whether a sign of life from any connection is news.
    suspected: AtomicBool,
    /// Whether a byte from any connection is news.
    on_trial: AtomicBool,
    /// When it was made known.
    known: Instant,
    /// Moment after which the peer's connections have to be heard before they are used, in
    /// nanoseconds since `known`. Zero: nothing speaks against any.
    doubted: AtomicU64,
}

impl Peer {
    pub(super) fn new(addr: PeerAddr) -> Self {
        Self {
            addr,
            generation: Generation::default(),
            open: AtomicUsize::new(0),
            attempts: AtomicUsize::new(0),
            suspected: AtomicBool::new(false),
            on_trial: AtomicBool::new(false),
            known: Instant::now(),
            doubted: AtomicU64::new(0),
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Acquire)
    }

    /// The load that a dial adds to: open connections and attempts that may become some.
    pub(super) fn load(&self) -> usize {
        self.open() + self.attempts()
    }

    /// The moment after which its connections have to be heard before they are used, if there is
    /// one.
    #[inline]
    pub(super) fn doubted(&self) -> Option<Instant> {
        match self.doubted.load(Ordering::Acquire) {
            0 => None,
            since => Some(self.known + Duration::from_nanos(since)),
        }
    }

    /// Takes this doubt back: all connections were heard after it. A doubt that came meanwhile
    /// stays.
    pub(in crate::pool) fn clear_doubt(&self, doubt: Instant) {
        let since = doubt.saturating_duration_since(self.known).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        // Only if it is still this one.
        let _ = self.doubted.compare_exchange(since, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Retires the peer's connections: they are not used again.
    pub(super) fn retire(&self, why: CloseReason) {
        self.generation.end(why);
    }

    pub(super) fn begin_attempt(&self) {
        self.attempts.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end_attempt(&self) {
        self.attempts.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.load() > 0
    }

    pub(super) fn set_on_trial(&self, on_trial: bool) {
        self.on_trial.store(on_trial, Ordering::Release);
    }

    pub(super) fn set_suspected(&self, suspected: bool) {
        self.suspected.store(suspected, Ordering::Release);
    }
}

/// The tie between one connection and its peer.
#[derive(Debug)]
pub(in crate::pool) struct Membership {
    peer: Arc<Peer>,
    generation: u64,
}

impl Membership {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        peer.open.fetch_add(1, Ordering::AcqRel);
        Self { peer: Arc::clone(peer), generation: peer.generation.now() }
    }

    pub(in crate::pool) fn addr(&self) -> &PeerAddr {
        &self.peer.addr
    }

    /// Why the connection must not be used again, if the peer says so.
    pub(in crate::pool) fn retired(&self) -> Option<CloseReason> {
        self.peer.generation.ended(self.generation)
    }

    pub(in crate::pool) fn is_of(&self, peer: &Arc<Peer>) -> bool {
        Arc::ptr_eq(&self.peer, peer)
    }

    /// Whether a sign of life is news.
    pub(in crate::pool) fn is_suspected(&self) -> bool {
        self.peer.suspected.load(Ordering::Acquire)
    }

    /// Whether a byte that was read is news.
    pub(in crate::pool) fn is_on_trial(&self) -> bool {
        self.peer.on_trial.load(Ordering::Acquire)
    }

    /// Raises a doubt against all connections to this peer that were not heard after this moment.
    pub(in crate::pool) fn doubt(&self, moment: Instant) {
        let since = moment.saturating_duration_since(self.peer.known).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        // The later of two doubts: who is heard after it was heard after both.
        self.peer.doubted.fetch_max(since, Ordering::AcqRel);
    }

    /// Whether something speaks against any of its connections.
    #[inline]
    pub(in crate::pool) fn is_doubted(&self) -> bool {
        self.peer.doubted.load(Ordering::Acquire) != 0
    }

    /// See [`Peer::doubted`].
    #[inline]
    pub(in crate::pool) fn doubted(&self) -> Option<Instant> {
        self.peer.doubted()
    }

    /// The connection has ended. Once.
    pub(in crate::pool) fn end(&self) {
        self.peer.open.fetch_sub(1, Ordering::AcqRel);
    }
}
