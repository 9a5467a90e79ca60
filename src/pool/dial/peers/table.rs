//! The pool's judgement of each address of its upstream, and what follows from it. Pure: what was
//! seen and `now` in, changes out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::pause::{Demand, Pause};
use super::peer::Peer;
use crate::config::Backoff;
use crate::event::{CloseReason, DialOutcome, PeerState};
use crate::net::PeerAddr;
use crate::report::{Past, PeerReport};
use crate::sync::Arc;

/// An address is drained when this many answers in a row, over the time of one `dns_refresh`, did not
/// contain it: some name servers give a different part of a long list each time, and many dials at a
/// time hear the same answer.
const MISSING: u8 = 3;

/// A connection dies silently after about two seconds of unanswered questions. Who was heard on
/// another one this long before that, or later, lives.
const RECENT: Duration = Duration::from_secs(1);

/// So many addresses of one answer are taken in, the first ones: a message of the DNS has room for
/// 4 000, and each is looked at under the lock.
const MOST_OF_ONE_ANSWER: usize = 1_000;
/// So many peers are known. Beyond that, those without connections that the last answer did not
/// contain are forgotten, and else new ones not taken in.
const MOST_PEERS: usize = 4_000;

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
    /// After a failure: the peer is not dialed before it is over, if another one can be.
    pause: Option<Pause>,
    /// The peer ended a connection before one byte of use. Until a byte comes, a connection that
    /// was made says nothing for it.
    on_trial: bool,
    /// What became of the last attempt to connect, and when.
    last_attempt: Option<(DialOutcome, Instant)>,
    /// Of what the last connection died, and when.
    last_death: Option<(CloseReason, Instant)>,
    /// For each endpoint that led to it: since when it is missing, and in how many answers.
    missing: Vec<(usize, Option<Instant>, u8)>,
}

impl Row {
    /// Whether a dial should rather go elsewhere: 0 no, 1 while it is suspect, 2 until its pause is
    /// over, 3 because it is not to be used.
    fn reluctance(&self, now: Instant, backoff: &Backoff) -> u8 {
        match self.state {
            PeerState::Draining => 3,
            PeerState::Ejected | PeerState::Probing => 2,
            _ if self.tried_at(backoff).is_some_and(|at| now < at) => 2,
            PeerState::Suspect => 1,
            PeerState::Healthy => 0,
        }
    }

    /// When it may be dialed for nobody.
    fn tried_at(&self, backoff: &Backoff) -> Option<Instant> {
        self.pause.map(|pause| pause.is_over_at(backoff, Demand::Nobody))
    }

    /// A dial to it, or the use of one of its connections, failed. Dials that were under way
    /// together fail together: that is one failure.
    fn failed(&mut self, began: Instant, now: Instant) {
        if self.pause.is_none_or(|pause| !pause.covers(began)) {
            self.failures = self.failures.saturating_add(1);
            self.pause = Some(Pause::after(began, now, self.failures));
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

/// What is configured of the peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) backoff: Backoff,
    /// How long the siblings of a connection that died silently have to answer.
    pub(super) patience: Duration,
    /// For how long an address has to be missing.
    pub(super) absence: Duration,
}

/// The peers of one pool.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    /// Where in `rows` each address is.
    places: HashMap<PeerAddr, usize>,
    rules: Rules,
    /// How often the settings had been changed when the rules were taken from them.
    seen: usize,
    /// Dials in a row that failed before there was any address, and the pause after the last one.
    lost: (u32, Option<Pause>),
}

impl Table {
    pub(super) fn new(rules: Rules, seen: usize) -> Self {
        let (rows, places) = (Vec::new(), HashMap::new());
        Self { rows, places, rules, seen, lost: (0, None) }
    }

    /// Goes by other rules from now on, if the settings were changed since it last looked.
    pub(super) fn follow(&mut self, changes: usize, rules: impl FnOnce() -> Rules) {
        if std::mem::replace(&mut self.seen, changes) != changes {
            self.rules = rules();
        }
    }

