//! Quarantine: silent connections, asked for a sign of life until they answer or a verdict falls.
//!
//! Silent connections keep their slots, and no caller is given one. The thread that finds a silent
//! connection sends the first probe; from then on the maintenance task looks at all of them on one
//! clock, so that sixteen dead ones cost the time of one.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{Liveness, ProbeSession, Step, UNASKED};
use crate::pool::conn::entry::Entry;
use crate::pool::health::schedule::LOOKS;
use crate::pool::inbox::Inbox;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use crate::sys::tcp_info::{self, KeepaliveValues, TcpInfo};

/// The way from whoever meets a silent connection to the maintenance task.
#[derive(Debug, Default)]
pub(in crate::pool) struct ProbingQueue {
    arrived: Inbox<Quarantined>,
    /// Number of silent connections, those under probe included.
    count: AtomicUsize,
    /// Since when they are asked: how many since each moment. Read and written under this lock, nothing else.
    asked: Mutex<BTreeMap<Instant, usize>>,
    /// Slots that callers whose patience is over need now.
    wanted: AtomicUsize,
    /// The longest plausible round trip among them, in nanoseconds.
    round_trip: AtomicU64,
    /// When a caller last began to wait for one of them whom no answer came for in time. Of connections
    /// that a plain deadpool keeps; read and written under this lock, nothing else.
    impatience: Mutex<Option<Instant>>,
    /// The settings of the pool's sockets, as the first one that was asked had them. All sockets of
    /// a pool have the same, and nobody else can change them.
    keepalive: OnceLock<KeepaliveValues>,
}

impl PoolInner {
    /// Has the peer of a connection asked at once, and the connection go to quarantine. Only for whoever
    /// has its stream.
    pub(in crate::pool) fn quarantine(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        conn: Conn,
        known: ProbeStart,
    ) {
        let now = Instant::now();
        // Counted before it is there, so that the dialer never sees one too few.
        self.probing.count_in(now);
        let mut new = Quarantined {
            pool: Arc::clone(self),
            entry,
            asked: now,
            is_counted: true,
            conn: Some(conn),
            probe: ProbeSession::default(),
            due: now,
            round_trip: Duration::ZERO,
            heard: None,
        };
        new.begin(now, known);
        // One that comes after the end of the pool is closed.
        drop(self.probing.arrived.push(new));
        self.fired_queue.wake();
        // For whoever waits already: the dialer has to know when their patience is over.
        if !self.wait_queue.is_empty() {
            self.slots.announce();
        }
    }

    /// Has the peer of a connection asked that was just taken for somebody, and nobody given it before
    /// it is heard. Returns it where nobody can tell. Only for whoever has its stream.
    pub(in crate::pool) fn ask(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        conn: Conn,
    ) -> Result<(), Conn> {
        let Some(info) = tcp_info::tcp_info(&conn.stream().io().sock_ref()) else {
            return Err(conn);
        };
        conn.set_idle(true);
        entry.unlist();
        self.quarantine(Arc::clone(entry), conn, ProbeStart::Reading(info));
        Ok(())
    }
}

impl ProbingQueue {
    /// Lets nobody in from now on. Returns those who are here: each is closed when it is dropped.
    pub(in crate::pool) fn close(&self) -> impl Drop + use<> {
        self.arrived.close()
    }

    pub(in crate::pool) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn count_in(&self, asked: Instant) {
        *lock(&self.asked).entry(asked).or_default() += 1;
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    fn count_out(&self, asked: Instant) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        if let btree_map::Entry::Occupied(mut same) = lock(&self.asked).entry(asked) {
            *same.get_mut() -= 1;
            if *same.get() == 0 {
                same.remove();
            }
        }
    }

    /// How many are asked since after this moment, or at least `most` if there are that many; and since
    /// when the first of them is.
    pub(in crate::pool) fn asked_after(
        &self,
        moment: Instant,
        most: usize,
    ) -> (usize, Option<Instant>) {
        let asked = lock(&self.asked);
        let after = asked.range((Bound::Excluded(moment), Bound::Unbounded));
        let first = after.clone().next().map(|(asked, _)| *asked);
        // Thousands may be there, of whom a few matter.
        let count = after.take(most).map(|(_, same)| same).sum();
        (count, first)
    }

    /// Callers cannot wait any longer: the longest silent ones are to make room for so many.
    pub(in crate::pool) fn want_slots(&self, count: usize) {
        self.wanted.store(count, Ordering::Release);
    }

