//! [`Multiplex`]: protocols whose client may be used by several callers at a time; [`Share`]: one of these
//! callers' part of a connection.

use std::fmt;
use std::io;
use std::marker::PhantomData;

use tokio::time::{Instant, timeout_at};

use crate::event::{CloseReason, ConnId, Event, Operation};
use crate::foreign;
use crate::net::PeerAddr;
use crate::pool::acquire::sharing::{Rule, SharePart, Spread};
use crate::pool::conn::erased::{MADE, PoolProtocol, typed};
use crate::pool::inner::PoolInner;
use crate::protocol::{Conn, Protocol, RequestLost};
use crate::stream::OpTimeout;

/// A protocol whose client routes answers: several callers may make requests over one connection at the
/// same time. See [`Pool::share`](crate::Pool::share).
///
/// What a caller gets has to be safe by its type: nothing that changes the session for others, and
/// nothing that waits for ever. Make of the [`Share`] a type that has no more than that.
///
/// ```
/// use livepool::protocol::{Multiplex, Protocol, Share, Wire};
///
/// struct Echo;
///
/// /// Its requests may be made through a shared reference.
/// struct Client;
///
/// impl Client {
///     async fn say(&self, words: &str) -> std::io::Result<String> {
///         Ok(words.to_owned())
///     }
/// }
///
/// impl Protocol for Echo {
///     type Client = Client;
///     type Error = std::io::Error;
///
///     async fn connect(&self, _: Wire) -> std::io::Result<Client> {
///         Ok(Client)
///     }
///
///     async fn ping(&self, client: &mut Client) -> std::io::Result<()> {
///         client.say("ping").await.map(drop)
///     }
/// }
///
/// /// What those get who share a connection.
/// struct SharedEcho(Share<Echo>);
///
/// impl SharedEcho {
///     async fn say(&self, words: &str) -> std::io::Result<String> {
///         self.0.run(self.0.client().say(words)).await?
///     }
/// }
///
/// impl Multiplex for Echo {
///     type Shared = SharedEcho;
///
///     fn shared(&self, share: Share<Self>) -> SharedEcho {
///         SharedEcho(share)
///     }
/// }
///
/// # async fn f(pool: livepool::Pool<Echo>) -> Result<(), Box<dyn std::error::Error>> {
/// pool.share().await?.say("hello").await?;
/// # Ok(()) }
/// ```
pub trait Multiplex: Protocol + Sized {
    /// What each of those callers gets.
    type Shared: Send + 'static;

    /// Makes one.
    fn shared(&self, share: Share<Self>) -> Self::Shared;

    /// How callers are spread over connections.
    fn spread(&self) -> Spread {
        Spread::Pack
    }

    /// How many callers may use this connection at a time, as it is now: within
    /// [`max_shares`](crate::Config::max_shares). 0 for one that is shared no more: a caller has left
    /// something in its session, say. Those who use it go on, and then it comes back as from one of
    /// them. Asked whenever somebody is to join: it must be quick.
    fn most_shares(&self, client: &Self::Client) -> usize {
        let _ = client;
        usize::MAX
    }
}

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
    /// One of kind `TimedOut` that holds an [`OpTimeout`], when the time is up: the request is dropped. The
    /// connection goes on for those who have it; nobody else joins, so that it comes back and is put right.
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
                self.part.is_late();
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

/// What the protocol of this pool says of sharing.
pub(in crate::pool) fn rule<P: Multiplex>(inner: &PoolInner) -> Rule {
    inner.shares.rule(|| {
        let spread =
            typed::<P>(&inner.protocol).map(|protocol| foreign::call(|| protocol.spread()));
        Rule { spread: spread.and_then(Result::ok).unwrap_or(Spread::Pack), most: most::<P> }
    })
}

/// How many callers may use a connection as it is now.
fn most<P: Multiplex>(protocol: &PoolProtocol, conn: &Conn) -> usize {
    let (Some(protocol), Some(client)) = (typed::<P>(protocol), conn.as_any().downcast_ref())
    else {
        return 0;
    };
    foreign::call(|| protocol.most_shares(client)).unwrap_or_else(|_| {
        conn.has_panicked();
        0
    })
}
