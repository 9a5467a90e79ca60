//! What the pool thinks of each address of its upstream, and what follows from it. Pure: what was
//! seen and `now` in, changes out.

use crate::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Peer;
use crate::config::Backoff;
use crate::event::{CloseReason, PeerState};
use crate::net::PeerAddr;

/// An address is drained when this many answers in a row, over the time of one `dns_refresh`, did not
/// contain it: some name servers give a different part of a long list each time, and many dials at a
/// time hear the same answer.
const MISSING: u8 = 3;

/// A connection dies silently after about two seconds of unanswered questions. Who was heard on
/// another one this long before that, or later, lives.
const RECENT: Duration = Duration::from_secs(1);

/// A change to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) addr: PeerAddr,
    pub(super) from: PeerState,
    pub(super) to: PeerState,
}

#[derive(Debug)]
struct Row {
    peer: Arc<Peer>,
    state: PeerState,
    /// While it is suspect or ejected: since when.
    since: Option<Instant>,
    /// While it is suspect: how many connections have died silently.
    deaths: u32,
    /// Dials that failed in a row, ejections among them.
    failures: u32,
    /// Not to be dialed before this, if another one can be.
    not_before: Option<Instant>,
    /// For each endpoint that led to it: since when it is missing, and in how many answers.
    missing: Vec<(usize, Option<Instant>, u8)>,
}

impl Row {
    /// Whether a dial should rather go elsewhere: 0 no, 1 while it is suspect, 2 until its pause is
    /// over, 3 because it is not to be used.
    fn reluctance(&self, now: Instant) -> u8 {
        match self.state {
            PeerState::Draining => 3,
            PeerState::Ejected | PeerState::Probing => 2,
            _ if self.not_before.is_some_and(|at| now < at) => 2,
            PeerState::Suspect => 1,
            PeerState::Healthy => 0,
        }
    }

    fn change(&mut self, to: PeerState) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        let doubted = matches!(to, PeerState::Suspect | PeerState::Ejected | PeerState::Probing);
        if !doubted {
            self.since = None;
        }
        if to != PeerState::Suspect {
            self.deaths = 0;
        }
        self.peer.set_suspected(doubted);
        (from != to).then(|| Change { addr: self.peer.addr.clone(), from, to })
    }
}

/// The peers of one pool.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    backoff: Backoff,
    /// How long the siblings of a connection that died silently have to answer.
    patience: Duration,
    /// For how long an address has to be missing.
    absence: Duration,
    /// For dials that failed before there was any address.
    lost: (u32, Option<Instant>),
    /// For connections made for nobody that the other end ended before anybody used them.
    unwelcome: (u32, Option<Instant>),
}

impl Table {
    pub(super) fn new(backoff: Backoff, patience: Duration, absence: Duration) -> Self {
        Self { rows: Vec::new(), backoff, patience, absence, lost: (0, None), unwelcome: (0, None) }
    }

    /// The peer at this address, if it is known.
    pub(super) fn find(&mut self, addr: &PeerAddr) -> Option<Arc<Peer>> {
        self.row(addr).map(|row| Arc::clone(&row.peer))
    }

    /// Whether this very peer is known.
    pub(super) fn knows(&self, peer: &Arc<Peer>) -> bool {
        self.rows.iter().any(|row| Arc::ptr_eq(&row.peer, peer))
    }

