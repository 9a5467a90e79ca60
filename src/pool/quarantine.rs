//! Quarantine: silent connections, asked for a sign of life until they answer or a verdict falls.
//!
//! They keep their slots, and nobody is given one. Whoever finds a silent connection sends the first
//! probe; from then on all of them are looked at on one clock, that of the maintenance task, so that
//! sixteen dead ones cost the time of one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{Classified, Core};
use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{ProbeSession, Step, UNASKED, Verdict};
use crate::stream::Conn;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use crate::sys::tcp_info::{self, Keepalive, TcpInfo};

/// The way from whoever meets a silent connection to the maintenance task.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Pushed and taken under this lock, nothing else.
    arrived: Mutex<Vec<Quarantined>>,
    /// All of them, the ones under probe included.
    count: AtomicUsize,
    /// Slots that callers whose patience is over need now.
    wanted: AtomicUsize,
    /// The longest plausible round trip among them, in nanoseconds.
    round_trip: AtomicU64,
    /// The pool was closed: nobody will look at what arrives.
    closed: AtomicBool,
    /// The settings of the pool's sockets, as the first one that was asked had them. All have the
    /// same, and nobody else can change them.
    keepalive: OnceLock<Keepalive>,
}

impl Suspects {
    /// Its peer is asked at once.
    pub(super) fn add(&self, core: Arc<Core>, conn: Conn, known: Known) {
        self.count.fetch_add(1, Ordering::AcqRel);
        let now = Instant::now();
        let mut new = Quarantined {
            core,
            is_counted: true,
            conn: Some(conn),
            probe: ProbeSession::default(),
            due: now,
            round_trip: Duration::ZERO,
            heard: None,
        };
        new.begin(now, known, self);
        self.lock().push(new);
        if self.is_closed() {
            self.discard();
        }
    }