    /// The peer at this address, if it is known.
    pub(super) fn find(&mut self, addr: &PeerAddr) -> Option<Arc<Peer>> {
        self.row(addr).map(|row| Arc::clone(&row.peer))
    }

    /// The endpoint that led to this address, by its last answer if that is known of one.
    pub(super) fn endpoint_of(&mut self, addr: &PeerAddr) -> Option<usize> {
        let missing = &self.row(addr)?.missing;
        missing.iter().min_by_key(|(_, _, times)| *times).map(|(endpoint, ..)| *endpoint)
    }

    /// Whether connections to it are wanted: it was not forgotten, and has not left its name.
    pub(super) fn wants(&self, peer: &Arc<Peer>) -> bool {
        let row = self.places.get(&peer.addr).map(|place| &self.rows[*place]);
        row.is_some_and(|row| Arc::ptr_eq(&row.peer, peer) && row.state != PeerState::Draining)
    }

    fn row(&mut self, addr: &PeerAddr) -> Option<&mut Row> {
        let place = *self.places.get(addr)?;
        self.rows.get_mut(place)
    }

    /// The row of an address that a name leads to. No other call makes a peer known. Returns `None`
    /// if the table is full.
    fn row_or_new(&mut self, addr: &PeerAddr) -> Option<&mut Row> {
        if !self.places.contains_key(addr) {
            if self.rows.len() >= MOST_PEERS {
                return None;
            }
            self.places.insert(addr.clone(), self.rows.len());
            self.rows.push(Row {
                peer: Arc::new(Peer::new(addr.clone())),
                state: PeerState::Healthy,
                since: None,
                deaths: 0,
                failures: 0,
                pause: None,
                on_trial: false,
                last_attempt: None,
                last_death: None,
                missing: Vec::new(),
            });
        }
        self.row(addr)
    }

    /// Forgets the others.
    fn keep_rows(&mut self, mut keep: impl FnMut(&Row) -> bool) {
        let before = self.rows.len();
        self.rows.retain(|row| keep(row));
        if self.rows.len() < before {
            let places = self.rows.iter().enumerate();
            self.places = places.map(|(at, row)| (row.peer.addr.clone(), at)).collect();
        }
    }

