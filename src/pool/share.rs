//! [`Share`]: one of several callers' part of a connection that they use at the same time.

use std::fmt;
use std::io;
use std::marker::PhantomData;

use tokio::time::{Instant, timeout_at};

use crate::event::{CloseReason, ConnId, Event, Operation};
use crate::net::PeerAddr;
use crate::pool::acquire::sharing::SharePart;
use crate::pool::conn::erased::MADE;
use crate::protocol::{Multiplex, RequestLost};
use crate::stream::OpTimeout;

/// A part of a connection that others use at the same time, for whoever writes a protocol: what callers
/// get is made of it by [`Multiplex::shared`]. Dropped, it is given back; who gives up in the middle of a
/// request harms nobody.
#[must_use = "dropped, it is given back"]
pub struct Share<P: Multiplex> {
    part: SharePart,
    /// The end of the time that `timeouts.operation` gives to all requests together.
    due: Option<(Instant, Instant)>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Multiplex> Share<P> {
    pub(in crate::pool) fn new(part: SharePart) -> Self {
        let limit = part.inner().settings().timeouts.operation;
        let due = limit.and_then(|limit| {
            let now = Instant::now();
            Some((now, now.checked_add(limit)?))
        });
        Self { part, due, protocol: PhantomData }
    }

    /// The client, which others use as well.
    pub fn client(&self) -> &P::Client {
        self.part.conn().as_any().downcast_ref().expect(MADE)
    }

    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.part.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.part.peer_addr()
    }

    /// Whether nothing speaks against another request: the connection has not ended, and its peer is not
    /// being asked for a sign of life. Takes no lock.
    pub fn is_well(&self) -> bool {
        self.part.conn().is_well()
    }

    /// Why the connection has ended, if so.
    pub fn ended(&self) -> Option<CloseReason> {
        self.part.conn().stream().ended()
    }

    /// What becomes of a request that failed, if it failed with its connection. `was_sent` says whether
    /// it may have been sent.
    pub fn lost(&self, was_sent: bool) -> Option<RequestLost> {
        Some(RequestLost::new(self.ended()?, was_sent))
    }

    /// Makes a request, within the time that this caller has: `timeouts.read` for each, and
    /// `timeouts.operation` for all together since the connection was taken. Without either it costs
    /// nothing.
    ///
    /// # Errors
    ///
    /// One of kind `TimedOut` that holds an [`OpTimeout`], when the time is up: the request is dropped, and
    /// the connection goes on for the others.
    ///
    /// # Cancel safety
    ///
    /// That of the request.
    pub async fn run<F: Future>(&self, request: F) -> io::Result<F::Output> {
        // A protocol that routes answers knows what it is owed.
        let read = self.part.inner().settings().timeouts.read.limit(true);
        if read.is_none() && self.due.is_none() {
            return Ok(request.await);
        }
        let now = Instant::now();
        let own = read.and_then(|limit| Some((now, now.checked_add(limit)?, "timeouts.read")));
        let all = self.due.map(|(began, due)| (began, due, "timeouts.operation"));
        let first = [own, all].into_iter().flatten().min_by_key(|(_, due, _)| *due);
        let Some((began, due, setting)) = first else { return Ok(request.await) };
        match timeout_at(due, request).await {
            Ok(output) => Ok(output),
            Err(_) => {
                let (operation, after) = (Operation::Read, due - began);
                let conn = Some(self.id());
                self.part.inner().emitter().emit(Event::TimedOut { operation, conn, after });
                Err(OpTimeout::new(operation, after, setting).into())
            }
        }
    }
}

impl<P: Multiplex> fmt::Debug for Share<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("id", &self.id()).finish_non_exhaustive()
    }
}
