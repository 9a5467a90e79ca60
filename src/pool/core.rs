//! [`Core`]: what the pool knows about one connection, and the state that says who may touch it.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::common::Common;
use super::peers::Membership;
use super::proof::Proof;
use super::slots::Slot;
use crate::error::Holder;
use crate::event::{Check, CheckVerdict, CloseReason, ConnId, Event};
use crate::liveness::{self, Life, Parked, Verdict};
use crate::stream::{Link, Stream};
use crate::sys::tcp_info::tcp_info;

/// Who may touch the connection. Every change is a compare-and-swap; whoever made it owns the
/// stream until the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Held by a guard, or on its way to one.
    InUse,
    /// Coming back: its waker is being parked.
    Parking,
    /// Waiting for a user; its stream is at home.
    Idle,
    /// Being looked at by the maintenance task; its handle is in the store.
    Checking,
    /// Being looked at, and a checkout has meanwhile dropped its handle from the store.
    Orphaned,
    /// Ended. Whoever made this change emits the one close event.
    Closed,
}

/// One connection.
pub(super) struct Core {
    pub(super) id: ConnId,
    pub(super) peer: Membership,
    opened: Instant,
    /// The end of its lifetime, jitter included.
    expires: Option<Instant>,
    state: AtomicU8,
    /// The sentinel fired: look before the next use.
    fired: AtomicBool,
    /// When it was last returned, in nanoseconds since `opened`.
    idle_since: AtomicU64,
    /// Things are only moved in and out under this lock; nothing is dropped, read or called.
    home: Mutex<Home>,
    sentinel: Waker,
    me: Weak<Self>,
    common: Arc<Common>,
    proof: Proof,
    /// Of the pool, when its dial began.
    pub(super) generation: u32,
    /// The way to whoever uses the stream. Set and read under this lock, nothing else.
    link: Mutex<Arc<Link>>,
}

/// What lives with an idle connection.
#[derive(Debug, Default)]
struct Home {
    /// Boxed, here and on its way to a guard: it is moved several times per checkout.
    stream: Option<Box<Stream>>,
    slot: Option<Slot>,
    holder: Option<Held>,
}

/// Who has a connection.
#[derive(Debug)]
struct Held {
    since: Instant,
    taken_at: &'static Location<'static>,
    /// What its caller was doing.
    span: Span,
    reported: bool,
}

impl Core {
    /// A connection that was just made, in use by the caller.
    pub(super) fn new(
        common: &Arc<Common>,
        stream: &mut Stream,
        slot: Slot,
        generation: u32,
    ) -> Arc<Self> {
        let opened = stream.adopt(common.max_silence);
        let core = Arc::new_cyclic(|core: &Weak<Self>| Self {
            id: stream.id(),
            peer: common.peers.join(stream.peer_addr()),
            opened,
            expires: common.max_lifetime.and_then(|life| opened.checked_add(jittered(life))),
            state: AtomicU8::new(State::InUse as u8),
            fired: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            home: Mutex::new(Home { stream: None, slot: Some(slot), holder: None }),
            sentinel: Waker::from(Arc::new(Sentinel(Weak::clone(core)))),
            me: Weak::clone(core),
            common: Arc::clone(common),
            proof: Proof::new(opened),
            generation,
            link: Mutex::new(Arc::clone(stream.link())),
        });
        common.registry.add(&core);
        core
    }

    pub(super) fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    /// Whether its stream is with a user, on its way from or to one, or closed.
    pub(super) fn is_out(&self) -> bool {
        self.is(State::InUse) || self.is(State::Parking) || self.is(State::Closed)
    }

    fn change(&self, from: State, to: State) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Why it must not be used again though it lives, if so.
    fn outlived(&self, now: Instant) -> Option<CloseReason> {
        let old = self.expires.is_some_and(|expires| now >= expires);
        if old {
            return Some(CloseReason::MaxLifetime);
        }
        self.retired()
    }

    /// Why it must not be used again though it lives, whoever has it.
    pub(super) fn retired(&self) -> Option<CloseReason> {
        self.peer.retired().or_else(|| self.common.retired(self.generation))
    }