    /// An endpoint led to these addresses.
    pub(super) fn resolved(
        &mut self,
        endpoint: usize,
        addrs: &[PeerAddr],
        now: Instant,
    ) -> Vec<Change> {
        let absence = self.rules.absence;
        self.lost = (0, None);
        let all: HashSet<&PeerAddr> = addrs.iter().collect();
        if self.rows.len() + all.len() > MOST_PEERS {
            self.keep_rows(|row| row.peer.is_in_use() || all.contains(&row.peer.addr));
        }
        for addr in addrs.iter().take(MOST_OF_ONE_ANSWER) {
            let Some(Row { missing, .. }) = self.row_or_new(addr) else { break };
            match missing.iter_mut().find(|(of, ..)| *of == endpoint) {
                Some(found) => *found = (endpoint, None, 0),
                None => missing.push((endpoint, None, 0)),
            }
        }
        let mut changes = Vec::new();
        for row in &mut self.rows {
            for (_, since, times) in row.missing.iter_mut().filter(|(of, ..)| *of == endpoint) {
                if !all.contains(&row.peer.addr) {
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
                row.peer.retire(CloseReason::Drained);
            } else if !gone && row.state == PeerState::Draining {
                changes.extend(row.change(PeerState::Healthy));
            }
        }
        // Nothing is left of it, not even a memory.
        self.keep_rows(|row| row.state != PeerState::Draining || row.peer.is_in_use());
        changes
    }

    /// The order in which a dial tries them: by what speaks against them, then by their number of
    /// connections; equals keep the order they come in.
    pub(super) fn order(&mut self, addrs: &mut [PeerAddr], now: Instant) {
        let backoff = self.rules.backoff;
        addrs.sort_by_cached_key(|addr| match self.row(addr) {
            Some(row) => (row.reluctance(now, &backoff), row.peer.load()),
            // There was no room for it.
            None => (u8::MAX, 0),
        });
    }

    /// How many dials may be under way now for this demand; else, when the first one may begin.
    ///
    /// While nothing is known to answer, one at a time finds out: the others could only fail, too.
    pub(super) fn may_dial(&self, now: Instant, demand: Demand) -> Result<usize, Instant> {
        let over =
            |pause: Option<Pause>| pause.map(|pause| pause.is_over_at(&self.rules.backoff, demand));
        let usable = self.rows.iter().filter(|row| row.state != PeerState::Draining);
        // A peer without a pause comes before all others.
        let first = usable.map(|row| over(row.pause)).min().flatten();
        match first.max(over(self.lost.1)) {
            Some(at) if now < at => Err(at),
            Some(_) => Ok(1),
            None => Ok(usize::MAX),
        }
    }

    /// A dial that began at this moment failed before it had any address to try.
    pub(super) fn lost_its_way(&mut self, began: Instant, now: Instant) {
        let (failures, pause) = &mut self.lost;
        if pause.is_none_or(|pause| !pause.covers(began)) {
            *failures = failures.saturating_add(1);
            *pause = Some(Pause::after(began, now, *failures));
        }
    }

    /// A connection that was opened at this moment was ended by the peer before one byte of use: as
    /// good as a dial that failed.
    pub(super) fn ended_unused(&mut self, addr: &PeerAddr, opened: Instant, now: Instant) {
        if let Some(row) = self.row(addr) {
            row.on_trial = true;
            row.peer.set_on_trial(true);
            row.failed(opened, now);
        }
    }

    /// A byte was read from one of its connections.
    pub(super) fn used_well(&mut self, addr: &PeerAddr) {
        let Some(row) = self.row(addr) else { return };
        row.on_trial = false;
        row.peer.set_on_trial(false);
        // Where the peer is tried again, the byte may be from before its connections died.
        if !matches!(row.state, PeerState::Ejected | PeerState::Probing) {
            row.failures = 0;
            row.pause = None;
        }
    }

    /// A dial to it that began at this moment made a connection.
    pub(super) fn connected(
        &mut self,
        addr: &PeerAddr,
        began: Instant,
        now: Instant,
    ) -> Option<Change> {
        let row = self.row(addr)?;
        if row.on_trial {
            // The next one is not to follow at once: this one may be ended, too.
            row.pause = Some(Pause::after(began, now, row.failures));
        } else {
            row.failures = 0;
            row.pause = None;
        }
        match row.state {
            PeerState::Draining => None,
            _ => row.change(PeerState::Healthy),
        }
    }

    /// A dial to it that began at this moment failed.
    pub(super) fn refused(
        &mut self,
        addr: &PeerAddr,
        began: Instant,
        now: Instant,
    ) -> Option<Change> {
        let row = self.row(addr)?;
        row.failed(began, now);
        if row.state == PeerState::Probing { row.change(PeerState::Ejected) } else { None }
    }

    /// Notes that a connection to this peer died silently.
    pub(super) fn died(&mut self, addr: &PeerAddr, now: Instant) -> Option<Change> {
        let row = self.row(addr)?;
        if !matches!(row.state, PeerState::Healthy | PeerState::Suspect) {
            return None;
        }
        row.deaths += 1;
        row.since.get_or_insert(now);
        row.change(PeerState::Suspect)
    }

    /// Notes that a connection to this peer was heard at this moment.
    pub(super) fn heard(&mut self, addr: &PeerAddr, moment: Instant) -> Option<Change> {
        let row = self.row(addr)?;
        let since = row.since?;
        if moment + RECENT < since {
            return None;
        }
        if !row.on_trial {
            row.pause = None;
        }
        row.change(PeerState::Healthy)
    }

    /// The suspects, whose connections are to be asked.
    pub(super) fn suspects(&self) -> Vec<Arc<Peer>> {
        let suspects = self.rows.iter().filter(|row| row.state == PeerState::Suspect);
        suspects.map(|row| Arc::clone(&row.peer)).collect()
    }

    /// The peers whose connections something speaks against, and since when.
    pub(super) fn doubted(&self) -> Vec<(Arc<Peer>, Instant)> {
        let doubt = |row: &Row| Some((Arc::clone(&row.peer), row.peer.doubted()?));
        self.rows.iter().filter_map(doubt).collect()
    }

    /// Ejects the suspects of which two connections have died and none was heard for one patience,
    /// and those that have no connection left. Never the last peer.
    pub(super) fn judge(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let backoff = self.rules.backoff;
        for at in 0..self.rows.len() {
            let others = self
                .rows
                .iter()
                .enumerate()
                .any(|(other, row)| other != at && row.reluctance(now, &backoff) < 2);
            let row = &mut self.rows[at];
            let suspect = others && row.state == PeerState::Suspect;
            let Some(since) = row.since.filter(|_| suspect) else { continue };
            let nobody_left = row.peer.open() == 0;
            let unheard =
                row.deaths >= 2 && now.saturating_duration_since(since) >= self.rules.patience;
            if nobody_left || unheard {
                row.failures = row.failures.saturating_add(1);
                row.pause = Some(Pause::after(now, now, row.failures));
                row.since = Some(now);
                row.peer.retire(CloseReason::PeerEjected);
                changes.extend(row.change(PeerState::Ejected));
            }
        }
        changes
    }

    /// When time alone gives [`judge`](Self::judge) something to decide.
    pub(super) fn next_judgement(&self, now: Instant) -> Option<Instant> {
        let suspects = self.rows.iter().filter(|row| row.state == PeerState::Suspect);
        let due = suspects.filter_map(|row| row.since).map(|since| since + self.rules.patience);
        due.filter(|due| *due > now).min()
    }

    /// An ejected peer that may be tried again; from now on it is [`PeerState::Probing`].
    pub(super) fn try_again(&mut self, now: Instant) -> Option<(PeerAddr, Option<Change>)> {
        let backoff = self.rules.backoff;
        let due = |row: &&mut Row| {
            row.state == PeerState::Ejected && row.tried_at(&backoff).is_none_or(|at| now >= at)
        };
        let row = self.rows.iter_mut().find(due)?;
        Some((row.peer.addr.clone(), row.change(PeerState::Probing)))
    }

    /// When [`try_again`](Self::try_again) has something to try.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let ejected = self.rows.iter().filter(|row| row.state == PeerState::Ejected);
        ejected.filter_map(|row| row.tried_at(&self.rules.backoff)).min()
    }

