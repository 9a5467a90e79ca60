//! [`Entry`]: what the pool knows about one connection, and the state that says who may touch it.
//!
//! An entry acts on nothing but itself: its methods say what was found, and the pool does what follows
//! from it.

use std::fmt;
use std::panic::Location;
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Holder;
use crate::event::{CloseReason, ConnId, Event};
use crate::liveness::Parked;
use crate::pool::conn::age::{self, Age, AtomicAge};
use crate::pool::conn::generation::PoolGeneration;
use crate::pool::dial::peers::Membership;
use crate::pool::dial::slots::Slot;
use crate::pool::health::fired;
use crate::protocol::{Conn, Keeper};
use crate::stream::Link;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use crate::sys::place::AtomicPlace;
use crate::telemetry::Span;

const SHARERS: u8 = 1;
const HOOK: u8 = 1 << 1;

/// Connections whose sentinel has fired. The queue keeps no connection alive.
pub(in crate::pool) type FiredEntries = fired::FiredQueue<Weak<Entry>>;

/// State of a connection: the right to touch it. The thread that made a [transition](TRANSITIONS)
/// into a state owns the stream until the next one; in `Idle` no thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::pool) enum State {
    /// Held by a guard, or on its way to one.
    InUse,
    /// On its way back: its waker is being parked.
    Parking,
    /// Waiting for a user, its stream at home.
    Idle,
    /// Being looked at by the maintenance task, or silent and being asked; the idle set has its
    /// handle.
    Checking,
    /// As `Checking`, and its handle is not in the idle set any more: it is put back when the check
    /// is over.
    Unlisted,
    /// Ended. The thread that made this transition emits the one close event.
    Closed,
}

use State::{Checking, Closed, Idle, InUse, Parking, Unlisted};

/// Every transition there is, but the one to `Closed`, which leads from everywhere, once.
#[rustfmt::skip]
pub(in crate::pool) const TRANSITIONS: [(State, State); 10] = [
    // A caller takes it.                                       (claim)
    (Idle, InUse),
    // Its user gives it back, and nothing speaks against it.   (park)
    (InUse, Parking),
    (Parking, Idle),
    // It was not fit to wait: whoever gave it back closes it.
    (Parking, InUse),
    // Maintenance looks at it, or somebody closes it.          (start_check)
    (Idle, Checking),
    // The check is over.                                       (end_check)
    (Checking, Idle),
    (Unlisted, Idle),
    // A caller has met it during a check and dropped its handle.
    (Checking, Unlisted),
    // A caller has taken it, and its peer has to be asked first. (unlist)
    (InUse, Unlisted),
    // The same, of one that is in no idle set: its owner asks. (ask_for_owner)
    (InUse, Checking),
];

/// A connection and all that the pool knows of it.
///
/// In this order, what a look at all idle connections reads is together: of ten thousand, each piece
/// comes from memory.
#[repr(C)]
pub(in crate::pool) struct Entry {
    opened: Instant,
    /// The end of its lifetime, jitter included.
    expires: AtomicAge,
    /// The moment of its last return.
    idle_since: AtomicAge,
    /// The last moment at which its peer is known to have been heard.
    heard: AtomicAge,
    state: AtomicU8,
    /// A byte was read from it since it was opened.
    was_heard: AtomicBool,
    /// The sentinel has fired, and nobody has looked since.
    fired: AtomicBool,
    /// [`SHARERS`]: several callers use it, each of whom is told of, and not the lease that they hold
    /// together. [`HOOK`]: a hook has used it for its user, and what it left behind is looked at as his.
    used_by: AtomicU8,
    /// How much of the longest life it does not have, above 0 and at most a quarter: so that those made
    /// together do not end together.
    early: f64,
    /// Nobody has it, and its protocol makes it fit for the next one.
    resetting: AtomicBool,
    /// How long its peer lets it be idle; [`Age::NEVER`] where it did not say.
    idle_limit: AtomicAge,
    /// The pool's generation when its dial began.
    generation: u64,
    /// Since when its caller has it: of use only while there is a place.
    taken: AtomicAge,
    /// The place where its caller asked for it, while it has one.
    taken_at: AtomicPlace,
    /// The pool's generation now.
    pool_generation: Arc<PoolGeneration>,
    pub(in crate::pool) peer: Membership,
    pub(in crate::pool) id: ConnId,
    /// The handshake had an answer.
    pub(in crate::pool) was_greeted: bool,
    /// Things are only moved in and out under this lock; nothing is dropped, read or called.
    home: Mutex<Home>,
    sentinel: Waker,
    /// The way to whoever uses the stream. Set and read under this lock, nothing else.
    link: Mutex<Arc<Link>>,
}

