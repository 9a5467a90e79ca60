//! [`Lease`]: a connection out of the idle set, on its way to its user, with it, or on its way back.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{CloseReason, ConnId};
use crate::net::PeerAddr;
use crate::pool::PoolInner;
use crate::pool::acquire::idle_set::Taken;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::Entry;
use crate::pool::conn::erased::ErasedProtocol;
use crate::protocol::Reuse;
use crate::stream::{Access, AccessMut, Conn, Ending};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// What became of a connection that its user gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// It is back in the pool, for the next caller.
    Reused,
    /// Its protocol makes it fit for the next caller first, in the background.
    Resetting,
    /// It was not fit for that, for this reason, and was closed.
    Discarded(CloseReason),
}

/// A connection that is not in the idle set. Dropped, it goes back if it may.
pub(in crate::pool) struct Lease {
    /// Always there until one of the ways out has taken it.
    held: Option<Held>,
}

/// Fields are dropped in this order, whatever happens: the socket is closed, then the next caller
/// let in.
struct Held {
    conn: Conn,
    /// The age of the connection when it was taken.
    since: Age,
    /// Where the caller asked for it who got it. Until then nobody is told where it goes.
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

impl Lease {
    /// A connection on its way to a caller. Dropped before it gets there, it goes back.
    pub(in crate::pool) fn new(pool: &Arc<PoolInner>, taken: Taken) -> Self {
        // Before the look at whether the pool was closed, in every thread's eyes.
        pool.guards.fetch_add(1, Ordering::SeqCst);
        let pool = Counted(Arc::clone(pool));
        let Taken { entry, conn, since } = taken;
        Self { held: Some(Held { conn, since, taken_at: None, entry, pool }) }
    }

    /// A caller has it, and asked for it there.
    pub(in crate::pool) fn claim(&mut self, taken_at: &'static Location<'static>) {
        if let Some(held) = &mut self.held {
            held.taken_at = Some(taken_at);
            held.entry.taken_by(held.since, taken_at);
            if held.pool.0.settings().timeouts.operation.is_some() {
                held.conn.stream_mut().begin_operation();
                held.conn.wake_reader();
            }
        }
    }

    /// See [`Guard::invalidate`](crate::pool::Guard::invalidate).
    pub(in crate::pool) fn invalidate(&mut self) -> bool {
        let held = self.take();
        let (inner, entry) = (Arc::clone(&held.pool.0), Arc::clone(&held.entry));
        let first = inner.invalidate_older_than(&entry);
        held.throw_away(CloseReason::Invalidated);
        first
    }

    /// The others are of no use either. It stays where it is, and is closed when it comes back.
    pub(in crate::pool) fn condemn(&self) {
        let Held { pool, entry, .. } = self.held();
        pool.0.invalidate_older_than(entry);
    }

    /// Takes the connection out of the pool.
    pub(in crate::pool) fn detach(&mut self) -> Conn {
        let Held { mut conn, since, entry, .. } = self.take();
        conn.stream_mut().leave();
        entry.detach(entry.age().since(since));
        conn
    }

    /// How long the connection had been idle when it was taken; `None` if it was just made.
    pub(in crate::pool) fn was_idle_for(&self) -> Option<Duration> {
        let held = self.held();
        let idle_since = held.entry.idle_since();
        let used_before = idle_since > Age::ZERO;
        used_before.then(|| held.since.since(idle_since))
    }

    /// Closes it for this reason.
    pub(in crate::pool) fn throw_away(&mut self, reason: CloseReason) {
        self.take().throw_away(reason);
    }

    /// What was exchanged so far was the pool's own business. The reason, if it is of no use now.
    pub(in crate::pool) fn begin_anew(&mut self) -> Result<(), CloseReason> {
        match &mut self.held {
            Some(held) => held.entry.begin_anew(&mut held.conn),
            None => unreachable!("a lease is consumed by whatever takes its connection"),
        }
    }

    /// Whether it was made, or its peer heard, after this moment.
    pub(in crate::pool) fn is_proved_since(&self, moment: Instant) -> bool {
        let held = self.held();
        held.entry.is_proved_since(&held.conn, moment)
    }

