//! [`Entry`]: what the pool knows about one connection, and the state that says who may touch it.

mod holder;
mod look;
mod passage;

use std::fmt;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

pub(in crate::pool) use look::Classified;

use self::holder::Held;
use self::look::Sentinel;
use crate::event::{Check, CheckVerdict, CloseReason, ConnId, Event};
use crate::liveness::UNASKED;
use crate::pool::common::Common;
use crate::pool::conn::age::{Age, AtomicAge};
use crate::pool::dial::peers::Membership;
use crate::pool::dial::slots::Slot;
use crate::stream::{Conn, Lingering, Link};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Who may touch the connection. Every change is a compare-and-swap; whoever made it owns the
/// stream until the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::pool) enum State {
    /// Held by a guard, or on its way to one.
    InUse,
    /// Coming back: its waker is being parked.
    Parking,
    /// Waiting for a user; its stream is at home.
    Idle,
    /// Being looked at by the maintenance task; its handle is in the idle set.
    Checking,
    /// Being looked at, and a checkout has meanwhile dropped its handle from the idle set.
    Orphaned,
    /// Ended. Whoever made this change emits the one close event.
    Closed,
}

/// One connection.
///
/// In this order, what a look at all idle connections reads is together: of ten thousand, each piece
/// comes from memory.
#[repr(C)]
pub(in crate::pool) struct Entry {
    opened: Instant,
    /// The end of its lifetime, jitter included.
    expires: Age,
    /// When it was last returned.
    idle_since: AtomicAge,
    /// When its peer was last known to be heard.
    heard: AtomicAge,
    state: AtomicU8,
    /// A byte was read from it since it was opened.
    was_heard: AtomicBool,
    /// The sentinel fired: look before the next use.
    fired: AtomicBool,
    /// How long its peer lets it be idle; [`Age::NEVER`] where it did not say.
    idle_limit: AtomicAge,
    /// Of the pool, when its dial began.
    pub(in crate::pool) generation: u64,
    pub(in crate::pool) peer: Membership,
    common: Arc<Common>,
    pub(in crate::pool) id: ConnId,
    /// Its handshake had an answer.
    pub(in crate::pool) was_greeted: bool,
    /// Things are only moved in and out under this lock; nothing is dropped, read or called.
    home: Mutex<Home>,
    sentinel: Waker,
    me: Weak<Self>,
    /// The way to whoever uses the stream. Set and read under this lock, nothing else.
    link: Mutex<Arc<Link>>,
}

/// What lives with an idle connection.
#[derive(Debug, Default)]
struct Home {
    conn: Option<Conn>,
    slot: Option<Slot>,
    /// Boxed: noted by hardly any pool.
    holder: Option<Box<Held>>,
}

impl Entry {
    /// A connection that was just made, in use by the caller.
    pub(in crate::pool) fn new(
        common: &Arc<Common>,
        conn: &mut Conn,
        slot: Slot,
        generation: u64,
    ) -> Arc<Self> {
        let mut stream = conn.stream_mut();
        let opened = stream.adopt(common.max_silence);
        let was_greeted = stream.was_read();
        // What the handshake has exchanged is nobody's use.
        stream.begin_use();
        let entry = Arc::new_cyclic(|entry: &Weak<Self>| Self {
            id: stream.id(),
            peer: common.peers.join(stream.peer_addr()),
            opened,
            expires: common.max_lifetime.map_or(Age::NEVER, |life| Age::of(jittered(life))),
            state: AtomicU8::new(State::InUse as u8),
            was_greeted,
            was_heard: AtomicBool::new(false),
            fired: AtomicBool::new(false),
            idle_since: AtomicAge::new(Age::ZERO),
            idle_limit: AtomicAge::new(Age::NEVER),
            home: Mutex::new(Home { conn: None, slot: Some(slot), holder: None }),
            sentinel: Waker::from(Arc::new(Sentinel(Weak::clone(entry)))),
            me: Weak::clone(entry),
            common: Arc::clone(common),
            // The handshake was heard.
            heard: AtomicAge::new(Age::ZERO),
            generation,
            link: Mutex::new(Arc::clone(stream.link())),
        });
        drop(stream);
        common.registry.add(&entry);
        conn.keep(|| Arc::new(Sentinel(Arc::downgrade(&entry))));
        entry
    }

    pub(in crate::pool) fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    fn change(&self, from: State, to: State) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Why it must not be used again though it lives, if so.
    fn outlived(&self, now: Age) -> Option<CloseReason> {
        if now >= self.expires {
            return Some(CloseReason::MaxLifetime);
        }
        self.retired()
    }

    /// Why it must not be used again though it lives, whoever has it.
    pub(in crate::pool) fn retired(&self) -> Option<CloseReason> {
        self.peer.retired().or_else(|| self.common.retired(self.generation))
    }

    /// Notes whether its user has read a byte: if it ends now, that is no sign of an upstream that
    /// wants none.
    pub(in crate::pool) fn note_use(&self, conn: &Conn) {
        if self.was_heard.load(Ordering::Relaxed) && !self.peer.is_on_trial() {
            return;
        }
        if conn.stream().was_read() {
            self.was_heard.store(true, Ordering::Release);
            if self.peer.is_on_trial() {
                self.common.peers.used_well(&self.peer);
            }
        }
    }

    /// An exchange of the pool's own is over, and the peer was heard.
    pub(in crate::pool) fn begin_anew(&self, conn: &mut Conn) -> Result<(), CloseReason> {
        self.prove(self.age());
        self.rest(conn)
    }