    /// The least time an answer from each of them needs.
    pub(in crate::pool) fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip.load(Ordering::Acquire))
    }

    /// A caller's patience is over, who has waited since then.
    pub(in crate::pool) fn note_impatience(&self, since: Instant) {
        *lock(&self.impatience) = Some(since);
    }

    pub(in crate::pool) fn impatience(&self) -> Option<Instant> {
        *lock(&self.impatience)
    }

    /// The start of a probe without a reading, for a TCP connection that was idle since its last
    /// proof of life, this long ago: the kernel itself has asked nobody so soon.
    pub(in crate::pool) fn settings(&self, unheard: Duration) -> Option<ProbeStart> {
        let own = self.keepalive.get().filter(|own| own.idle > unheard && unheard >= 2 * UNASKED);
        own.map(|own| ProbeStart::Settings(*own))
    }

    fn keepalive(&self, conn: &Conn) -> Option<KeepaliveValues> {
        let known = self.keepalive.get().copied();
        known.or_else(|| {
            let own = tcp_info::keepalive_values(&conn.stream().io().sock_ref())?;
            Some(*self.keepalive.get_or_init(|| own))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Knowledge of a silent connection when its probe starts.
#[derive(Debug)]
pub(in crate::pool) enum ProbeStart {
    /// The kernel's reading of the connection.
    Reading(TcpInfo),
    /// The settings of its socket only.
    Settings(KeepaliveValues),
}

/// A silent connection.
#[derive(Debug)]
struct Quarantined {
    pool: Arc<PoolInner>,
    entry: Arc<Entry>,
    /// When its question began.
    asked: Instant,
    is_counted: bool,
    /// Always there until it leaves.
    conn: Option<Conn>,
    probe: ProbeSession,
    /// When to look at it next.
    due: Instant,
    round_trip: Duration,
    /// How long ago the peer was heard, at the last look.
    heard: Option<Duration>,
}

/// The outcome of a look.
enum Found {
    /// Nothing new.
    Again,
    /// The connection goes back to the idle ones: its peer was heard at this moment, or nobody can
    /// tell.
    Fit(CheckVerdict, Instant),
    /// The connection is to be closed.
    Dead(CloseReason),
}

impl Quarantined {
    fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Looks once. The look never waits.
    fn look(&mut self, now: Instant) -> Found {
        let Some(conn) = &self.conn else { return Found::Again };
        let info = tcp_info::tcp_info(&conn.stream().io().sock_ref());
        // The peek is the authority on an end; where there is none, it need not be asked.
        if info.is_none_or(|info| info.closed || info.peer_closed)
            && let Liveness::Dead(reason) = conn.peek()
        {
            return Found::Dead(reason);
        }
        match info.map_or(Step::Unknown, |info| self.judge(now, &info)) {
            Step::Wait { .. } => Found::Again,
            Step::Unknown => Found::Fit(CheckVerdict::Unproved, now),
            Step::Alive => {
                let heard = self.heard.and_then(|ago| now.checked_sub(ago)).unwrap_or(now);
                Found::Fit(CheckVerdict::Alive, heard)
            }
            Step::Dead(reason) => {
                self.pool.report_check(&self.entry, Check::Probe, CheckVerdict::Dead, self.heard);
                Found::Dead(reason)
            }
        }
    }

    /// Sends the first probe. The maintenance task finds out the rest.
    fn begin(&mut self, now: Instant, known: ProbeStart) {
        let Some(conn) = &self.conn else { return };
        match known {
            ProbeStart::Reading(info) => {
                self.judge(now, &info);
            }
            ProbeStart::Settings(own) => {
                let stream = conn.stream();
                self.due = now + self.probe.begin_blindly(&stream.io().sock_ref(), now, own);
            }
        }
    }

    /// Takes one step of the probe, by this reading.
    fn judge(&mut self, now: Instant, info: &TcpInfo) -> Step {
        let Some(conn) = &self.conn else { return Step::Unknown };
        self.round_trip = info.rtt + 4 * info.rttvar;
        self.heard = Some(info.heard);
        // Read before the stream is locked for the step: it may be a client's.
        let own = match self.probe.is_under_way() {
            true => None,
            false => self.pool.probing.keepalive(conn),
        };
        let own = || own;
        let step = self.probe.step(&conn.stream().io().sock_ref(), now, info, own);
        if let Step::Wait { look_in, .. } = step {
            self.due = now + look_in;
        }
        step
    }

    /// Back to the idle ones, the user's settings restored.
    fn leave(mut self, verdict: CheckVerdict, proof: Instant) {
        let (pool, entry) = (Arc::clone(&self.pool), Arc::clone(&self.entry));
        pool.report_check(&entry, Check::Probe, verdict, self.heard);
        let proof = entry.age_at(proof);
        match verdict {
            CheckVerdict::Alive => pool.prove(&entry, proof),
            _ => entry.note_heard(proof),
        }
        // The user settings before anybody has it, the count before the slot changes hands.
        self.restore();
        self.uncount();
        let Some(conn) = self.conn.take() else { return };
        match entry.leave_sentinel(&conn) {
            Ok(()) => pool.take_back(&entry, conn),
            Err(reason) => pool.finish(&entry, conn, reason, None),
        }
    }

    fn end(mut self, reason: CloseReason) {
        self.close(reason);
    }

    fn close(&mut self, reason: CloseReason) {
        // Before its slot is free: whoever takes that must not count it as likely to come back.
        self.uncount();
        if let Some(conn) = self.conn.take() {
            self.pool.finish(&self.entry, conn, reason, None);
        }
    }

    fn uncount(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.pool.probing.count_out(self.asked);
        }
    }

    fn restore(&mut self) {
        if let Some(conn) = &self.conn {
            self.probe.restore(&conn.stream().io().sock_ref());
        }
    }
}

/// The pool was closed, or the runtime of the maintenance task has ended: nobody is left to ask.
impl Drop for Quarantined {
    fn drop(&mut self) {
        self.close(match self.pool.is_closed() {
            true => CloseReason::PoolClosed,
            false => CloseReason::RuntimeGone,
        });
    }
}

/// The silent connections of a pool. Owned by the maintenance task.
#[derive(Debug)]
pub(in crate::pool) struct Quarantine {
    pool: Arc<PoolInner>,
    /// The longest silent ones first.
    held: VecDeque<Quarantined>,
}

impl Quarantine {
    pub(in crate::pool) fn new(pool: &Arc<PoolInner>) -> Self {
        Self { pool: Arc::clone(pool), held: VecDeque::new() }
    }

    /// When the next look is due.
    pub(in crate::pool) fn due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.due).min()
    }

    /// Looks at everything that is due, and closes what is dead or retired, one by one between other tasks.
    pub(in crate::pool) async fn look(&mut self) {
        let probing = &self.pool.probing;
        self.held.extend(probing.arrived.take());
        // The dialer waits as long as the slowest answer needs before it makes another connection.
        let longest = self.held.iter().map(|held| held.round_trip).max().unwrap_or_default();
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        probing.round_trip.store(longest, Ordering::Release);
        let now = Instant::now();
        let (before, mut looks) = (self.held.len(), 0);
        let mut has_left = false;
        // Each is taken out at the front and put back at the end, so that their order stays.
        for _ in 0..before {
            let Some(mut held) = self.held.pop_front() else { break };
            // Whatever its peer answers, nobody is given it. Where the peer was ejected, an answer takes that
            // back for the others: it is waited for.
            let retired = held.entry.retired();
            if let Some(reason) = retired.filter(|reason| *reason != CloseReason::PeerEjected) {
                has_left = true;
                held.end(reason);
                tokio::task::yield_now().await;
                continue;
            }
            if !held.is_due(now) {
                self.held.push_back(held);
                continue;
            }
            looks += 1;
            match held.look(now) {
                Found::Again => self.held.push_back(held),
                Found::Fit(verdict, proof) => {
                    has_left = true;
                    held.leave(verdict, proof);
                }
                Found::Dead(reason) => {
                    has_left = true;
                    held.end(reason);
                    tokio::task::yield_now().await;
                }
            }
            if looks % LOOKS == 0 {
                tokio::task::yield_now().await;
            }
        }
        if has_left | self.make_room() {
            self.pool.dials.announce();
        }
    }

    /// Gives the slots of the first ones to callers whose patience is over: of those that are asked for as
    /// long. The dialer, which wants them, may have counted others that have left.
    fn make_room(&mut self) -> bool {
        let wanted = self.pool.probing.wanted.swap(0, Ordering::AcqRel).min(self.held.len());
        if wanted == 0 {
            return false;
        }
        let (now, patience) = (Instant::now(), self.pool.patience());
        let has_had_it = |held: &&Quarantined| held.asked + patience <= now;
        let count = self.held.iter().take(wanted).take_while(has_had_it).count();
        for held in self.held.drain(..count) {
            held.end(CloseReason::Superseded);
        }
        count > 0
    }

    /// The pool was closed: so are they, one by one between other tasks.
    pub(in crate::pool) async fn close(mut self) {
        while let Some(held) = self.held.pop_front() {
            drop(held);
            tokio::task::yield_now().await;
        }
    }
}
