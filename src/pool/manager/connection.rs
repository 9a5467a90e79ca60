//! [`Connection`]: what a plain deadpool has of one of our connections.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::managed::Object;
use tokio::time::Instant;

use super::{Asked, Manager};
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId};
use crate::net::PeerAddr;
use crate::pool::conn::erased::MADE;
use crate::pool::conn::lease::{Lease, ParkingKept, Release, Settled};
use crate::protocol::{Protocol, Raw};
use crate::stream::{Ledger, Stream, delegate_io};
use crate::sync::Arc;

/// A connection in a plain deadpool pool, made by [`Manager`]. It derefs to the client of its protocol;
/// without a protocol that is the [`Stream`].
///
/// deadpool takes back whatever is dropped, and tells nobody. Where the protocol knows what it is owed,
/// that is enough. A bare stream has to be told that its exchange is complete, with
/// [`finish`](Self::finish) or [`release`](Self::release), or it is thrown away at its next checkout.
///
/// A connection that is in a pool no more (taken by [`Object::take`], or of a pool that was dropped) is
/// closed when it is dropped, with reason `discarded`, or `pool_closed` if its pool and manager had gone.
///
/// ```no_run
/// use deadpool::managed;
/// use livepool::{Manager, Release};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn f(pool: managed::Pool<Manager>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut conn = pool.get().await?;
/// conn.write_all(b"ping").await?;
/// conn.read_exact(&mut [0; 4]).await?;
/// // A bare stream has to be told that its exchange is complete.
/// conn.finish();
/// # Ok(()) }
/// # let _ = Release::Reused;
/// ```
pub struct Connection<P: Protocol = Raw> {
    /// Gone only where nobody has the connection any more: while it is pinged, and once it has ended.
    pub(super) lease: Option<Lease>,
    asked: Option<Asked>,
    protocol: PhantomData<fn() -> P>,
}

/// The message of a lease that is used after its end, which no path does.
const HELD: &str = "a connection that deadpool hands out has its lease";

impl<P: Protocol> Connection<P> {
    pub(super) fn new(lease: Lease, asked: Asked) -> Self {
        Self { lease: Some(lease), asked: Some(asked), protocol: PhantomData }
    }

    /// Gives it back to its pool: the exchange is complete, nothing is owed. As
    /// [`Guard::release`](crate::Guard::release), and checked in the same way: one that is no good any
    /// more leaves the pool at once, one that has to be reset is reset in the background first, and
    /// any other is idle, and watched, from now on.
    ///
    /// ```no_run
    /// # async fn f(pool: deadpool::managed::Pool<livepool::Manager>) -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool::Connection;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let mut conn = pool.get().await?;
    /// conn.write_all(b"PING\r\n").await?;
    /// conn.read_exact(&mut [0; 7]).await?;
    /// Connection::release(conn);
    /// # Ok(()) }
    /// ```
    pub fn release(mut object: Object<Manager<P>>) -> Release {
        match object.settle() {
            Settled::Parked => Release::Reused,
            Settled::NeedsReset => {
                let inner = Arc::clone(object.held().inner());
                inner.leave_work(async move {
                    let settled = object.held_mut().reset_and_park().await;
                    if let Settled::Lost(reason) = settled {
                        Object::take(object).end(reason);
                    }
                });
                Release::Resetting
            }
            Settled::Lost(reason) => {
                Object::take(object).end(reason);
                Release::Discarded(reason)
            }
        }
    }

    /// Takes the client out of its connection, which is no pool's any more, as
    /// [`Guard::detach`](crate::Guard::detach) does.
    #[must_use = "a detached connection that is dropped is closed"]
    pub fn detach(object: Object<Manager<P>>) -> P::Client {
        let mut lease = Object::take(object).lease.take().expect(HELD);
        lease.call_back();
        *lease.detach().into_any().downcast().expect(MADE)
    }

    fn settle(&mut self) -> Settled {
        self.held_mut().settle()
    }

    /// Says that the exchange is complete, as [`release`](Self::release) does, and keeps the connection.
    /// Returns the reason if it will not be reused.
    pub fn finish(&mut self) -> Option<CloseReason> {
        self.held_mut().finish_exchange()
    }

    /// The time the whole exchange may take from now. See [`Guard::deadline`](crate::Guard::deadline).
    pub fn deadline(&mut self, limit: Duration) {
        let now = Instant::now();
        self.limit_exchange(now, now.checked_add(limit));
    }

    /// See [`Stream::set_deadline`]. Ends with the next checkout.
    pub fn set_deadline(&mut self, deadline: impl Into<Deadline>) {
        self.limit_exchange(Instant::now(), deadline.into().instant());
    }

    fn limit_exchange(&mut self, began: Instant, deadline: Option<Instant>) {
        let lease = self.held_mut();
        lease.call_back();
        // Closed while it was idle, it has none to set.
        if !lease.is_parked() {
            lease.stream_mut().limit_exchange(began, deadline);
            lease.conn().wake_reader();
        }
    }

    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.held().id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.held().peer_addr()
    }

    /// Why the connection may not be reused, if something already says so.
    pub fn tainted(&self) -> Option<CloseReason> {
        let lease = self.held();
        if lease.has_ended() {
            return Some(CloseReason::Discarded);
        }
        if lease.is_parked() { None } else { lease.stream().tainted() }
    }

    fn held(&self) -> &Lease {
        self.lease.as_ref().expect(HELD)
    }

    fn held_mut(&mut self) -> &mut Lease {
        self.lease.as_mut().expect(HELD)
    }

    /// Begins to make it idle, if it is in use as far as it knows. Called with a lock of deadpool's held.
    pub(super) fn begin_parking(&self) -> Option<ParkingKept> {
        self.lease.as_ref()?.begin_parking()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::has_ended)
    }

    /// deadpool does not count it any more.
    pub(super) fn leave(&mut self) {
        if let Some(lease) = &self.lease {
            lease.leave_place();
        }
        self.asked = None;
    }

    fn end(mut self, reason: CloseReason) {
        if let Some(lease) = self.lease.take() {
            lease.end_kept(reason);
        }
    }
}

impl Connection {
    /// The stream, to set its timeouts.
    pub fn stream_mut(&mut self) -> &mut Stream {
        self
    }

    fn stream(&self) -> &Stream {
        self
    }

    /// See [`Stream::count_debt`]. The counting ends with [`finish`](Self::finish).
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&mut self) -> Ledger {
        self.stream_mut().count_debt()
    }
}

impl<P: Protocol> Drop for Connection<P> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let reason = match lease.inner().is_closed() {
            true => CloseReason::PoolClosed,
            false => CloseReason::Discarded,
        };
        lease.end_kept(reason);
    }
}

impl<P: Protocol> Deref for Connection<P> {
    type Target = P::Client;

    fn deref(&self) -> &P::Client {
        let lease = self.held();
        // A hook of deadpool's may use one that is idle.
        lease.call_back();
        lease.conn().as_any().downcast_ref().expect(MADE)
    }
}

impl<P: Protocol> DerefMut for Connection<P> {
    fn deref_mut(&mut self) -> &mut P::Client {
        let lease = self.held_mut();
        lease.call_back();
        lease.conn_mut().as_any_mut().downcast_mut().expect(MADE)
    }
}

delegate_io!(impl[] for Connection);

impl<P: Protocol> fmt::Debug for Connection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("lease", &self.lease).finish_non_exhaustive()
    }
}
