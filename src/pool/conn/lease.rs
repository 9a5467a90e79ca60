//! [`Lease`]: a connection out of the idle set, on its way to its user, with it, or on its way back.

mod kept;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{CloseReason, ConnId};
use crate::liveness::Liveness;
use crate::net::PeerAddr;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, Listing};
use crate::pool::conn::erased::ErasedProtocol;
use crate::pool::health::silence::{evidence, is_proved_since};
use crate::pool::inner::PoolInner;
use crate::protocol::Verdict;
use crate::protocol::{Access, AccessMut, Conn};
use crate::stream::Ending;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

pub(in crate::pool) use kept::{ParkingKept, Settled};

/// The outcome of a return.
///
/// ```
/// use livepool::{CloseReason, Release};
///
/// # async fn f(pool: livepool::Pool) -> Result<(), livepool::CheckoutError> {
/// match pool.get().await?.release() {
///     Release::Reused | Release::Resetting => {}
///     Release::Discarded(CloseReason::Unfinished) => println!("an answer was not read to its end"),
///     Release::Discarded(reason) => println!("closed: {reason}"),
///     _ => {}
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// The connection is back in the pool, for the next caller.
    Reused,
    /// The protocol makes the connection fit for the next caller first, in the background.
    Resetting,
    /// The connection was not fit for that, for this reason, and was closed.
    Discarded(CloseReason),
}

/// A connection that is not in the idle set. Dropped, it goes back if it may.
pub(in crate::pool) struct Lease {
    /// Always there until one of the ways out has taken it.
    leased: Option<Leased>,
}

/// The connection of a lease, its user's claim on it, and its pool.
///
/// Fields are dropped in this order, whatever happens: the socket is closed, then the next caller
/// let in.
pub(in crate::pool) struct Leased {
    conn: Conn,
    /// The age of the connection when it was taken.
    since: Age,
    /// The place where the caller asked for it who got it. Until then nobody is told where it goes.
    taken_at: Option<&'static Location<'static>>,
    entry: Arc<Entry>,
    pool: Counted,
}

/// The pool of a lease, which counts them.
struct Counted(Arc<PoolInner>);

impl Drop for Counted {
    fn drop(&mut self) {
        // In one order with the flag: whoever closed the pool either sees the number, or is told.
        self.0.guards.fetch_sub(1, Ordering::SeqCst);
        if self.0.is_closed() {
            self.0.came_back.notify_waiters();
        }
    }
}

/// The message of a lease that was used after its end, which no path does.
const HELD: &str = "a lease has its connection until it ends";

impl Deref for Lease {
    type Target = Leased;

    fn deref(&self) -> &Leased {
        self.leased.as_ref().expect(HELD)
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Leased {
        self.leased.as_mut().expect(HELD)
    }
}

impl Lease {
    /// A connection on its way to a caller, taken at this age. Dropped before it gets there, it goes
    /// back.
    #[inline]
    pub(in crate::pool) fn new(
        pool: &Arc<PoolInner>,
        entry: Arc<Entry>,
        conn: Conn,
        since: Age,
    ) -> Self {
        // Before the look at whether the pool was closed, in every thread's eyes.
        pool.guards.fetch_add(1, Ordering::SeqCst);
        let pool = Counted(Arc::clone(pool));
        Self::of(Leased { conn, since, taken_at: None, entry, pool })
    }

    fn of(leased: Leased) -> Self {
        Self { leased: Some(leased) }
    }

    fn take(&mut self) -> Leased {
        self.leased.take().expect(HELD)
    }

    /// See [`Guard::invalidate`](crate::pool::Guard::invalidate).
    pub(in crate::pool) fn invalidate(&mut self) -> bool {
        let leased = self.take();
        let (pool, entry) = (Arc::clone(&leased.pool.0), Arc::clone(&leased.entry));
        let first = pool.invalidate_older_than(&entry);
        leased.throw_away(CloseReason::Invalidated);
        first
    }

    /// Takes the connection out of the pool.
    pub(in crate::pool) fn detach(&mut self) -> Conn {
        let Leased { mut conn, since, entry, pool, .. } = self.take();
        // Before the entry is closed: its events are its own from now on.
        conn.stream_mut().leave();
        pool.0.detach(&entry, entry.age().since(since));
        conn
    }

    /// The same, if it is not retired; else it is closed.
    pub(in crate::pool) fn unless_retired(mut self) -> Option<Self> {
        let Some(reason) = self.retired() else { return Some(self) };
        self.throw_away(reason);
        None
    }

    /// Closes it for this reason.
    pub(in crate::pool) fn throw_away(&mut self, reason: CloseReason) {
        self.take().throw_away(reason);
    }

