//! [`Guard`]: a connection in its user's hands, and the four ways it can leave them.

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::Inner;
use super::store::{Place, Taken};
use crate::event::{CloseReason, Event};
use crate::stream::{Ending, Ledger, Stream, delegate_io};

/// What [`Guard::release`] did with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// It is back in the pool, for the next caller.
    Reused,
    /// It was not fit for that, for this reason, and was closed.
    Discarded(CloseReason),
}

/// A connection checked out of a pool.
///
/// Read and write through tokio's [`AsyncReadExt`](tokio::io::AsyncReadExt) and
/// [`AsyncWriteExt`](tokio::io::AsyncWriteExt). It leaves your hands in one of four ways:
///
/// - [`release`](Self::release): the exchange is complete; back to the pool.
/// - drop: **discarded** with reason `unfinished` if it carried any byte, because only you know
///   where an answer ends. A connection that carried nothing goes back.
/// - [`discard`](Self::discard): closed; its slot is free.
/// - [`detach`](Self::detach): yours from now on; its slot is free.
///
/// Dropping it never waits and never spawns, so it may be dropped outside a runtime.
#[must_use = "a connection that is dropped after use is discarded; call release() to reuse it"]
pub struct Guard {
    /// Always there until one of the ways out has taken it.
    held: Option<Held>,
}

/// Fields are dropped in this order, whatever happens: the socket is closed, then the place given
/// back, then the next caller let in.
struct Held {
    stream: Box<Stream>,
    since: Instant,
    /// Whether a caller got it. Until then nobody is told where it goes.
    claimed: bool,
    place: Place,
    pool: Counted,
}

/// The pool of a guard, which counts its guards.
struct Counted(Arc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.guards.fetch_sub(1, Ordering::AcqRel);
        if self.0.is_closed() {
            self.0.came_back.notify_waiters();
        }
    }
}

impl Guard {
    /// A connection on its way to a caller. Dropped before it gets there, it goes back.
    pub(super) fn unclaimed(pool: &Arc<Inner>, taken: Taken) -> Self {
        pool.guards.fetch_add(1, Ordering::AcqRel);
        let pool = Counted(Arc::clone(pool));
        let Taken { place, stream, since } = taken;
        Self { held: Some(Held { stream, since, claimed: false, place, pool }) }
    }

    /// A caller has it, and asked for it there.
    pub(super) fn claim(&mut self, taken_at: &'static Location<'static>) {
        if let Some(held) = &mut self.held {
            held.claimed = true;
            let core = held.place.core();
            core.is_used();
            core.taken_by(held.since, taken_at);
        }
    }

    /// Says that the exchange is complete: the answer was read in full, nothing is owed. The
    /// connection goes back to the pool.
    ///
    /// This is checked, not believed: an operation that was dropped half-way, an error or end of
    /// stream, bytes written and no answer read since, or bytes waiting unread turn it into a
    /// discard with that reason.
    pub fn release(mut self) -> Release {
        self.end(Ending::Answered)
    }

    /// As [`release`](Self::release), for a protocol in which nothing answers what was written.
    pub fn release_unanswered(mut self) -> Release {
        self.end(Ending::Unanswered)
    }

    /// Closes the connection and tells the pool that all others are of no use either: the upstream
    /// has changed its role, say. Idle ones are closed, those in use when they come back. Returns
    /// whether it did; not if the pool has been invalidated since this connection was made, so that
    /// a late error does no harm to new connections.
    pub fn invalidate(mut self) -> bool {
        let held = self.take();
        let (inner, core) = (Arc::clone(&held.pool.0), Arc::clone(held.place.core()));
        let first = inner.invalidate_older_than(&core);
        held.throw_away(CloseReason::Invalidated);
        first
    }

    /// Closes the connection and frees its slot.
    pub fn discard(mut self) {
        self.take().throw_away(CloseReason::Discarded);
    }

    /// Takes the connection out of the pool, which may make another in its place.
    #[must_use = "a detached connection that is dropped is closed; discard() says so"]
    pub fn detach(mut self) -> Stream {
        let Held { mut stream, since, place, .. } = self.take();
        stream.leave();
        let core = Arc::clone(place.core());
        drop(place);
        core.detach(since.elapsed());
        *stream
    }

    /// The time the whole exchange may take from now, over all its operations together; each then
    /// gets its own timeout or what is left. Ends with the return of the connection.
    pub fn deadline(&mut self, limit: Duration) {
        let deadline = Instant::now().checked_add(limit);
        self.stream_mut().set_deadline(deadline);
    }

