//! The peers of a pool: every address its upstream leads to, what the pool thinks of each, and how
//! its connections are spread over them.
//!
//! [`table`] decides; here are the lock, the events, and the counts that connections keep.

#[cfg(test)]
mod herd;
mod pause;
mod table;

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::event::{CloseReason, Event, PeerState};
use crate::net::{Directory, PeerAddr, PendingAttempt};
use crate::pool::conn::generation::Generation;
use crate::status::PeerStatus;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::telemetry::Emitter;
use table::{Change, Table};

pub(in crate::pool) use pause::{Demand, LAST_CALL};

/// One peer, shared with every connection to it.
#[derive(Debug)]
pub(in crate::pool) struct Peer {
    pub(in crate::pool) addr: PeerAddr,
    /// Of its connections.
    generation: Generation,
    /// Connections that are open, and attempts under way.
    open: AtomicUsize,
    attempts: AtomicUsize,
    /// Whether a sign of life from any connection is news.
    suspected: AtomicBool,
    /// Whether a byte from any connection is news.
    on_trial: AtomicBool,
    /// When it was made known.
    known: Instant,
    /// Its connections are to be heard after this moment, in nanoseconds since `known`, before they
    /// are used. Zero: nothing speaks against any.
    doubted: AtomicU64,
}