    /// An exchange of the pool's own is over, and the peer was heard.
    pub(super) fn begin_anew(&self, stream: &mut Stream) {
        self.prove(Instant::now());
        self.rest(stream);
    }

    fn rest(&self, stream: &mut Stream) {
        if stream.rest() {
            *self.link() = Arc::clone(stream.link());
        }
    }

    /// Notes who has it from now on.
    pub(super) fn taken_by(&self, since: Instant, taken_at: &'static Location<'static>) {
        if self.common.notes_holders {
            let holder = Held { since, taken_at, span: Span::current(), reported: false };
            let last = self.home().holder.replace(holder);
            drop(last);
        }
    }

    /// Who has it, if that is noted.
    pub(super) fn holder(&self, now: Instant) -> Option<Holder> {
        let home = self.home();
        let Held { since, taken_at, .. } = home.holder.as_ref()?;
        Some(Holder { conn: self.id, held: now.saturating_duration_since(*since), taken_at })
    }

    /// Reports that it was held for longer than `limit`. Once per checkout.
    pub(super) fn report_holder(&self, now: Instant, limit: Duration) {
        let (held, taken_at, span) = {
            let mut home = self.home();
            let Some(holder) = &mut home.holder else { return };
            let held = now.saturating_duration_since(holder.since);
            if holder.reported || held < limit {
                return;
            }
            holder.reported = true;
            (held, holder.taken_at, holder.span.clone())
        };
        let (conn, peer) = (self.id, self.peer.addr().clone());
        // The log line says what the caller was doing.
        let event = Event::HeldTooLong { conn, peer, held, taken_at };
        span.in_scope(|| self.common.emitter.emit(event));
    }

    /// Ends the use of it: whatever its user does next fails with this reason. Returns whether it
    /// is in use.
    pub(super) fn interrupt(&self, reason: CloseReason) -> bool {
        let link = Arc::clone(&self.link());
        self.is(State::InUse) && link.interrupt(reason)
    }