    /// The one that was tried again is as it was: the dial was given up.
    pub(super) fn given_up(&mut self, addr: &PeerAddr) -> Option<Change> {
        let row = self.row(addr)?;
        if row.state == PeerState::Probing { row.change(PeerState::Ejected) } else { None }
    }

    /// For whoever asks.
    pub(super) fn note_attempt(&mut self, addr: &PeerAddr, outcome: DialOutcome, now: Instant) {
        if let Some(row) = self.row(addr) {
            row.last_attempt = Some((outcome, now));
        }
    }

    /// For whoever asks.
    pub(super) fn note_death(&mut self, addr: &PeerAddr, reason: CloseReason, now: Instant) {
        if let Some(row) = self.row(addr) {
            row.last_death = Some((reason, now));
        }
    }

    /// What is known of each, but for when it was heard.
    pub(super) fn report(&self, now: Instant) -> Vec<PeerReport> {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let report = |row: &Row| PeerReport {
            addr: row.peer.addr.clone(),
            state: row.state,
            connections: row.peer.open(),
            heard: None,
            attempt: row.last_attempt.map(|(outcome, at)| Past::new(outcome, ago(at))),
            death: row.last_death.map(|(reason, at)| Past::new(reason, ago(at))),
            pause: row
                .tried_at(&self.rules.backoff)
                .map(|at| at.saturating_duration_since(now))
                .filter(|left| !left.is_zero()),
        };
        self.rows.iter().map(report).collect()
    }

    pub(super) fn states(&self) -> impl Iterator<Item = (&Peer, PeerState)> {
        self.rows.iter().map(|row| (&*row.peer, row.state))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