/// Parts of a connection that its entry keeps while nobody uses it.
#[derive(Debug, Default)]
struct Home {
    conn: Option<Conn>,
    slot: Option<Slot>,
    /// Boxed: noted by hardly any pool.
    holder: Option<Box<HolderNote>>,
}

/// Who has a connection.
#[derive(Debug)]
struct HolderNote {
    since: Age,
    taken_at: &'static Location<'static>,
    /// What its caller was doing.
    span: Arc<Span>,
    reported: bool,
}

/// Parts of a new entry, besides its connection.
pub(in crate::pool) struct Parts<'a> {
    pub(in crate::pool) slot: Slot,
    pub(in crate::pool) peer: Membership,
    /// The pool's generation when the dial began.
    pub(in crate::pool) generation: u64,
    pub(in crate::pool) pool_generation: &'a Arc<PoolGeneration>,
    pub(in crate::pool) fired_queue: &'a Arc<FiredEntries>,
}

/// Whether a connection that is idle again needs a place in the idle set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Listing {
    /// The idle set still has the handle.
    Kept,
    /// The handle was taken out of the idle set.
    Lost,
}

/// Who has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Held {
    Idle,
    /// A caller, or it is on the way to or from one.
    InUse,
    /// Several callers.
    Shared,
    /// Its protocol, which makes it fit for the next caller.
    Resetting,
    /// The maintenance task: mostly because its peer is silent.
    Checked,
    Closed,
}

impl Entry {
    /// The entry of a connection that was just made, in use by the caller.
    pub(in crate::pool) fn new(conn: &mut Conn, parts: Parts<'_>) -> Arc<Self> {
        let mut stream = conn.stream_mut();
        let opened = stream.adopt();
        let was_greeted = stream.was_read();
        // What the handshake has exchanged is nobody's use.
        stream.begin_use();
        // Cyclic, since the waker in the stream finds the entry again.
        let entry = Arc::new_cyclic(|entry: &Weak<Self>| {
            let fired_queue = Arc::clone(parts.fired_queue);
            Self {
                id: stream.id(),
                peer: parts.peer,
                opened,
                // Until its life is limited: see `limit_life`.
                expires: AtomicAge::new(Age::NEVER),
                early: 0.25 * fastrand::f64(),
                state: AtomicU8::new(InUse as u8),
                was_greeted,
                was_heard: AtomicBool::new(false),
                fired: AtomicBool::new(false),
                used_by: AtomicU8::new(0),
                resetting: AtomicBool::new(false),
                idle_since: AtomicAge::new(Age::ZERO),
                idle_limit: AtomicAge::new(Age::NEVER),
                home: Mutex::new(Home { conn: None, slot: Some(parts.slot), holder: None }),
                sentinel: Waker::from(Arc::new(Sentinel {
                    entry: Weak::clone(entry),
                    fired_queue,
                })),
                // The handshake was heard.
                heard: AtomicAge::new(Age::ZERO),
                generation: parts.generation,
                taken: AtomicAge::new(Age::ZERO),
                taken_at: AtomicPlace::none(),
                pool_generation: Arc::clone(parts.pool_generation),
                link: Mutex::new(Arc::clone(stream.link())),
            }
        });
        drop(stream);
        conn.keep(|| {
            let fired_queue = Arc::clone(parts.fired_queue);
            Arc::new(Sentinel { entry: Arc::downgrade(&entry), fired_queue })
        });
        entry
    }

    pub(in crate::pool) fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    /// Who has it now.
    pub(in crate::pool) fn held(&self) -> Held {
        match self.state.load(Ordering::Acquire) {
            state if state == Idle as u8 => Held::Idle,
            state if state == Closed as u8 => Held::Closed,
            state if state == Checking as u8 || state == Unlisted as u8 => Held::Checked,
            _ if self.is_resetting() => Held::Resetting,
            _ if self.is_shared() => Held::Shared,
            _ => Held::InUse,
        }
    }