    /// Closes what is here and what will come. A connection left here would keep itself alive.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.discard();
    }

    fn discard(&self) {
        drop(self.take());
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Callers cannot wait any longer: the longest silent ones are to make room for so many.
    pub(super) fn want_slots(&self, count: usize) {
        self.wanted.store(count, Ordering::Release);
    }

    /// The least time an answer from each of them needs.
    pub(super) fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip.load(Ordering::Acquire))
    }

    /// One is no longer here.
    pub(super) fn uncount(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    fn take(&self) -> Vec<Quarantined> {
        std::mem::take(&mut *self.lock())
    }

    /// What is known of a TCP connection that was idle since its last proof of life, this long ago, and
    /// need not be read first: the kernel itself has asked nobody so soon.
    pub(super) fn settings(&self, unheard: Duration) -> Option<Known> {
        let own = self.keepalive.get().filter(|own| own.idle > unheard && unheard >= 2 * UNASKED);
        own.map(|own| Known::Settings(*own))
    }

    fn keepalive(&self, conn: &Conn) -> Option<Keepalive> {
        let known = self.keepalive.get().copied();
        known.or_else(|| {
            let own = tcp_info::keepalive(&conn.stream().io().sock_ref())?;
            Some(*self.keepalive.get_or_init(|| own))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Quarantined>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a silent connection when it is asked.
#[derive(Debug)]
pub(super) enum Known {
    /// What the kernel says of it.
    Reading(TcpInfo),
    /// The settings of its socket only.
    Settings(Keepalive),
}

/// One silent connection.
#[derive(Debug)]
struct Quarantined {
    core: Arc<Core>,
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

/// What a look has found.
enum Found {
    /// Nothing new.
    Again,
    /// It goes back to the idle ones: its peer was heard at this moment, or nobody can tell.
    Fit(CheckVerdict, Instant),
    /// It is to be closed.
    Dead(CloseReason),
}

impl Quarantined {
    fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Looks once. Nothing here waits.
    fn look(&mut self, now: Instant, suspects: &Suspects) -> Found {
        let Some(conn) = &self.conn else { return Found::Again };
        let info = tcp_info::tcp_info(&conn.stream().io().sock_ref());
        // The peek is the authority on an end; where there is none, it need not be asked.
        if info.is_none_or(|info| info.closed || info.peer_closed)
            && let Verdict::Dead(reason) = conn.peek()
        {
            return Found::Dead(reason);
        }
        match info.map_or(Step::Unknown, |info| self.judge(now, &info, suspects)) {
            Step::Wait { .. } => Found::Again,
            Step::Unknown => Found::Fit(CheckVerdict::Unproved, now),
            Step::Alive => {
                let heard = self.heard.and_then(|ago| now.checked_sub(ago)).unwrap_or(now);
                Found::Fit(CheckVerdict::Alive, heard)
            }
            Step::Dead(reason) => {
                self.core.report_check(Check::Probe, CheckVerdict::Dead, self.heard);
                Found::Dead(reason)
            }
        }
    }

    /// Sends the first probe. Whatever else there is to say, the maintenance task finds out.
    fn begin(&mut self, now: Instant, known: Known, suspects: &Suspects) {
        let Some(conn) = &self.conn else { return };
        match known {
            Known::Reading(info) => {
                self.judge(now, &info, suspects);
            }
            Known::Settings(own) => {
                let stream = conn.stream();
                self.due = now + self.probe.begin_blindly(&stream.io().sock_ref(), now, own);
            }
        }
    }

    /// One step of its probe, by this reading.
    fn judge(&mut self, now: Instant, info: &TcpInfo, suspects: &Suspects) -> Step {
        let Some(conn) = &self.conn else { return Step::Unknown };
        self.round_trip = info.rtt + 4 * info.rttvar;
        self.heard = Some(info.heard);
        let own = || suspects.keepalive(conn);
        let step = self.probe.step(&conn.stream().io().sock_ref(), now, info, own);
        if let Step::Wait { look_in, .. } = step {
            self.due = now + look_in;
        }
        step
    }

    /// Back to the idle ones, the user's settings restored.
    fn leave(mut self, verdict: CheckVerdict, proof: Instant) -> Option<Classified> {
        let heard = self.heard;
        self.core.report_check(Check::Probe, verdict, heard);
        match verdict {
            CheckVerdict::Alive => self.core.prove(self.core.age_at(proof)),
            _ => self.core.postpone(self.core.age_at(proof)),
        }
        self.restore();
        self.uncount();
        self.conn.take().map(|conn| self.core.rehome(conn))
    }

    fn end(mut self, reason: CloseReason) {
        // Before its slot is free: whoever takes that must not count it as likely to come back.
        self.uncount();
        if let Some(conn) = self.conn.take() {
            self.core.close(conn, reason, None);
        }
    }

    fn uncount(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.core.leaves_quarantine();
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
        self.uncount();
        if let Some(conn) = self.conn.take() {
            let reason = match self.core.is_of_closed_pool() {
                true => CloseReason::PoolClosed,
                false => CloseReason::RuntimeGone,
            };
            self.core.close(conn, reason, None);
        }
    }
}

/// So many are looked at, a microsecond each, before other tasks run.
const LOOKS: usize = 16;

/// All silent connections of a pool. Owned by the maintenance task.
#[derive(Debug)]
pub(super) struct Quarantine<'a> {
    suspects: &'a Suspects,
    /// The longest silent ones first.
    held: VecDeque<Quarantined>,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(suspects: &'a Suspects) -> Self {
        Self { suspects, held: VecDeque::new() }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.due).min()
    }

    /// Looks at everything that is due, and closes what is dead, one by one between other tasks.
    /// `homeless` is told of those that need a new place. Returns whether any has left.
    pub(super) async fn look(&mut self, mut homeless: impl FnMut(Arc<Core>)) -> bool {
        self.held.extend(self.suspects.take());
        let longest = self.held.iter().map(|held| held.round_trip).max().unwrap_or_default();
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.suspects.round_trip.store(longest, Ordering::Release);
        let now = Instant::now();
        let (before, mut looks) = (self.held.len(), 0);
        let mut has_left = false;
        // Each is taken out at the front and put back at the end, so that their order stays.
        for _ in 0..before {
            let Some(mut held) = self.held.pop_front() else { break };
            if !held.is_due(now) {
                self.held.push_back(held);
                continue;
            }
            looks += 1;
            match held.look(now, self.suspects) {
                Found::Again => self.held.push_back(held),
                Found::Fit(verdict, proof) => {
                    has_left = true;
                    let core = Arc::clone(&held.core);
                    if held.leave(verdict, proof) == Some(Classified::Homeless) {
                        homeless(core);
                    }
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
        has_left | self.make_room()
    }

    /// Gives the slots of the first ones to callers whose patience is over.
    fn make_room(&mut self) -> bool {
        let wanted = self.suspects.wanted.swap(0, Ordering::AcqRel).min(self.held.len());
        for held in self.held.drain(..wanted) {
            held.end(CloseReason::Superseded);
        }
        wanted > 0
    }

    /// The pool was closed: so are they, one by one between other tasks.
    pub(super) async fn close(mut self) {
        while let Some(held) = self.held.pop_front() {
            drop(held);
            tokio::task::yield_now().await;
        }
    }
}