    /// Ends an exchange, unless something has been found wrong with the stream meanwhile: it may be
    /// in the hands of a task, too.
    fn rest(&self, conn: &mut Conn) -> Result<(), CloseReason> {
        let mut stream = conn.stream_mut();
        if let Some(reason) = stream.tainted() {
            return Err(reason);
        }
        if stream.rest() {
            *self.link() = Arc::clone(stream.link());
        }
        Ok(())
    }

    /// Ends the use of it: whatever its user does next fails with this reason. Returns whether it
    /// is in use.
    pub(in crate::pool) fn interrupt(&self, reason: CloseReason) -> bool {
        let link = Arc::clone(&self.link());
        self.is(State::InUse) && link.interrupt(reason)
    }

    fn link(&self) -> MutexGuard<'_, Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its age now.
    pub(in crate::pool) fn age(&self) -> Age {
        self.age_at(Instant::now())
    }

    pub(in crate::pool) fn age_at(&self, moment: Instant) -> Age {
        Age::of(moment.saturating_duration_since(self.opened))
    }

    /// The moment at which it was that old.
    pub(in crate::pool) fn moment(&self, age: Age) -> Instant {
        self.opened + age.duration()
    }

    /// Since when it has been idle. Meaningful only while it is.
    pub(in crate::pool) fn idle_since(&self) -> Age {
        self.idle_since.get()
    }

    /// For the time after its return.
    pub(in crate::pool) fn limit_idle(&self, limit: Option<Duration>) {
        self.idle_limit.set(limit.map_or(Age::NEVER, Age::of));
    }

    /// How long its peer lets it be idle.
    pub(in crate::pool) fn idle_limit(&self) -> Age {
        self.idle_limit.get()
    }

    pub(in crate::pool) fn opened(&self) -> Instant {
        self.opened
    }

    /// It was in quarantine, and is not any more.
    pub(in crate::pool) fn leaves_quarantine(&self) {
        self.common.suspects.uncount();
    }

    /// Whether its pool was closed.
    pub(in crate::pool) fn is_of_closed_pool(&self) -> bool {
        self.common.is_closed()
    }

    /// Closes an idle connection. False if it is not idle.
    pub(in crate::pool) fn evict(&self, reason: CloseReason) -> bool {
        let Some(conn) = self.take_idle() else { return false };
        self.close(conn, reason, None);
        true
    }

    /// The stream of an idle connection, for whoever closes it. Nobody else is given it.
    pub(in crate::pool) fn take_idle(&self) -> Option<Conn> {
        if !self.change(State::Idle, State::Checking) {
            return None;
        }
        self.home().conn.take()
    }

    /// Ends the connection. Only for whoever owns it. `used` is how long it was in use, if
    /// it comes straight from its user.
    pub(in crate::pool) fn close(&self, conn: Conn, reason: CloseReason, used: Option<Duration>) {
        if self.mark_closed() {
            let kept = conn.close(reason);
            self.finish(reason, used, kept);
        }
    }

    /// Lets the stream go on its own way, out of the pool.
    pub(in crate::pool) fn detach(&self, used: Duration) {
        if self.mark_closed() {
            self.finish(CloseReason::Detached, Some(used), None);
        }
    }

    fn mark_closed(&self) -> bool {
        self.state.swap(State::Closed as u8, Ordering::AcqRel) != State::Closed as u8
    }

    /// The registry forgets it, everybody learns why, and its slot is free: in this order, so that no
    /// observer hears of a successor first.
    ///
    /// Where the peer still works for it, its slot is kept by whoever asks it to stop.
    fn finish(&self, reason: CloseReason, used: Option<Duration>, kept: Option<Arc<Lingering>>) {
        let slot = self.home().slot.take();
        self.common.registry.remove(self.id);
        self.common.ended.store(true, Ordering::Release);
        self.common.emitter.emit(Event::Closed {
            conn: self.id,
            peer: self.peer.addr().clone(),
            reason,
            age: self.opened.elapsed(),
            used,
            code: self.link().code_for(reason),
        });
        if reason.is_silent_death() {
            self.common.peers.died(self.peer.addr());
            // Who was heard within a second was not asked by the kernel, and cannot have died before
            // this one.
            self.doubt_siblings(Instant::now().checked_sub(UNASKED));
        } else if reason.is_end_by_peer() && !self.was_heard.load(Ordering::Acquire) {
            self.common.peers.ended_unused(&self.peer, self.opened);
        }
        self.peer.end();
        match (kept, slot) {
            (Some(kept), Some(slot)) => kept.take_place(slot.ending()),
            (_, slot) => drop(slot),
        }
    }

    /// Something speaks against all connections to its peer that were not heard after this moment.
    /// They are asked at once, and nobody is handed one before.
    pub(in crate::pool) fn doubt_siblings(&self, moment: Option<Instant>) {
        if let Some(moment) = moment {
            self.peer.doubt(moment);
            self.common.has_doubts.store(true, Ordering::Release);
        }
        self.common.fired_queue.wake();
    }

    pub(in crate::pool) fn report_check(
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

impl Drop for Entry {
    /// The last handle is gone without anybody having closed the connection: the idle set itself was
    /// dropped.
    fn drop(&mut self) {
        if self.mark_closed() {
            let conn = self.home().conn.take();
            if let Some(conn) = conn {
                conn.close(CloseReason::PoolClosed);
            }
            self.finish(CloseReason::PoolClosed, None, None);
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("peer", self.peer.addr())
            .finish_non_exhaustive()
    }
}

/// A lifetime shortened by up to a quarter, so that connections made together do not end together.
pub(crate) fn jittered(lifetime: Duration) -> Duration {
    lifetime - lifetime.mul_f64(0.25 * fastrand::f64())
}
