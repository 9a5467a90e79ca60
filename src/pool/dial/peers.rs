//! The peers of a pool: every address its upstream leads to, what the pool thinks of each, and how
//! its connections are spread over them.
//!
//! [`table`] decides; here are the lock, the events, and the counts that connections keep.

#[cfg(test)]
mod herd;
mod pause;
mod peer;
mod table;

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{LiveSettings, Settings};
use crate::event::{CloseReason, DialOutcome, Event, PeerState};
use crate::net::{Directory, PeerAddr, PendingAttempt};
use crate::report::PeerReport;
use crate::status::PeerStatus;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::telemetry::Emitter;
use table::{Change, Rules, Table};

pub(in crate::pool) use pause::{Demand, LAST_CALL};
pub(in crate::pool) use peer::Membership;
use peer::Peer;

/// The peers of one pool.
#[derive(Debug)]
pub(in crate::pool) struct Peers {
    /// Pure decisions are made under this lock, by the settings of that moment, nothing else.
    table: Mutex<Table>,
    settings: Arc<LiveSettings>,
    emitter: Arc<Emitter>,
}

impl Peers {
    pub(in crate::pool) fn new(emitter: Arc<Emitter>, settings: &Arc<LiveSettings>) -> Self {
        let seen = settings.changes();
        let table = Mutex::new(Table::new(rules(&settings.now()), seen));
        Self { table, settings: Arc::clone(settings), emitter }
    }

    /// A connection to this address was made.
    pub(in crate::pool) fn join(&self, addr: &PeerAddr) -> Membership {
        // One that was forgotten, or is drained, while this dial was under way has left its name.
        let peer = self.table().find(addr).unwrap_or_else(|| Arc::new(Peer::new(addr.clone())));
        let member = Membership::new(&peer);
        if !self.table().wants(&peer) {
            peer.retire(CloseReason::Drained);
        }
        member
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
        // All states, so that a gauge returns to 0.
        let mut counts = [0; PeerState::ALL.len()];
        for (_, state) in self.table().states() {
            counts[state as usize] += 1;
        }
        counts
    }

    /// A connection to this address died of this.
    pub(in crate::pool) fn note_death(&self, addr: &PeerAddr, reason: CloseReason) {
        self.table().note_death(addr, reason, Instant::now());
    }

    /// What is known of each peer, but for when it was heard.
    pub(in crate::pool) fn report(&self, now: Instant) -> Vec<PeerReport> {
        self.table().report(now)
    }

    /// How many attempts to connect to each known peer are under way.
    pub(in crate::pool) fn attempts(&self) -> Vec<(PeerAddr, usize)> {
        let table = self.table();
        table.states().map(|(peer, _)| (peer.addr.clone(), peer.attempts())).collect()
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
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.follow(self.settings.changes(), || rules(&self.settings.now()));
        table
    }
}

/// The settings that the table goes by.
fn rules(settings: &Settings) -> Rules {
    Rules {
        backoff: settings.backoff,
        patience: settings.patience,
        absence: settings.dns_refresh.unwrap_or(ABSENCE),
    }
}

impl Directory for Peers {
    fn resolved(&self, endpoint: usize, addrs: &[PeerAddr]) {
        let changes = self.table().resolved(endpoint, addrs, Instant::now());
        self.tell(changes);
    }

    fn endpoint_of(&self, addr: &PeerAddr) -> Option<usize> {
        self.table().endpoint_of(addr)
    }

    fn order(&self, addrs: &mut Vec<PeerAddr>) {
        self.table().order(addrs, Instant::now());
    }

    fn began(&self, addr: &PeerAddr) -> Box<dyn PendingAttempt + '_> {
        let peer = self.table().find(addr);
        if let Some(peer) = &peer {
            peer.begin_attempt();
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
    fn ended(&mut self, outcome: DialOutcome) {
        let change = {
            let mut table = self.peers.table();
            // While it has an attempt, it is not forgotten.
            if let Some(peer) = self.peer.take() {
                peer.end_attempt();
            }
            let (addr, now) = (&self.addr, Instant::now());
            // One that was given up says nothing of the peer.
            if outcome != DialOutcome::Cancelled {
                table.note_attempt(addr, outcome, now);
            }
            match outcome {
                DialOutcome::Ok => table.connected(addr, self.began, now),
                DialOutcome::Cancelled => table.given_up(addr),
                _ => table.refused(addr, self.began, now),
            }
        };
        self.peers.emitter.peer_dialed(&self.addr, outcome);
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
        let settings = LiveSettings::new(Config::new("db:1").to_settings().unwrap());
        let emitter = Emitter::of_connector("test", None);
        let peers = Peers::new(Arc::new(emitter), &settings);
        let addr = PeerAddr::Tcp(([10, 0, 0, 1], 1).into());
        let mut early = peers.began(&addr);
        peers.resolved(0, std::slice::from_ref(&addr));
        let peer = peers.table().find(&addr).unwrap();
        early.ended(DialOutcome::Ok);
        assert_eq!(peer.load(), 0, "its number would have gone below zero");
        // One that was counted, is not any more, whatever became of its address.
        let mut counted = peers.began(&addr);
        assert_eq!(peer.load(), 1);
        counted.ended(DialOutcome::Cancelled);
        assert_eq!(peer.load(), 0);
    }
}