    /// Has its peer asked before anybody is given it. Returns it where nobody can tell.
    pub(in crate::pool) fn ask(mut self) -> Option<Self> {
        let Held { conn, since, taken_at, entry, pool } = self.take();
        let conn = entry.ask(conn).err()?;
        Some(Self { held: Some(Held { conn, since, taken_at, entry, pool }) })
    }

    /// Notes that a byte of an answer came, if so.
    pub(in crate::pool) fn note_use(&self) {
        let held = self.held();
        held.entry.note_use(&held.conn);
    }

    /// Whether its handshake had an answer.
    pub(in crate::pool) fn was_greeted(&self) -> bool {
        self.held().entry.was_greeted
    }

    /// Why it must not be handed out any more, if so.
    pub(in crate::pool) fn retired(&self) -> Option<CloseReason> {
        self.held().entry.retired()
    }

    pub(in crate::pool) fn is_older_than(&self, moment: Instant) -> bool {
        self.held().entry.opened() < moment
    }

    pub(in crate::pool) fn id(&self) -> ConnId {
        self.held().entry.id
    }

    pub(in crate::pool) fn peer_addr(&self) -> &PeerAddr {
        self.held().entry.peer.addr()
    }

    pub(in crate::pool) fn inner(&self) -> &Arc<PoolInner> {
        &self.held().pool.0
    }

    pub(in crate::pool) fn conn(&self) -> &Conn {
        &self.held().conn
    }

    pub(in crate::pool) fn conn_mut(&mut self) -> &mut Conn {
        match &mut self.held {
            Some(held) => &mut held.conn,
            None => unreachable!("a lease is consumed by whatever takes its connection"),
        }
    }

    pub(in crate::pool) fn stream(&self) -> Access<'_> {
        self.conn().stream()
    }

    pub(in crate::pool) fn stream_mut(&mut self) -> AccessMut<'_> {
        self.conn_mut().stream_mut()
    }

    fn held(&self) -> &Held {
        match &self.held {
            Some(held) => held,
            None => unreachable!("a lease is consumed by whatever takes its connection"),
        }
    }

    fn take(&mut self) -> Held {
        match self.held.take() {
            Some(held) => held,
            None => unreachable!("a lease is consumed by whatever takes its connection"),
        }
    }

    /// Gives it back: to the idle set, to be reset, or to be closed.
    pub(in crate::pool) fn end(&mut self, ending: Ending) -> Release {
        let held = self.take();
        let pool = &held.pool.0;
        held.entry.note_use(&held.conn);
        let tainted = held.conn.stream().tainted();
        let mut reuse = match &pool.protocol {
            // Its task may be about to send what its user has left behind.
            Some(_) if !held.conn.is_at_rest() => Reuse::AfterReset,
            Some(protocol) if held.is_claimed() && tainted.is_none() => protocol.reuse(&held.conn),
            _ => Reuse::AsItIs,
        };
        let mut unfit = held.unfit(reuse, ending);
        if let (Reuse::AsItIs, Some(CloseReason::Unfinished), Some(protocol)) =
            (reuse, unfit, &pool.protocol)
        {
            (reuse, unfit) = held.judge_again(&**protocol, ending);
        }
        if ending == Ending::Silent && unfit == Some(CloseReason::Unfinished) {
            held.warn_of_forgotten_release();
        }
        let closed = pool.is_closed().then_some(CloseReason::PoolClosed);
        match (unfit.or(closed), reuse) {
            (Some(reason), _) => held.throw_away(reason),
            (None, Reuse::AfterReset) => held.wait_for_reset(),
            (None, _) => held.give_back(),
        }
    }
}

impl Held {
    fn is_claimed(&self) -> bool {
        self.taken_at.is_some()
    }