    /// See [`Stream::set_deadline`]. Ends with the return of the connection.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.stream_mut().set_deadline(deadline);
    }

    /// See [`Stream::set_read_timeout`]. Ends with the return of the connection.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.stream_mut().set_read_timeout(limit);
    }

    /// See [`Stream::set_write_timeout`]. Ends with the return of the connection.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.stream_mut().set_write_timeout(limit);
    }

    /// See [`Stream::count_debt`]. Ends with the return of the connection.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&mut self) -> Ledger {
        self.stream_mut().count_debt()
    }

    /// Says that the connection must not be reused. It stays usable and is discarded, with reason
    /// `discarded`, whichever way it goes back.
    pub fn taint(&mut self) {
        self.stream_mut().taint(CloseReason::Discarded);
    }

    /// Splits the connection into halves that two tasks can own. Join them again with
    /// [`unsplit`](ReadHalf::unsplit) to release the connection. Halves that are dropped count as the
    /// guard dropped, once both are: after any byte the connection is discarded.
    pub fn into_split(self) -> (ReadHalf<Self>, WriteHalf<Self>) {
        tokio::io::split(self)
    }

    /// How long the connection had been idle when it was taken; `None` if it was just made.
    pub(super) fn was_idle_for(&self) -> Option<Duration> {
        let held = self.held();
        let since = held.place.core().idle_since();
        let used_before = since > held.place.core().opened();
        used_before.then(|| held.since.saturating_duration_since(since))
    }

    /// Closes it for this reason.
    pub(super) fn throw_away(mut self, reason: CloseReason) {
        self.take().throw_away(reason);
    }

    /// What was exchanged so far was the pool's own business.
    pub(super) fn begin_anew(&mut self) {
        if let Some(held) = &mut self.held {
            held.place.core().begin_anew(&mut held.stream);
        }
    }

    /// See [`Stream::died_unanswered`]. Not of a connection that was made for this exchange: another
    /// new one would fare no better.
    pub(super) fn is_stale(&self, began: Instant) -> bool {
        self.stream().died_unanswered() && self.held().place.core().opened() < began
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.held().stream
    }

    pub(crate) fn stream_mut(&mut self) -> &mut Stream {
        match &mut self.held {
            Some(held) => &mut held.stream,
            None => unreachable!("a guard is consumed by whatever takes its connection"),
        }
    }

    fn held(&self) -> &Held {
        match &self.held {
            Some(held) => held,
            None => unreachable!("a guard is consumed by whatever takes its connection"),
        }
    }

    fn take(&mut self) -> Held {
        match self.held.take() {
            Some(held) => held,
            None => unreachable!("a guard is consumed by whatever takes its connection"),
        }
    }

    fn end(&mut self, ending: Ending) -> Release {
        let held = self.take();
        let closed = held.pool.0.is_closed().then_some(CloseReason::PoolClosed);
        match held.stream.unfit(ending).or(closed) {
            Some(reason) => held.throw_away(reason),
            None => held.give_back(),
        }
    }
}

impl Held {
    /// Closes the connection, which frees its slot.
    fn throw_away(self, reason: CloseReason) -> Release {
        let Self { pool, place, since, claimed, stream } = self;
        let core = Arc::clone(place.core());
        // The place before the slot: whoever takes the slot needs one.
        drop(place);
        core.close(stream, reason, claimed.then(|| since.elapsed()));
        if pool.0.is_closed() {
            pool.0.refresh_gauges();
        }
        Release::Discarded(reason)
    }

    /// Puts the connection into the store, or rather into the hands of the first caller in line.
    fn give_back(self) -> Release {
        let Self { pool, place, since, claimed, stream } = self;
        let now = Instant::now();
        let core = Arc::clone(place.core());
        if let Err((stream, reason)) = core.settle(stream, now, since) {
            return Self { stream, since, claimed, place, pool }.throw_away(reason);
        }
        if claimed {
            let used = now.saturating_duration_since(since);
            pool.0.emitter().emit(Event::Returned { conn: core.id, used });
            pool.0.common.peers.used_well();
        }
        drop(place);
        core.recheck();
        pool.0.sweep_if_closed(&core);
        if !pool.0.line.is_empty_after_all() {
            pool.0.serve();
        }
        Release::Reused
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(held) = &mut self.held else { return };
        if std::thread::panicking() {
            held.stream.taint(CloseReason::Panicked);
        }
        self.end(Ending::Silent);
    }
}

impl Deref for Guard {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        self.stream()
    }
}

delegate_io!(impl[] for Guard);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("stream", &self.held.as_ref().map(|held| &held.stream))
            .finish()
    }
}