    fn link(&self) -> MutexGuard<'_, Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it has been idle. Meaningful only while it is.
    pub(super) fn idle_since(&self) -> Instant {
        self.opened + Duration::from_nanos(self.idle_since.load(Ordering::Acquire))
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    pub(super) fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// Takes an idle connection for a user, if it may still be used. It never waits: flag, peek,
    /// lifetime; yes or no, at once. A connection that may not be used is closed here.
    pub(super) fn claim(&self, now: Instant) -> Option<Box<Stream>> {
        while !self.change(State::Idle, State::InUse) {
            // Being looked at right now: it will be offered again when that is over.
            if self.change(State::Checking, State::Orphaned) {
                return None;
            }
            // Closed, or nothing that could be claimed; only a look that ended just now is.
            if !self.is(State::Idle) && !self.is(State::Checking) {
                return None;
            }
        }
        self.fired.store(false, Ordering::Release);
        let stream = self.home().stream.take()?;
        let unfit = match self.outlived(now) {
            Some(reason) => Some(reason),
            None => match liveness::check(stream.io()) {
                Verdict::Alive => {
                    self.report_check(Check::Peek, CheckVerdict::Alive, None);
                    None
                }
                Verdict::Dead(reason) => {
                    self.report_check(Check::Peek, CheckVerdict::Dead, None);
                    Some(reason)
                }
            },
        };
        match unfit {
            None if self
                .common
                .max_silence
                .is_some_and(|max| self.is_silent(&stream, now, max)) =>
            {
                // Whoever claimed it drops its handle; it comes back when it is heard.
                self.state.store(State::Orphaned as u8, Ordering::Release);
                self.suspect(stream);
                None
            }
            None => Some(stream),
            Some(reason) => {
                self.close(stream, reason, None);
                None
            }
        }
    }

    /// Takes the stream of a user back and leaves the sentinel in it. Gives it back with the reason
    /// if it is not fit to wait.
    pub(super) fn settle(
        &self,
        mut stream: Box<Stream>,
        now: Instant,
        used_since: Instant,
    ) -> Result<(), (Box<Stream>, CloseReason)> {
        let surplus = || self.common.slots.are_over().then_some(CloseReason::Resized);
        if let Some(reason) = self.outlived(now).or_else(surplus) {
            return Err((stream, reason));
        }
        if self.common.notes_holders {
            let last = self.home().holder.take();
            drop(last);
        }
        // From here on the sentinel counts.
        self.state.store(State::Parking as u8, Ordering::Release);
        match liveness::park(stream.io(), &self.sentinel) {
            Parked::Unfit(reason) => {
                self.state.store(State::InUse as u8, Ordering::Release);
                return Err((stream, reason));
            }
            Parked::Waiting => {}
            Parked::Restless => self.fired.store(true, Ordering::Release),
        }
        if stream.was_read() {
            // At the earliest then; when exactly would cost a clock per read.
            self.proof.heard_at(used_since);
        }
        self.rest(&mut stream);
        let idle = now.saturating_duration_since(self.opened).as_nanos();
        self.idle_since.store(u64::try_from(idle).unwrap_or(u64::MAX), Ordering::Release);
        self.home().stream = Some(stream);
        // Before the look at whether the pool was closed, in every thread's eyes.
        self.state.store(State::Idle as u8, Ordering::SeqCst);
        Ok(())
    }

    /// Whether the peer has been silent for too long. Costs a system call only when the last proof
    /// is that old.
    fn is_silent(&self, stream: &Stream, now: Instant, max: Duration) -> bool {
        if self.proof.age(now) < max {
            return false;
        }
        let heard = tcp_info(&stream.io().sock_ref()).map(|info| info.heard);
        let life = Life::of(heard, max);
        let verdict = match life {
            Life::Heard(_) => CheckVerdict::Alive,
            Life::Silent | Life::Unknown => CheckVerdict::Unproved,
        };
        self.report_check(Check::Life, verdict, heard);
        match life {
            Life::Heard(ago) => self.prove(now.checked_sub(ago).unwrap_or(now)),
            Life::Silent => {}
            // Silence is nothing to act on; the next look is as far away.
            Life::Unknown => self.postpone(now),
        }
        life == Life::Silent
    }

    /// How long ago the peer was last proved alive.
    pub(super) fn proof_age(&self, now: Instant) -> Duration {
        self.proof.age(now)
    }

    /// The peer was heard at this moment.
    pub(super) fn prove(&self, moment: Instant) {
        self.proof.heard_at(moment);
        self.common.peers.heard(&self.peer, moment);
    }

    /// Nobody can tell whether the peer lives: it is not asked again for as long as if it did.
    pub(super) fn postpone(&self, now: Instant) {
        self.proof.heard_at(now);
    }

    /// Whether its pool was closed.
    pub(super) fn is_of_closed_pool(&self) -> bool {
        self.common.suspects.is_closed()
    }

    /// Puts it into quarantine. Only for whoever owns the stream.
    fn suspect(&self, stream: Box<Stream>) {
        if let Some(core) = self.me.upgrade() {
            self.common.suspects.add(core, stream);
            self.common.inbox.nudge();
        }
    }

    /// The idle check: a connection whose peer is silent goes to quarantine.
    pub(super) fn check_silence(&self, now: Instant, max: Duration) -> Classified {
        if self.proof.age(now) < max || !self.change(State::Idle, State::Checking) {
            return Classified::Done;
        }
        let Some(stream) = self.home().stream.take() else { return Classified::Done };
        if self.is_silent(&stream, now, max) {
            self.suspect(stream);
            return Classified::Done;
        }
        self.come_home(stream)
    }

    /// Back to the idle ones after a look that moved its waker.
    pub(super) fn rehome(&self, stream: Box<Stream>) -> Classified {
        match liveness::park(stream.io(), &self.sentinel) {
            Parked::Unfit(reason) => {
                self.close(stream, reason, None);
                return Classified::Done;
            }
            Parked::Waiting => {}
            Parked::Restless => {
                self.fired.store(true, Ordering::Release);
                self.common.inbox.push(Weak::clone(&self.me));
            }
        }
        self.come_home(stream)
    }

    fn come_home(&self, stream: Box<Stream>) -> Classified {
        self.home().stream = Some(stream);
        let classified = if self.change(State::Checking, State::Idle) {
            Classified::Done
        } else {
            self.state.store(State::Idle as u8, Ordering::Release);
            Classified::Homeless
        };
        // What the sentinel saw in the meantime.
        self.recheck();
        classified
    }

    /// To be called when the connection's handle is in the store: what the sentinel saw before that
    /// may have found nobody home.
    pub(super) fn recheck(&self) {
        if self.fired.load(Ordering::Acquire) {
            self.common.inbox.push(Weak::clone(&self.me));
        }
    }

    /// Looks at an idle connection whose sentinel fired, and closes it if it is dead.
    pub(super) fn classify(&self) -> Classified {
        if !self.change(State::Idle, State::Checking) {
            return Classified::Done;
        }
        self.fired.store(false, Ordering::Release);
        let Some(stream) = self.home().stream.take() else { return Classified::Done };
        match liveness::park(stream.io(), &self.sentinel) {
            Parked::Unfit(reason) => {
                self.report_check(Check::Peek, CheckVerdict::Dead, None);
                self.close(stream, reason, None);
                return Classified::Done;
            }
            Parked::Waiting => self.report_check(Check::Peek, CheckVerdict::Alive, None),
            Parked::Restless => self.fired.store(true, Ordering::Release),
        }
        self.come_home(stream)
    }

    /// Closes an idle connection. False if it is not idle.
    pub(super) fn evict(&self, reason: CloseReason) -> bool {
        if !self.change(State::Idle, State::Checking) {
            return false;
        }
        let stream = self.home().stream.take();
        if let Some(stream) = stream {
            self.close(stream, reason, None);
        }
        true
    }

    /// Ends the connection. Only for whoever owns the stream. `used` is how long it was in use, if
    /// it comes straight from its user.
    pub(super) fn close(&self, stream: Box<Stream>, reason: CloseReason, used: Option<Duration>) {
        if self.mark_closed() {
            drop(stream);
            self.finish(reason, used);
        }
    }

    /// Lets the stream go on its own way, out of the pool.
    pub(super) fn detach(&self, used: Duration) {
        if self.mark_closed() {
            self.finish(CloseReason::Detached, Some(used));
        }
    }

    fn mark_closed(&self) -> bool {
        self.state.swap(State::Closed as u8, Ordering::AcqRel) != State::Closed as u8
    }

    /// The registry forgets it, everybody learns why, and its slot is free: in this order, so that no
    /// observer hears of a successor first.
    fn finish(&self, reason: CloseReason, used: Option<Duration>) {
        let slot = self.home().slot.take();
        self.common.registry.remove(self.id);
        self.common.emitter.emit(Event::Closed {
            conn: self.id,
            peer: self.peer.addr().clone(),
            reason,
            age: self.opened.elapsed(),
            used,
        });
        self.peer.end();
        if reason.is_silent_death() {
            self.common.peers.died(self.peer.addr());
            self.common.inbox.nudge();
        }
        drop(slot);
    }

    pub(super) fn report_check(
        &self,
        check: Check,
        verdict: CheckVerdict,
        heard: Option<Duration>,
    ) {
        self.common.emitter.emit(Event::Checked { conn: self.id, check, verdict, heard });
    }

    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a look at a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Classified {
    /// Nothing is left to do.
    Done,
    /// It is alive and idle, and the store no longer has its handle.
    Homeless,
}

impl Drop for Core {
    /// The last handle is gone without anybody having closed the connection: the store itself was
    /// dropped.
    fn drop(&mut self) {
        if self.mark_closed() {
            drop(self.home().stream.take());
            self.finish(CloseReason::PoolClosed, None);
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id)
            .field("peer", self.peer.addr())
            .finish_non_exhaustive()
    }
}

/// The waker parked in an idle stream. It holds the connection weakly: the stream holds the waker,
/// and the connection holds the stream.
struct Sentinel(Weak<Core>);

impl Wake for Sentinel {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(core) = self.0.upgrade() else { return };
        // In use: a waker left in the slot fires on the user's own answers.
        if core.is(State::InUse) || core.is(State::Closed) {
            return;
        }
        if !core.fired.swap(true, Ordering::AcqRel) {
            core.common.inbox.push(Weak::clone(&self.0));
        }
    }
}

/// A lifetime shortened by up to a quarter, so that connections made together do not end together.
pub(super) fn jittered(lifetime: Duration) -> Duration {
    lifetime - lifetime.mul_f64(0.25 * fastrand::f64())
}