    fn row(&mut self, addr: &PeerAddr) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.peer.addr == *addr)
    }

    /// The row of an address that a name leads to. Nothing else makes a peer known.
    fn row_or_new(&mut self, addr: &PeerAddr) -> &mut Row {
        let at = self.rows.iter().position(|row| row.peer.addr == *addr);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                peer: Arc::new(Peer::new(addr.clone())),
                state: PeerState::Healthy,
                since: None,
                deaths: 0,
                failures: 0,
                not_before: None,
                missing: Vec::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// An endpoint led to these addresses.
    pub(super) fn resolved(
        &mut self,
        endpoint: usize,
        addrs: &[PeerAddr],
        now: Instant,
    ) -> Vec<Change> {
        let absence = self.absence;
        self.lost = (0, None);
        for addr in addrs {
            let missing = &mut self.row_or_new(addr).missing;
            match missing.iter_mut().find(|(of, ..)| *of == endpoint) {
                Some(found) => *found = (endpoint, None, 0),
                None => missing.push((endpoint, None, 0)),
            }
        }
        let mut changes = Vec::new();
        for row in &mut self.rows {
            for (_, since, times) in row.missing.iter_mut().filter(|(of, ..)| *of == endpoint) {
                if !addrs.contains(&row.peer.addr) {
                    since.get_or_insert(now);
                    *times = times.saturating_add(1);
                }
            }
            let long = |since: &Option<Instant>| {
                since.is_some_and(|since| now.saturating_duration_since(since) >= absence)
            };
            let known = !row.missing.is_empty();
            let gone = known
                && row.missing.iter().all(|(_, since, times)| *times >= MISSING && long(since));
            if gone && row.state != PeerState::Draining {
                changes.extend(row.change(PeerState::Draining));
                row.peer.generation.end(CloseReason::Drained);
            } else if !gone && row.state == PeerState::Draining {
                changes.extend(row.change(PeerState::Healthy));
            }
        }
        // Nothing is left of it, not even a memory.
        self.rows.retain(|row| row.state != PeerState::Draining || row.peer.is_in_use());
        changes
    }

    /// The order in which a dial tries them: by what speaks against them, then by their number of
    /// connections; equals keep the order they come in.
    pub(super) fn order(&mut self, addrs: &mut [PeerAddr], now: Instant) {
        addrs.sort_by_cached_key(|addr| {
            self.row(addr).map(|row| (row.reluctance(now), row.peer.load()))
        });
    }

    /// Whether a dial may start now; else, when.
    pub(super) fn may_dial(&self, now: Instant) -> Result<(), Instant> {
        let usable = self.rows.iter().filter(|row| row.state != PeerState::Draining);
        let first = usable.map(|row| row.not_before.unwrap_or(now)).min();
        match first.max(self.lost.1) {
            Some(at) if now < at => Err(at),
            _ => Ok(()),
        }
    }

    /// A dial failed before it had any address to try.
    pub(super) fn lost_its_way(&mut self, now: Instant) {
        self.lost.0 += 1;
        self.lost.1 = Some(now + self.backoff.pause(self.lost.0));
    }

    /// A connection was ended by the other end before any caller had used it.
    pub(super) fn ended_unused(&mut self, now: Instant) {
        let (failures, until) = &mut self.unwelcome;
        // Those that end together are one failure.
        if until.is_none_or(|at| now >= at) {
            *failures = failures.saturating_add(1);
            *until = Some(now + self.backoff.pause(*failures));
        }
    }

    pub(super) fn used_well(&mut self) {
        self.unwelcome = (0, None);
    }

    /// Whether connections may be made for nobody now; else, when.
    pub(super) fn may_stock(&self, now: Instant) -> Result<(), Instant> {
        match self.unwelcome.1 {
            Some(at) if now < at => Err(at),
            _ => Ok(()),
        }
    }

    /// A connection to it was made.
    pub(super) fn connected(&mut self, addr: &PeerAddr) -> Option<Change> {
        let row = self.row(addr)?;
        row.failures = 0;
        row.not_before = None;
        match row.state {
            PeerState::Draining => None,
            _ => row.change(PeerState::Healthy),
        }
    }

    /// A connection to it could not be made.
    pub(super) fn refused(&mut self, addr: &PeerAddr, now: Instant) -> Option<Change> {
        let backoff = self.backoff;
        let row = self.row(addr)?;
        // Dials that were under way together fail together: that is one failure.
        if row.not_before.is_none_or(|at| now >= at) {
            row.failures = row.failures.saturating_add(1);
            row.not_before = Some(now + backoff.pause(row.failures));
        }
        if row.state == PeerState::Probing { row.change(PeerState::Ejected) } else { None }
    }

    /// One of its connections died silently.
    pub(super) fn died(&mut self, addr: &PeerAddr, now: Instant) -> Option<Change> {
        let row = self.row(addr)?;
        if !matches!(row.state, PeerState::Healthy | PeerState::Suspect) {
            return None;
        }
        row.deaths += 1;
        row.since.get_or_insert(now);
        row.change(PeerState::Suspect)
    }

    /// One of its connections was heard at this moment.
    pub(super) fn heard(&mut self, addr: &PeerAddr, moment: Instant) -> Option<Change> {
        let row = self.row(addr)?;
        let since = row.since?;
        if moment + RECENT < since {
            return None;
        }
        row.not_before = None;
        row.change(PeerState::Healthy)
    }

    /// The suspects, whose connections are to be asked.
    pub(super) fn suspects(&self) -> Vec<Arc<Peer>> {
        let suspects = self.rows.iter().filter(|row| row.state == PeerState::Suspect);
        suspects.map(|row| Arc::clone(&row.peer)).collect()
    }

    /// Ejects the suspects of which two connections have died and none was heard for one patience,
    /// and those that have no connection left. Never the last peer.
    pub(super) fn judge(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let backoff = self.backoff;
        for at in 0..self.rows.len() {
            let others = self
                .rows
                .iter()
                .enumerate()
                .any(|(other, row)| other != at && row.reluctance(now) < 2);
            let row = &mut self.rows[at];
            let suspect = others && row.state == PeerState::Suspect;
            let Some(since) = row.since.filter(|_| suspect) else { continue };
            let nobody_left = row.peer.open() == 0;
            let unheard = row.deaths >= 2 && now.saturating_duration_since(since) >= self.patience;
            if nobody_left || unheard {
                row.failures = row.failures.saturating_add(1);
                row.not_before = Some(now + backoff.pause(row.failures));
                row.since = Some(now);
                row.peer.generation.end(CloseReason::PeerEjected);
                changes.extend(row.change(PeerState::Ejected));
            }
        }
        changes
    }

    /// When time alone gives [`judge`](Self::judge) something to decide.
    pub(super) fn next_judgement(&self, now: Instant) -> Option<Instant> {
        let suspects = self.rows.iter().filter(|row| row.state == PeerState::Suspect);
        let due = suspects.filter_map(|row| row.since).map(|since| since + self.patience);
        due.filter(|due| *due > now).min()
    }

    /// An ejected peer that may be tried again; from now on it is [`PeerState::Probing`].
    pub(super) fn try_again(&mut self, now: Instant) -> Option<(PeerAddr, Option<Change>)> {
        let due = |row: &&mut Row| {
            row.state == PeerState::Ejected && row.not_before.is_none_or(|at| now >= at)
        };
        let row = self.rows.iter_mut().find(due)?;
        Some((row.peer.addr.clone(), row.change(PeerState::Probing)))
    }

    /// When [`try_again`](Self::try_again) has something to try.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let ejected = self.rows.iter().filter(|row| row.state == PeerState::Ejected);
        ejected.filter_map(|row| row.not_before).min()
    }

    /// The one that was tried again is as it was: the dial was given up.
    pub(super) fn given_up(&mut self, addr: &PeerAddr) -> Option<Change> {
        let row = self.row(addr)?;
        if row.state == PeerState::Probing { row.change(PeerState::Ejected) } else { None }
    }

    pub(super) fn states(&self) -> impl Iterator<Item = (&Peer, PeerState)> {
        self.rows.iter().map(|row| (&*row.peer, row.state))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