    /// What speaks against it, where its protocol says that about it.
    #[inline(always)]
    fn unfit(&self, reuse: Reuse, ending: Ending) -> Option<CloseReason> {
        let stream = self.conn.stream();
        match reuse {
            Reuse::AsItIs => stream.unfit(ending),
            Reuse::AfterReset => stream.tainted(),
            Reuse::Never => stream.tainted().or(Some(match stream.is_owed() {
                true => CloseReason::Unfinished,
                false => CloseReason::NotReusable,
            })),
        }
    }

    /// What outlives an earlier user may have asked for something since the protocol was: what is to
    /// become of a connection on which that is owed is for the protocol to say.
    #[cold]
    fn judge_again(
        &self,
        protocol: &dyn ErasedProtocol,
        ending: Ending,
    ) -> (Reuse, Option<CloseReason>) {
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
        let used = self.is_claimed().then(|| self.entry.age().since(self.since));
        // Before its slot is free: whoever comes next is not to meet the same.
        if let Some(moment) = self.entry.evidence(&self.conn, reason) {
            self.entry.doubt_siblings(Some(moment));
        }
        let Self { pool, entry, conn, .. } = self;
        entry.close(conn, reason, used);
        // Nobody else keeps them up to date any more. Not each time: it is a look at all that are
        // left.
        let left = pool.0.guards();
        if pool.0.is_closed() && (left <= 1 || left % 64 == 0) {
            pool.0.refresh_gauges();
        }
        Release::Discarded(reason)
    }

    /// Puts the connection into the idle set, or rather into the hands of the first caller in line.
    fn give_back(self) -> Release {
        let Self { pool, entry, since, taken_at, conn } = self;
        let now = entry.age();
        if let Some(protocol) = &pool.0.protocol {
            entry.limit_idle(protocol.idle_limit(&conn));
        }
        entry.note_heard(&conn, since);
        let is_wanted = !pool.0.wait_queue.is_empty() && !pool.0.is_stopped();
        if is_wanted && entry.silence(&conn, now).is_none() {
            return Self { conn, since, taken_at, entry, pool }.pass_on(now);
        }
        if let Err((conn, reason)) = entry.settle(conn, now) {
            return Self { conn, since, taken_at, entry, pool }.throw_away(reason);
        }
        if taken_at.is_some() {
            pool.0.returned(&entry, now.since(since));
        }
        entry.recheck();
        pool.0.sweep_if_closed(&entry);
        pool.0.idle_set.put(entry);
        if !pool.0.wait_queue.is_empty() {
            pool.0.serve();
        }
        Release::Reused
    }

    /// Straight to the first caller in line. What it has to show for that is what it would have to
    /// show among the idle ones.
    fn pass_on(mut self, now: Age) -> Release {
        if let Err(reason) = self.entry.pass_on(&mut self.conn, now) {
            return self.throw_away(reason);
        }
        let inner = Arc::clone(&self.pool.0);
        if self.taken_at.take().is_some() {
            inner.returned(&self.entry, now.since(self.since));
        }
        self.entry.report_alive();
        self.since = now;
        inner.hand_over(Lease { held: Some(self) });
        Release::Reused
    }

    /// Its user is done with it, its protocol is not.
    fn wait_for_reset(mut self) -> Release {
        let pool = Arc::clone(&self.pool.0);
        self.conn.stream_mut().lift_limits();
        self.conn.wake_reader();
        if self.taken_at.take().is_some() {
            pool.returned(&self.entry, self.entry.age().since(self.since));
        }
        pool.resets.add(Lease { held: Some(self) });
        pool.slots.announce();
        if pool.is_closed() {
            pool.resets.discard();
        }
        Release::Resetting
    }
}

impl PoolInner {
    /// A caller is done with a connection.
    fn returned(&self, entry: &Entry, used: Duration) {
        self.emitter().returned(entry.id, used);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(held) = &mut self.held else { return };
        // Of its user; one that is on its way to somebody else has no part in that.
        if std::thread::panicking() && held.is_claimed() {
            held.conn.stream_mut().taint(CloseReason::Panicked);
        }
        self.end(Ending::Silent);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("conn", &self.held.as_ref().map(|held| &held.conn)).finish()
    }
}