    /// Makes this transition, if the state is still that one. Returns whether it was.
    #[inline(always)]
    fn transition(&self, from: State, to: State) -> bool {
        debug_assert!(TRANSITIONS.contains(&(from, to)), "{from:?} does not lead to {to:?}");
        // SeqCst and not AcqRel: `publish` looks at the flag of the pool after this, `close` at the
        // state after the flag, and one of them has to see the other.
        let (from, to) = (from as u8, to as u8);
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Acquire).is_ok()
    }

    /// Makes this transition out of a state that only its owner leaves. To be called by its owner.
    #[inline(always)]
    fn advance(&self, from: State, to: State) {
        debug_assert!(TRANSITIONS.contains(&(from, to)), "{from:?} does not lead to {to:?}");
        debug_assert!(self.is(from), "it is not {from:?}");
        let order = match to {
            // Before the look at whether the pool was closed, in every thread's eyes.
            Idle => Ordering::SeqCst,
            _ => Ordering::Release,
        };
        self.state.store(to as u8, order);
    }

    /// Ends the connection. For whoever has its stream, which is taken once: so this is done once.
    pub(in crate::pool) fn mark_closed(&self) {
        debug_assert!(!self.is(Closed), "it has ended before");
        self.state.store(Closed as u8, Ordering::Release);
    }

    /// Takes an idle connection for a caller: its stream, and whether its sentinel has fired since
    /// it was parked. Returns `None` where the connection is closed, in use, or being checked; in
    /// the last case it is listed again when the check is over.
    #[inline(always)]
    pub(in crate::pool) fn claim(&self) -> Option<(Conn, bool)> {
        while !self.transition(Idle, InUse) {
            if self.transition(Checking, Unlisted) {
                return None;
            }
            // Only a check that ended just now leaves one that can be claimed. Read once: checks may
            // begin and end between two readings, and its handle would be lost.
            let state = self.state.load(Ordering::Acquire);
            if state != Idle as u8 && state != Checking as u8 {
                return None;
            }
        }
        // Loaded first, since a store would cost every checkout a cache line that it need not
        // write.
        let has_fired = self.fired.load(Ordering::Acquire);
        if has_fired {
            self.fired.store(false, Ordering::Release);
        }
        Some((self.home().conn.take()?, has_fired))
    }

    /// Takes the stream of an idle connection, to look at it or to close it. No other thread is
    /// given it.
    pub(in crate::pool) fn start_check(&self) -> Option<Conn> {
        if !self.transition(Idle, Checking) {
            return None;
        }
        self.home().conn.take()
    }

    /// As [`start_check`](Self::start_check), because of what its sentinel saw.
    pub(in crate::pool) fn start_check_of_fired(&self) -> Option<Conn> {
        let conn = self.start_check()?;
        // Cleared before the look and not after: what fires during the look is not forgotten.
        self.fired.store(false, Ordering::Release);
        Some(conn)
    }

    /// Makes a connection idle again whose check is over.
    pub(in crate::pool) fn end_check(&self, conn: Conn) -> Listing {
        // Home before the state says so: whoever sees `Idle` finds the stream.
        self.home().conn = Some(conn);
        if self.transition(Checking, Idle) {
            return Listing::Kept;
        }
        self.advance(Unlisted, Idle);
        Listing::Lost
    }

    /// From now on it is checked, though a caller has just taken it and dropped its handle. Only for
    /// whoever has its stream.
    pub(in crate::pool) fn unlist(&self) {
        self.advance(InUse, Unlisted);
    }

    /// As [`claim`](Self::claim), for the one owner of a connection that is in no idle set. While it is
    /// being checked it stays where it is.
    pub(in crate::pool) fn claim_for_owner(&self) -> Option<(Conn, bool)> {
        if !self.transition(Idle, InUse) {
            return None;
        }
        let has_fired = self.fired.swap(false, Ordering::AcqRel);
        Some((self.home().conn.take()?, has_fired))
    }

    /// From now on it is checked. Only for the one owner of a connection that is in no idle set, and
    /// that was claimed.
    pub(in crate::pool) fn ask_for_owner(&self) {
        self.advance(InUse, Checking);
    }

    /// Begins to park a connection that its owner may claim at the same time. Returns whether nobody
    /// has begun before.
    pub(in crate::pool) fn begin_parking(&self) -> bool {
        self.transition(InUse, Parking)
    }

    /// Ends what was [begun](Self::begin_parking): it is not parked, and as before.
    pub(in crate::pool) fn stop_parking(&self) {
        self.advance(Parking, InUse);
    }

    /// Parks a connection that its user has given back: leaves the sentinel in its stream and makes it
    /// idle. Returns its stream, and why, if it is not fit to wait.
    pub(in crate::pool) fn park(
        &self,
        mut conn: Conn,
        now: Age,
    ) -> Result<(), (Conn, CloseReason)> {
        // From here on the sentinel counts.
        self.advance(InUse, Parking);
        // Told before the peek: what comes from now on is judged by the protocol.
        conn.set_idle(true);
        if let Err(reason) = self.leave_sentinel(&conn).and_then(|()| self.end_exchange(&mut conn))
        {
            self.advance(Parking, InUse);
            return Err((conn, reason));
        }
        self.go_home(conn, now);
        Ok(())
    }

    /// As [`park`](Self::park), where parking has [begun](Self::begin_parking), which it still has
    /// where the stream is not fit to wait.
    pub(in crate::pool) fn park_begun(
        &self,
        mut conn: Conn,
        now: Age,
    ) -> Result<(), (Conn, CloseReason)> {
        conn.set_idle(true);
        if let Err(reason) = self.leave_sentinel(&conn).and_then(|()| self.end_exchange(&mut conn))
        {
            return Err((conn, reason));
        }
        self.go_home(conn, now);
        Ok(())
    }

    #[inline(always)]
    fn go_home(&self, conn: Conn, now: Age) {
        self.idle_since.set(now);
        self.home().conn = Some(conn);
        self.advance(Parking, Idle);
    }

    /// Looks at the socket and, if that is fit to wait, leaves the waker in its reader slot; of a client its
    /// bell. This look is the one that finds a FIN.
    pub(in crate::pool) fn leave_sentinel(&self, conn: &Conn) -> Result<(), CloseReason> {
        match conn.park(&self.sentinel) {
            Parked::Unfit(reason) => return Err(reason),
            Parked::Waiting => {}
            // Whoever publishes it has it looked at.
            Parked::Restless => self.fired.store(true, Ordering::Release),
        }
        Ok(())
    }

    /// Whether its sentinel has fired and nobody has looked since.
    pub(in crate::pool) fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Several callers use it from now on. For whoever has its stream.
    pub(in crate::pool) fn note_shared(&self) {
        self.used_by.fetch_or(SHARERS, Ordering::Relaxed);
    }

    /// A hook has used it for its user. For whoever has its stream.
    pub(in crate::pool) fn note_prepared(&self) {
        self.used_by.fetch_or(HOOK, Ordering::Relaxed);
    }

    /// Nobody uses it any more. For whoever has its stream.
    pub(in crate::pool) fn end_use(&self) {
        if self.used_by.load(Ordering::Relaxed) != 0 {
            self.used_by.store(0, Ordering::Relaxed);
        }
    }

    pub(in crate::pool) fn is_shared(&self) -> bool {
        self.used_by.load(Ordering::Relaxed) & SHARERS != 0
    }

    /// Whether several callers use it, or a hook has.
    pub(in crate::pool) fn is_used(&self) -> bool {
        self.used_by.load(Ordering::Relaxed) != 0
    }

    /// For whoever has its stream.
    pub(in crate::pool) fn set_resetting(&self, is_resetting: bool) {
        self.resetting.store(is_resetting, Ordering::Relaxed);
    }

    fn is_resetting(&self) -> bool {
        self.resetting.load(Ordering::Relaxed)
    }

    /// Notes that it goes to its next user without having been idle.
    #[inline]
    pub(in crate::pool) fn skip_idle(&self, now: Age) {
        self.idle_since.set(now);
    }

    /// Ends an exchange, unless something has been found wrong with the stream meanwhile: it may be
    /// in the hands of a task, too.
    pub(in crate::pool) fn end_exchange(&self, conn: &mut Conn) -> Result<(), CloseReason> {
        let mut stream = conn.stream_mut();
        if let Some(reason) = stream.tainted() {
            return Err(reason);
        }
        // Where the exchange ended for good, the stream has a new handle: the old user keeps a dead
        // one.
        if stream.rest() {
            *self.link() = Arc::clone(stream.link());
        }
        Ok(())
    }

    /// Ends the use of it: whatever its user does next fails with this reason. Returns whether it
    /// is in use.
    pub(in crate::pool) fn interrupt(&self, reason: CloseReason) -> bool {
        // Cloned, since interrupting wakes tasks, which must not happen under the lock.
        let link = Arc::clone(&self.link());
        self.is(InUse) && link.interrupt(reason)
    }

    /// Has an operation of its user that waits look at the settings again.
    pub(in crate::pool) fn look_again(&self) {
        // Cloned, as above.
        let link = Arc::clone(&self.link());
        link.wake_tasks();
    }

    /// The code that the peer or the server gave, when the connection ended for this reason.
    pub(in crate::pool) fn close_code(&self, reason: CloseReason) -> Option<Arc<str>> {
        self.link().code_for(reason)
    }

    /// The right to exist, for whoever has ended it.
    pub(in crate::pool) fn take_slot(&self) -> Option<Slot> {
        self.home().slot.take()
    }

    // What is known of it.

    /// Why it must not be used again though it lives, whoever has it.
    #[inline]
    pub(in crate::pool) fn retired(&self) -> Option<CloseReason> {
        self.peer.retired().or_else(|| self.pool_generation.retired(self.generation))
    }

    /// Why it must not be used any longer though it lives: it is too old, or was retired.
    #[inline]
    pub(in crate::pool) fn outlived(&self, now: Age) -> Option<CloseReason> {
        if now >= self.expires.get() {
            return Some(CloseReason::MaxLifetime);
        }
        self.retired()
    }

    /// Why it must not be handed out after it was idle for so long, if so: its peer does not let it.
    #[inline]
    pub(in crate::pool) fn idle_too_long(&self, now: Age) -> Option<CloseReason> {
        age::due(now, self.idle_since(), Age::NEVER, self.idle_limit.get())
    }

    /// Why it must not stay idle, if so: it is too old, or was idle for too long. `own` is how long the
    /// pool lets it be idle.
    pub(in crate::pool) fn due(&self, now: Age, own: Option<Duration>) -> Option<CloseReason> {
        let limit = own.map_or(Age::NEVER, Age::of).min(self.idle_limit.get());
        age::due(now, self.idle_since(), self.expires.get(), limit)
    }

    /// From now on it lives this long at most, since it was opened. The same part of it is left out each
    /// time.
    pub(in crate::pool) fn limit_life(&self, longest: Option<Duration>) {
        let life = longest.map(|life| life - life.mul_f64(self.early));
        self.expires.replace(life.map_or(Age::NEVER, Age::of));
    }

    /// Ends the generation it was made in. True for the first one who does.
    pub(in crate::pool) fn end_generation(&self, why: CloseReason) -> bool {
        self.pool_generation.end_of(self.generation, why)
    }

    /// Notes that its user has read a byte, if so. Returns whether that is the first one.
    pub(in crate::pool) fn note_use(&self, conn: &Conn) -> bool {
        let was_heard = self.was_heard.load(Ordering::Relaxed);
        if (was_heard && !self.peer.is_on_trial()) || !conn.stream().was_read() {
            return false;
        }
        self.was_heard.store(true, Ordering::Release);
        true
    }

    /// Whether a byte was read from it since it was opened.
    pub(in crate::pool) fn was_heard(&self) -> bool {
        self.was_heard.load(Ordering::Acquire)
    }

    /// The last moment at which its peer is known to have been heard.
    #[inline]
    pub(in crate::pool) fn heard(&self) -> Age {
        self.heard.get()
    }

    /// Notes that its peer was heard then, or, where nobody can tell, is taken to be.
    pub(in crate::pool) fn note_heard(&self, moment: Age) {
        self.heard.raise(moment);
    }

    /// How long ago its peer was last proved alive.
    pub(in crate::pool) fn unheard_for(&self, now: Age) -> Duration {
        now.since(self.heard())
    }

    /// The connection's age now.
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

    /// Notes how long its peer lets it be idle after its return.
    pub(in crate::pool) fn limit_idle(&self, limit: Option<Duration>) {
        self.idle_limit.set(limit.map_or(Age::NEVER, Age::of));
    }

    pub(in crate::pool) fn opened(&self) -> Instant {
        self.opened
    }

    /// Notes that a caller has it, since when, and where it asked. Two stores: a checkout pays no more for
    /// being seen.
    #[inline]
    pub(in crate::pool) fn note_taken(&self, since: Age, taken_at: &'static Location<'static>) {
        // First, so that whoever sees the place sees no older time.
        self.taken.set(since);
        self.taken_at.set(taken_at);
    }

    /// Notes that no caller has it any more.
    #[inline]
    pub(in crate::pool) fn note_given_back(&self) {
        self.taken_at.clear();
    }

    /// Since when a caller has it, and where it asked, if one has. Between the two of a return and a
    /// checkout the time may be the newer one's and the place the older one's.
    pub(in crate::pool) fn taken(&self) -> Option<(Age, &'static Location<'static>)> {
        let taken_at = self.taken_at.get()?;
        self.is(InUse).then(|| (self.taken.get(), taken_at))
    }

    // What its caller was doing: noted only if `hold_warning` is set.

    /// Notes who has it from now on.
    pub(in crate::pool) fn note_holder(&self, since: Age, taken_at: &'static Location<'static>) {
        let span = Arc::new(Span::current());
        let note = HolderNote { since, taken_at, span, reported: false };
        let last = self.home().holder.replace(Box::new(note));
        drop(last);
    }

    /// Notes that nobody has it any more.
    pub(in crate::pool) fn forget_holder(&self) {
        let last = self.home().holder.take();
        drop(last);
    }

    /// Who has it, if that is noted.
    pub(in crate::pool) fn holder(&self, now: Instant) -> Option<Holder> {
        let home = self.home();
        let note = home.holder.as_deref().filter(|note| self.is_of_holder(note))?;
        let held = self.age_at(now).since(note.since);
        Some(Holder { conn: self.id, held, taken_at: note.taken_at })
    }

    /// The name of the span its caller is in, if that is noted.
    pub(in crate::pool) fn span_name(&self) -> Option<&'static str> {
        let home = self.home();
        home.holder.as_deref().filter(|note| self.is_of_holder(note))?.span.name()
    }

    /// The event to report if the connection was held for longer than `limit`, and the span of its
    /// caller. Once per checkout.
    pub(in crate::pool) fn held_too_long(
        &self,
        now: Instant,
        limit: Duration,
    ) -> Option<(Event, Arc<Span>)> {
        let mut home = self.home();
        let note = home.holder.as_mut().filter(|note| self.is_of_holder(note))?;
        let held = self.age_at(now).since(note.since);
        if note.reported || held < limit {
            return None;
        }
        note.reported = true;
        let (conn, peer, taken_at) = (self.id, self.peer.addr().clone(), note.taken_at);
        Some((Event::HeldTooLong { conn, peer, held, taken_at }, Arc::clone(&note.span)))
    }

    /// Whether a note is about whoever has it now, or had it last. One may have stayed of a caller before
    /// that, if holders were not noted for a while.
    fn is_of_holder(&self, note: &HolderNote) -> bool {
        let taken_at = self.taken_at.get();
        note.since == self.taken.get() && taken_at.is_none_or(|taken_at| taken_at == note.taken_at)
    }

    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only where a panic has torn the connection out of its owner's hands: its socket and its slot
        // are free by themselves, its peer has to be told.
        if !self.is(Closed) {
            self.peer.end();
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

/// The waker parked in an idle stream. A client's stream has its bell there, which tells this one. The
/// sentinel holds the connection weakly: the stream holds the waker, and the connection holds the
/// stream.
struct Sentinel {
    entry: Weak<Entry>,
    fired_queue: Arc<FiredEntries>,
}

impl Wake for Sentinel {
    fn wake(self: Arc<Self>) {
        self.stirred();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stirred();
    }
}

impl Keeper for Sentinel {
    fn stirred(&self) {
        let Some(entry) = self.entry.upgrade() else { return };
        // In use: a waker left in the slot fires on the user's own answers.
        if entry.is(InUse) || entry.is(Closed) {
            return;
        }
        // Once until somebody looks: a socket that keeps stirring fills no queue.
        if !entry.fired.swap(true, Ordering::AcqRel) {
            self.fired_queue.push(Weak::clone(&self.entry));
        }
    }

    fn condemned(&self) {
        if let Some(entry) = self.entry.upgrade() {
            entry.end_generation(CloseReason::Invalidated);
            self.fired_queue.wake();
        }
    }
}
