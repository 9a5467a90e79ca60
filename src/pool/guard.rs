//! [`Guard`]: a connection in its user's hands, and the four ways it can leave them.

mod buffered;
#[cfg(feature = "codec")]
mod framed;

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId};
use crate::foreign::{self, Panicked};
use crate::net::PeerAddr;
use crate::pool::conn::erased::{MADE, typed};
use crate::pool::conn::lease::{Lease, Release};
use crate::protocol::Conn;
use crate::protocol::{Protocol, Raw, Verdict};
use crate::stream::{Ending, Ledger, Stream, delegate_io};
use crate::sync::Arc;

pub use buffered::Buffered;
#[cfg(feature = "codec")]
pub use framed::Framed;

/// A connection checked out of a pool.
///
/// ```
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn f(pool: livepool::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut conn = pool.get().await?;
/// conn.write_all(b"PING\r\n").await?;
/// let mut answer = [0; 7];
/// conn.read_exact(&mut answer).await?;
/// conn.release();
/// # Ok(()) }
/// ```
///
/// A guard derefs to what its pool's [`Protocol`] makes of a connection: the client of a database,
/// say. In a pool without one that is the [`Stream`]: read and write through tokio's
/// [`AsyncReadExt`](tokio::io::AsyncReadExt) and [`AsyncWriteExt`](tokio::io::AsyncWriteExt). A
/// guard leaves your hands in one of four ways:
///
/// - [`release`](Self::release): the exchange is complete; back to the pool.
/// - drop: of a bare stream **discarded** with reason `unfinished` if it carried any byte, because
///   only you know where an answer ends; one that carried nothing goes back. Where the protocol
///   counts its answers, it goes back if none is owed.
/// - [`discard`](Self::discard): closed; its slot is free.
/// - [`detach`](Self::detach): yours from now on; its slot is free.
///
/// **Do not wrap a guard of bytes in a buffer that reads ahead.** tokio's `BufReader` or a `tokio_util` codec
/// takes what is there, perhaps the beginning of the server's next message, and the pool sees a socket with
/// nothing left in it: the next caller then reads from the middle of a message. Use
/// [`buffered`](Guard::buffered) or [`framed`](Guard::framed), which count what they hold.
///
/// Dropping it never waits and never spawns, so it may be dropped outside a runtime.
#[must_use = "a connection that is dropped after use is discarded; call release() to reuse it"]
pub struct Guard<P: Protocol = Raw> {
    lease: Lease,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Guard<P> {
    pub(in crate::pool) fn new(lease: Lease) -> Self {
        Self { lease, protocol: PhantomData }
    }

    /// Says that the exchange is complete: the answer was read in full, nothing is owed. The
    /// connection goes back to the pool.
    ///
    /// The pool checks that: an operation that was dropped half-way, an error or end of stream,
    /// bytes written and no answer read since, or bytes waiting unread turn it into a discard with
    /// that reason.
    ///
    /// The pool cannot see bytes that a foreign buffer has read ahead: with tokio's `BufReader` around the
    /// guard this is your own promise that it was empty. [`buffered`](Guard::buffered) checks it.
    ///
    /// ```
    /// use livepool::Release;
    ///
    /// # async fn f(pool: livepool::Pool) -> Result<(), livepool::CheckoutError> {
    /// let guard = pool.get().await?;
    /// // ... an exchange ...
    /// if let Release::Discarded(reason) = guard.release() {
    ///     println!("not reused: {reason}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn release(mut self) -> Release {
        self.lease.end(Ending::Answered)
    }

    /// Closes the connection and tells the pool that all others are of no use either: the upstream
    /// has changed its role, say. Idle ones are closed, those in use when they come back. Returns
    /// whether it did; not if the pool has been invalidated since this connection was made, so that
    /// a late error does no harm to new connections.
    pub fn invalidate(mut self) -> bool {
        self.lease.invalidate()
    }

    /// Tells the pool of an error that the client gave, and has the protocol
    /// [say](Protocol::classify) what follows from it: nothing, or that this connection, or every one
    /// that was made before, is not reused.
    ///
    /// A protocol that reads along ([`Scanner`](crate::protocol::Scanner)) knows by itself.
    pub fn report(&mut self, error: &P::Error) -> Verdict {
        let protocol = self.lease.inner().protocol.clone();
        let classified = typed::<P>(&protocol).map(|protocol| {
            foreign::call(|| {
                let verdict = protocol.classify(error);
                let code =
                    verdict.reason(CloseReason::ProtocolError).and_then(|_| protocol.code(error));
                (verdict, code)
            })
        });
        let (verdict, code) = match classified {
            Some(Ok(classified)) => classified,
            Some(Err(Panicked)) => {
                self.taint_as(CloseReason::Panicked);
                (Verdict::Close, None)
            }
            None => (Verdict::Close, None),
        };
        if let Some(reason) = verdict.reason(CloseReason::ProtocolError) {
            let mut stream = self.lease.stream_mut();
            stream.link().note_code(reason, code);
            stream.taint(reason);
        }
        if verdict == Verdict::NeedsReset {
            self.lease.stream_mut().need_reset();
        }
        if verdict == Verdict::InvalidatePool {
            self.lease.condemn();
        }
        verdict
    }

    /// Closes the connection and frees its slot.
    pub fn discard(mut self) {
        self.lease.throw_away(CloseReason::Discarded);
    }

    /// Takes the connection out of the pool, which may make another in its place.
    #[must_use = "a detached connection that is dropped is closed; discard() says so"]
    pub fn detach(mut self) -> P::Client {
        *self.lease.detach().into_any().downcast().expect(MADE)
    }

    /// The time the whole exchange may take from now, over all its operations together; each then
    /// gets its own timeout or what is left. Ends with the return of the connection. For all guards of
    /// a pool, from the checkout on, there is [`operation`](crate::config::Timeouts::operation).
    pub fn deadline(&mut self, limit: Duration) {
        let now = Instant::now();
        self.limit(|stream| stream.limit_exchange(now, now.checked_add(limit)));
    }

    /// See [`Stream::set_deadline`]. Ends with the return of the connection. With `None` not even
    /// `timeouts.operation` holds.
    pub fn set_deadline(&mut self, deadline: impl Into<Deadline>) {
        let deadline = deadline.into().instant();
        self.limit(|stream| stream.set_deadline(deadline));
    }

    /// See [`Stream::set_read_timeout`]. Ends with the return of the connection.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.limit(|stream| stream.set_read_timeout(limit));
    }

    /// See [`Stream::set_write_timeout`]. Ends with the return of the connection.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.limit(|stream| stream.set_write_timeout(limit));
    }

    /// The timeouts in force. See [`Stream::timeouts`].
    pub fn timeouts(&self) -> Timeouts {
        self.lease.stream().timeouts()
    }

    /// By when the exchange must be over, if it must be.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.lease.stream().deadline()
    }

    /// Says that the connection must not be reused. The connection stays usable, and is discarded,
    /// with reason `discarded`, whichever way it goes back.
    pub fn taint(&mut self) {
        self.taint_as(CloseReason::Discarded);
    }

    /// As [`taint`](Self::taint), for this reason. The first one stays.
    pub(crate) fn taint_as(&mut self, reason: CloseReason) {
        self.lease.stream_mut().taint(reason);
    }

    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.lease.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.lease.peer_addr()
    }

    /// Why the connection may not be reused, if something already says so.
    pub fn tainted(&self) -> Option<CloseReason> {
        self.lease.stream().tainted()
    }

    /// Whether any byte came since it was taken.
    pub(crate) fn was_heard(&self) -> bool {
        self.lease.stream().was_read()
    }

    /// Has a task of the pool work with it, whoever has gone. Work that is not done when the pool
    /// is closed is dropped.
    pub(crate) fn work_on<F>(self, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let pool = Arc::clone(self.lease.inner());
        pool.leave_work(work(self));
    }

    pub(in crate::pool) fn lease(&self) -> &Lease {
        &self.lease
    }

    fn limit(&mut self, set: impl FnOnce(&mut Stream)) {
        set(&mut self.lease.stream_mut());
        self.lease.conn().wake_reader();
    }
}