    /// Has its peer asked before anybody is given it. Returns it where nobody can tell.
    pub(in crate::pool) fn ask(mut self) -> Option<Self> {
        let Leased { conn, since, taken_at, entry, pool } = self.take();
        let conn = pool.0.ask(&entry, conn).err()?;
        Some(Self::of(Leased { conn, since, taken_at, entry, pool }))
    }

    /// Gives it back: to the idle ones, to be reset, or to be closed. While its client's task has work
    /// to do, that is decided at the end of the task's poll.
    pub(in crate::pool) fn end(&mut self, ending: Ending) -> Release {
        if !self.conn.is_at_rest() && self.conn.stream().tainted().is_none() {
            return self.end_after_poll(ending);
        }
        self.end_now(ending)
    }

    /// Its task may be about to send what its user has left behind.
    #[inline(never)]
    fn end_after_poll(&mut self, ending: Ending) -> Release {
        let (rest, mut lease) = (self.conn.task(), Self::of(self.take()));
        let end = Box::new(move || {
            lease.end_now(ending);
        });
        if let Some(Err(end)) = rest.map(|rest| rest.after_poll(end)) {
            end();
        }
        Release::Resetting
    }

    #[inline(always)]
    fn end_now(&mut self, ending: Ending) -> Release {
        let leased = self.take();
        let (reuse, unfit) = leased.judge(ending);
        match (unfit, reuse) {
            (Some(reason), _) => leased.throw_away(reason),
            (None, Verdict::NeedsReset) => leased.wait_for_reset(),
            (None, _) => leased.give_back(),
        }
    }
}

impl Leased {
    /// Notes the caller who has it, and the place where that one asked for it.
    #[inline]
    pub(in crate::pool) fn claim(&mut self, taken_at: &'static Location<'static>) {
        self.taken_at = Some(taken_at);
        self.entry.note_taken(self.since, taken_at);
        let settings = self.pool.0.live();
        if settings.notes_holders() {
            self.entry.note_holder(self.since, taken_at);
        }
        if settings.limit_of_use().is_some() {
            self.conn.stream_mut().begin_operation();
            self.conn.wake_reader();
        }
    }

    /// Several callers are about to use it together. Each has its own time.
    pub(in crate::pool) fn begin_sharing(&mut self) {
        self.entry.note_shared();
        self.conn.stream_mut().set_read_timeout(None);
        self.conn.set_shared(true);
    }

    /// The last of them has gone.
    pub(in crate::pool) fn end_sharing(&self) {
        self.conn.set_shared(false);
    }

    /// Whether it is, or was, in somebody's hands.
    fn is_claimed(&self) -> bool {
        self.taken_at.is_some() || self.entry.is_used()
    }

    /// A hook was run over it for its user.
    pub(in crate::pool) fn note_prepared(&self) {
        self.entry.note_prepared();
    }

    /// The others are of no use either. This one stays where it is, and is closed when it comes
    /// back.
    pub(in crate::pool) fn condemn(&self) {
        self.pool.0.invalidate_older_than(&self.entry);
    }

    /// How long the connection had been idle when it was taken; `None` if it was just made.
    pub(in crate::pool) fn was_idle_for(&self) -> Option<Duration> {
        let idle_since = self.entry.idle_since();
        let used_before = idle_since > Age::ZERO;
        used_before.then(|| self.since.since(idle_since))
    }

    /// Begins the user's exchange after one of the pool's own, in which the peer was heard. The
    /// reason, if it is of no use now.
    pub(in crate::pool) fn begin_anew(&mut self) -> Result<(), CloseReason> {
        self.pool.0.prove(&self.entry, self.entry.age());
        self.entry.end_exchange(&mut self.conn)
    }

    /// Whether it was made, or its peer heard, after this moment.
    pub(in crate::pool) fn is_proved_since(&self, moment: Instant) -> bool {
        is_proved_since(&self.entry, &self.conn, moment)
    }

    /// Notes that a byte of an answer came, if so.
    pub(in crate::pool) fn note_use(&self) {
        self.pool.0.note_use(&self.entry, &self.conn);
    }

    /// Whether its handshake had an answer.
    pub(in crate::pool) fn was_greeted(&self) -> bool {
        self.entry.was_greeted
    }

    /// Why it must not be handed out any more, if so.
    pub(in crate::pool) fn retired(&self) -> Option<CloseReason> {
        self.entry.retired()
    }

    pub(in crate::pool) fn is_older_than(&self, moment: Instant) -> bool {
        self.entry.opened() < moment
    }

    pub(in crate::pool) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(in crate::pool) fn entry_arc(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }

    /// The age of the connection now.
    pub(in crate::pool) fn age(&self) -> Age {
        self.entry.age()
    }

    pub(in crate::pool) fn id(&self) -> ConnId {
        self.entry.id
    }

    pub(in crate::pool) fn peer_addr(&self) -> &PeerAddr {
        self.entry.peer.addr()
    }