impl Peer {
    fn new(addr: PeerAddr) -> Self {
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

    fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// What a dial adds to: open connections and those that may become some.
    fn load(&self) -> usize {
        self.open() + self.attempts.load(Ordering::Acquire)
    }

    /// The moment after which its connections have to be heard before they are used, if there is
    /// one.
    #[inline]
    fn doubted(&self) -> Option<Instant> {
        match self.doubted.load(Ordering::Acquire) {
            0 => None,
            since => Some(self.known + Duration::from_nanos(since)),
        }
    }

    /// All its connections were heard after this doubt. One that came meanwhile stays.
    pub(in crate::pool) fn clear_doubt(&self, doubt: Instant) {
        let since = doubt.saturating_duration_since(self.known).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let _ = self.doubted.compare_exchange(since, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    fn is_in_use(&self) -> bool {
        self.load() > 0
    }

    fn set_on_trial(&self, on_trial: bool) {
        self.on_trial.store(on_trial, Ordering::Release);
    }

    fn set_suspected(&self, suspected: bool) {
        self.suspected.store(suspected, Ordering::Release);
    }
}

/// What ties one connection to its peer.
#[derive(Debug)]
pub(in crate::pool) struct Membership {
    peer: Arc<Peer>,
    generation: u64,
}

impl Membership {
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

    /// Something speaks against all connections to this peer that were not heard after this moment.
    pub(in crate::pool) fn doubt(&self, moment: Instant) {
        let since = moment.saturating_duration_since(self.peer.known).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
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

/// The peers of one pool.
#[derive(Debug)]
pub(in crate::pool) struct Peers {
    /// Pure decisions are made under this lock, nothing else.
    table: Mutex<Table>,
    emitter: Arc<Emitter>,
}

impl Peers {
    pub(in crate::pool) fn new(emitter: Arc<Emitter>, settings: &Settings) -> Self {
        let absence = settings.dns_refresh.unwrap_or(ABSENCE);
        let table = Mutex::new(Table::new(settings.backoff, settings.patience, absence));
        Self { table, emitter }
    }

    /// A connection to this address was made.
    pub(in crate::pool) fn join(&self, addr: &PeerAddr) -> Membership {
        // One that was forgotten while this dial was under way has left its name.
        let peer = self.table().find(addr).unwrap_or_else(|| Arc::new(Peer::new(addr.clone())));
        peer.open.fetch_add(1, Ordering::AcqRel);
        let generation = peer.generation.now();
        if !self.table().knows(&peer) {
            peer.generation.end(CloseReason::Drained);
        }
        Membership { peer, generation }
    }

    /// A connection died silently: its peer is suspect.
    pub(in crate::pool) fn died(&self, addr: &PeerAddr) {
        let change = self.table().died(addr, Instant::now());
        self.tell(change);
    }

    /// A connection was heard at this moment. To be called where [that is
    /// news](Membership::is_suspected): it costs a lock.
    pub(in crate::pool) fn heard(&self, member: &Membership, moment: Instant) {
        let change = self.table().heard(member.addr(), moment);
        self.tell(change);
    }

    pub(in crate::pool) fn suspects(&self) -> Vec<Arc<Peer>> {
        self.table().suspects()
    }

    /// The peers whose connections something speaks against, and since when.
    pub(in crate::pool) fn doubted(&self) -> Vec<(Arc<Peer>, Instant)> {
        self.table().doubted()
    }

    /// Ejects whom it is time to eject. Returns whether there was one.
    pub(in crate::pool) fn judge(&self) -> bool {
        let changes = self.table().judge(Instant::now());
        let ejected = !changes.is_empty();
        self.tell(changes);
        ejected
    }

    pub(in crate::pool) fn next_judgement(&self, now: Instant) -> Option<Instant> {
        self.table().next_judgement(now)
    }

    /// How many dials may be under way now for this demand; else, when the first one may begin.
    pub(in crate::pool) fn may_dial(&self, now: Instant, demand: Demand) -> Result<usize, Instant> {
        self.table().may_dial(now, demand)
    }

    /// A connection that was opened at this moment was ended by the other end before one byte of
    /// use.
    pub(in crate::pool) fn ended_unused(&self, member: &Membership, opened: Instant) {
        self.table().ended_unused(member.addr(), opened, Instant::now());
    }

    /// A byte was read from one of its connections. To be called where [that is
    /// news](Membership::is_on_trial): it costs a lock.
    pub(in crate::pool) fn used_well(&self, member: &Membership) {
        self.table().used_well(member.addr());
    }

    /// A dial to this ejected peer was not even begun.
    pub(in crate::pool) fn given_up(&self, addr: &PeerAddr) {
        let change = self.table().given_up(addr);
        self.tell(change);
    }

    /// A dial that began at this moment failed without having tried an address.
    pub(in crate::pool) fn lost_its_way(&self, began: Instant) {
        self.table().lost_its_way(began, Instant::now());
    }

    /// An ejected peer to be tried again.
    pub(in crate::pool) fn try_again(&self, now: Instant) -> Option<PeerAddr> {
        let (addr, change) = self.table().try_again(now)?;
        self.tell(change);
        Some(addr)
    }

    pub(in crate::pool) fn next_try(&self) -> Option<Instant> {
        self.table().next_try()
    }

    pub(in crate::pool) fn counts(&self) -> [usize; PeerState::ALL.len()] {
        let mut counts = [0; PeerState::ALL.len()];
        for (_, state) in self.table().states() {
            counts[state as usize] += 1;
        }
        counts
    }

    pub(in crate::pool) fn status(&self) -> Vec<PeerStatus> {
        let status = |(peer, state): (&Peer, PeerState)| PeerStatus {
            addr: peer.addr.clone(),
            state,
            connections: peer.open(),
        };
        self.table().states().map(status).collect()
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for Change { addr: peer, from, to } in changes {
            self.emitter.emit(Event::PeerChanged { peer, from, to });
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for Peers {
    fn resolved(&self, endpoint: usize, addrs: &[PeerAddr]) {
        let changes = self.table().resolved(endpoint, addrs, Instant::now());
        self.tell(changes);
    }

    fn order(&self, addrs: &mut Vec<PeerAddr>) {
        self.table().order(addrs, Instant::now());
    }

    fn began(&self, addr: &PeerAddr) -> Box<dyn PendingAttempt + '_> {
        let peer = self.table().find(addr);
        if let Some(peer) = &peer {
            peer.attempts.fetch_add(1, Ordering::AcqRel);
        }
        Box::new(Tried { peers: self, addr: addr.clone(), peer, began: Instant::now() })
    }
}

/// An attempt to connect to one peer.
struct Tried<'a> {
    peers: &'a Peers,
    addr: PeerAddr,
    /// The peer that counts it, if it was known when the attempt began.
    peer: Option<Arc<Peer>>,
    began: Instant,
}

impl PendingAttempt for Tried<'_> {
    fn ended(&mut self, result: Option<Result<(), &io::Error>>) {
        let change = {
            let mut table = self.peers.table();
            // While it has an attempt, it is not forgotten.
            if let Some(peer) = self.peer.take() {
                peer.attempts.fetch_sub(1, Ordering::AcqRel);
            }
            let (addr, now) = (&self.addr, Instant::now());
            match result {
                Some(Ok(())) => table.connected(addr, self.began, now),
                Some(Err(_)) => table.refused(addr, self.began, now),
                None => table.given_up(addr),
            }
        };
        self.peers.tell(change);
    }
}

/// How long an address has to be missing where names are looked up for dials only.
const ABSENCE: Duration = Duration::from_secs(30);

/// The longest a dial to an ejected peer may take.
pub(in crate::pool) const TRY_LIMIT: Duration = Duration::from_secs(1);
/// The same, if callers wait: it holds a slot that they may need.
pub(in crate::pool) const BRIEF_TRY_LIMIT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn an_attempt_that_was_begun_on_an_unknown_address_is_not_counted_at_its_end() {
        let settings = Config::new("db:1").to_settings().unwrap();
        let emitter = Emitter::of_connector("test", None);
        let peers = Peers::new(Arc::new(emitter), &settings);
        let addr = PeerAddr::Tcp(([10, 0, 0, 1], 1).into());
        let mut early = peers.began(&addr);
        peers.resolved(0, std::slice::from_ref(&addr));
        let peer = peers.table().find(&addr).unwrap();
        early.ended(Some(Ok(())));
        assert_eq!(peer.load(), 0, "its number would have gone below zero");
        // One that was counted, is not any more, whatever became of its address.
        let mut counted = peers.began(&addr);
        assert_eq!(peer.load(), 1);
        counted.ended(None);
        assert_eq!(peer.load(), 0);
    }
}