impl Guard {
    /// As [`release`](Self::release), for a protocol in which nothing answers what was written.
    pub fn release_unanswered(mut self) -> Release {
        self.lease.end(Ending::Unanswered)
    }

    /// See [`Stream::count_debt`]. Ends with the return of the connection.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&mut self) -> Ledger {
        self.stream_mut().count_debt()
    }

    /// Splits the connection into halves that two tasks can own. Join them again with
    /// [`unsplit`](ReadHalf::unsplit) to release the connection. Halves that are dropped count as the
    /// guard dropped, once both are: after any byte the connection is discarded.
    pub fn into_split(self) -> (ReadHalf<Self>, WriteHalf<Self>) {
        tokio::io::split(self)
    }

    pub(crate) fn stream(&self) -> &Stream {
        match self.lease.conn() {
            Conn::Raw(stream) => stream,
            Conn::Client(_) => unreachable!("{MADE}"),
        }
    }

    pub(crate) fn stream_mut(&mut self) -> &mut Stream {
        match self.lease.conn_mut() {
            Conn::Raw(stream) => stream,
            Conn::Client(_) => unreachable!("{MADE}"),
        }
    }
}

impl<P: Protocol> Deref for Guard<P> {
    type Target = P::Client;

    fn deref(&self) -> &P::Client {
        self.lease.conn().as_any().downcast_ref().expect(MADE)
    }
}

impl<P: Protocol> DerefMut for Guard<P> {
    fn deref_mut(&mut self) -> &mut P::Client {
        self.lease.conn_mut().as_any_mut().downcast_mut().expect(MADE)
    }
}

delegate_io!(impl[] for Guard);

impl<P: Protocol> fmt::Debug for Guard<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("lease", &self.lease).finish()
    }
}