    pub(in crate::pool) fn inner(&self) -> &Arc<PoolInner> {
        &self.pool.0
    }

    pub(in crate::pool) fn conn(&self) -> &Conn {
        &self.conn
    }

    pub(in crate::pool) fn conn_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }

    pub(in crate::pool) fn stream(&self) -> Access<'_> {
        self.conn.stream()
    }

    pub(in crate::pool) fn stream_mut(&mut self) -> AccessMut<'_> {
        self.conn.stream_mut()
    }

    /// What the stream and the protocol say of a connection that its user is done with: what has to be
    /// done, and the reason against reusing it, if there is one.
    #[inline(always)]
    fn judge(&self, ending: Ending) -> (Verdict, Option<CloseReason>) {
        let is_claimed = self.is_claimed();
        self.entry.end_use();
        let pool = &self.pool.0;
        pool.note_use(&self.entry, &self.conn);
        let (tainted, needs_reset) = {
            let stream = self.conn.stream();
            (stream.tainted(), stream.needs_reset())
        };
        let mut reuse = match &pool.protocol {
            // Its task is held up, or was woken again.
            Some(_) if !self.conn.is_at_rest() => Verdict::NeedsReset,
            Some(protocol) if is_claimed && tainted.is_none() => protocol.reuse(&self.conn),
            _ => Verdict::Keep,
        };
        if reuse == Verdict::Keep && needs_reset {
            reuse = Verdict::NeedsReset;
        }
        let mut unfit = self.unfit(reuse, ending);
        if let (Verdict::Keep, Some(CloseReason::Unfinished), Some(protocol)) =
            (reuse, unfit, &pool.protocol)
        {
            (reuse, unfit) = self.judge_again(&**protocol, ending);
        }
        if ending == Ending::Silent && unfit == Some(CloseReason::Unfinished) {
            self.warn_of_forgotten_release();
        }
        if reuse == Verdict::InvalidatePool {
            self.condemn();
        }
        let is_spoilt = reuse == Verdict::NeedsReset;
        // In the background, as a reset; only for what may be used again.
        if is_claimed && reuse == Verdict::Keep && pool.hooks.after_return.is_some() {
            reuse = Verdict::NeedsReset;
        }
        // Asked last: what is wrong with the connection says more.
        if unfit.is_none() {
            unfit = self.unwanted(reuse);
            if let (Some(reason), true) = (unfit, is_spoilt) {
                // No hook is run over what its user has left.
                self.conn.spoil(reason);
            }
        }
        (reuse, unfit)
    }

    /// The reason to close a connection with which nothing is wrong, but that it may have to be reset.
    #[inline(always)]
    fn unwanted(&self, reuse: Verdict) -> Option<CloseReason> {
        if self.pool.0.is_closed() {
            return Some(CloseReason::PoolClosed);
        }
        // A reset would be for nobody. What still runs is stopped.
        let is_reset = reuse == Verdict::NeedsReset;
        let reason = is_reset.then(|| self.entry.outlived(self.entry.age())).flatten()?;
        Some(if self.conn.stream().is_owed() { CloseReason::Unfinished } else { reason })
    }

    /// The reason against reusing the connection, if its protocol says this about it.
    #[inline(always)]
    fn unfit(&self, reuse: Verdict, ending: Ending) -> Option<CloseReason> {
        let stream = self.conn.stream();
        match reuse {
            Verdict::Keep => stream.unfit(ending),
            Verdict::NeedsReset => stream.tainted(),
            verdict => stream.tainted().or_else(|| {
                verdict.reason(match stream.is_owed() {
                    true => CloseReason::Unfinished,
                    false => CloseReason::NotReusable,
                })
            }),
        }
    }

    /// Asks the protocol again: code that outlives the user may have asked the server for something
    /// since the first answer, and the protocol says what becomes of a connection on which that is
    /// owed.
    #[cold]
    fn judge_again(
        &self,
        protocol: &dyn ErasedProtocol,
        ending: Ending,
    ) -> (Verdict, Option<CloseReason>) {
        let reuse = protocol.reuse(&self.conn);
        (reuse, self.unfit(reuse, ending))
    }

    /// Says once for each pool that a connection whose exchange looks complete was dropped without a
    /// word, and so is closed every time.
    #[cold]
    fn warn_of_forgotten_release(&self) {
        let Some(taken_at) = self.taken_at else { return };
        let inner = &self.pool.0;
        let looks_complete = inner.protocol.is_none() && self.conn.stream().looks_answered();
        if looks_complete && !inner.has_warned.swap(true, Ordering::Relaxed) {
            inner.emitter().warn_of_forgotten_release(self.entry.id, taken_at);
        }
    }

    /// Closes the connection, which frees its slot.
    fn throw_away(self, reason: CloseReason) -> Release {
        let used = self.taken_at.is_some().then(|| self.entry.age().since(self.since));
        let Self { pool: counted, entry, conn, .. } = self;
        let pool = &counted.0;
        // Before its slot is free: whoever comes next is not to meet the same.
        if let Some(moment) = evidence(&entry, &conn, reason) {
            pool.doubt_siblings(&entry, Some(moment));
        }
        pool.finish(&entry, conn, reason, used);
        // Nobody else keeps them up to date any more. Not each time: it is a look at all that are
        // left.
        let left = pool.guards();
        if pool.is_closed() && (left <= 1 || left % 64 == 0) {
            pool.refresh_gauges();
        }
        Release::Discarded(reason)
    }

    /// Puts the connection into the idle set, or rather into the hands of the first caller in the queue.
    #[inline(always)]
    fn give_back(self) -> Release {
        let now = self.entry.age();
        self.note_end_of_use();
        let pool = &self.pool.0;
        // A paused pool keeps its callers waiting.
        let is_wanted = !pool.wait_queue.is_empty() && !pool.is_stopped();
        if is_wanted && pool.silence(&self.entry, &self.conn, now).is_none() {
            return self.pass_on(now);
        }
        if let Some(reason) = pool.unwanted(&self.entry, now) {
            return self.throw_away(reason);
        }
        let Self { pool, entry, since, taken_at, conn } = self;
        entry.note_given_back();
        if pool.0.live().notes_holders() {
            entry.forget_holder();
        }
        if let Err((conn, reason)) = entry.park(conn, now) {
            return Self { conn, since, taken_at, entry, pool }.throw_away(reason);
        }
        if taken_at.is_some() {
            pool.0.emitter().returned(entry.id, now.since(since));
        }
        pool.0.publish(&entry, Listing::Lost);
        Release::Reused
    }

    /// Notes what the use of it has shown of its peer.
    #[inline(always)]
    fn note_end_of_use(&self) {
        let pool = &self.pool.0;
        if let Some(protocol) = &pool.protocol {
            self.entry.limit_idle(protocol.idle_limit(&self.conn));
        }
        // A user who read has heard it, at the earliest at the beginning; when exactly would cost a
        // clock per read.
        if self.conn.stream().was_read() {
            pool.prove(&self.entry, self.since);
        }
    }

    /// Straight to the first caller in the queue. The connection passes the checks that it would
    /// pass among the idle ones.
    fn pass_on(mut self, now: Age) -> Release {
        if let Err(reason) = self.refit(now) {
            return self.throw_away(reason);
        }
        let pool = Arc::clone(&self.pool.0);
        self.entry.note_given_back();
        if pool.live().notes_holders() {
            self.entry.forget_holder();
        }
        if self.taken_at.take().is_some() {
            pool.emitter().returned(self.entry.id, now.since(self.since));
        }
        pool.report_alive(&self.entry);
        // The next user was not there before.
        self.since = now;
        pool.hand_over(Lease::of(self));
        Release::Reused
    }

    /// Makes it ready for its next user at once, or says why it is not fit. The checks are those of
    /// an idle one. No sentinel is left in it: nobody else would look at it meanwhile.
    #[inline(always)]
    fn refit(&mut self, now: Age) -> Result<(), CloseReason> {
        let Self { conn, entry, pool, .. } = self;
        conn.set_idle(true);
        entry.end_exchange(conn)?;
        entry.skip_idle(now);
        if let Some(reason) = pool.0.unwanted(entry, now).or_else(|| entry.idle_too_long(now)) {
            return Err(reason);
        }
        // As if its sentinel had fired, since it has none: the runtime may have ended.
        if let Liveness::Dead(reason) = conn.check(true) {
            return Err(reason);
        }
        conn.set_idle(false);
        Ok(())
    }

    /// Leaves the connection to be reset: its user is done with it, its protocol is not.
    fn wait_for_reset(mut self) -> Release {
        let pool = Arc::clone(&self.pool.0);
        self.entry.note_given_back();
        self.conn.stream_mut().lift_limits();
        self.conn.wake_reader();
        if self.taken_at.take().is_some() {
            pool.emitter().returned(self.entry.id, self.entry.age().since(self.since));
        }
        self.entry.set_resetting(true);
        pool.resets.add(Lease::of(self));
        // The dialer starts the reset.
        pool.slots.announce();
        Release::Resetting
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(leased) = &mut self.leased else { return };
        // Of its user; one that is on its way to somebody else has no part in that.
        // What several use is used through shared references: a panic of one leaves it whole.
        if std::thread::panicking() && leased.taken_at.is_some() {
            leased.conn.stream_mut().taint(CloseReason::Panicked);
        }
        self.end(Ending::Silent);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conn = self.leased.as_ref().map(|leased| &leased.conn);
        f.debug_struct("Lease").field("conn", &conn).finish()
    }
}
