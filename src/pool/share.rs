//! [`Multiplex`]: protocols whose client may be used by several callers at a time; [`Share`]: one of these
//! callers' part of a connection, and [`RequestClock`]: the time that he has.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::deadline::Deadline;
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
/// While a connection is shared, each write to its [`Wire`](crate::protocol::Wire) is put off once: it is
/// pending, its task is woken at once, and runs when all others that can run have run. So what callers ask at the
/// same time goes out with one system call.
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
///
/// ```
/// use livepool::protocol::{Multiplex, Share};
///
/// /// What the callers of a protocol get, each a part.
/// struct Part<P: Multiplex>(Share<P>);
///
/// impl<P: Multiplex> Part<P> {
///     fn client(&self) -> &P::Client {
///         self.0.client()
///     }
/// }
/// ```
#[must_use = "dropped, it is given back"]
pub struct Share<P: Multiplex> {
    part: SharePart,
    /// The end of the time that `timeouts.operation` gives to all requests together.
    due: Option<Due>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Multiplex> Share<P> {
    pub(in crate::pool) fn new(part: SharePart) -> Self {
        let limit = part.inner().live().limit_of_use();
        let due = limit.and_then(|limit| Due::after(limit, Instant::now(), "timeouts.operation"));
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

    /// The time that a request has which begins now: `timeouts.read` for each, starting anew with
    /// [`RequestClock::restart`], and `timeouts.operation` for all together since the connection was taken.
    pub fn clock(&self) -> RequestClock {
        // A protocol that routes answers knows what it is owed.
        let limit = self.part.inner().live().limit_of_answer();
        let read = limit.and_then(|limit| Due::after(limit, Instant::now(), "timeouts.read"));
        RequestClock { read, all: self.due, sleep: None }
    }

    /// Makes a request, within the time that this caller has. Without a limit that costs nothing.
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
        let mut clock = pin!(self.clock());
        let mut request = pin!(request);
        if clock.is_endless() {
            return Ok(request.await);
        }
        poll_fn(|cx| match request.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => clock.as_mut().poll_over(self, cx).map(Err),
        })
        .await
    }
}

/// When something is to be over, since when it runs, and the setting that says so.
#[derive(Debug, Clone, Copy)]
struct Due {
    since: Instant,
    at: Instant,
    setting: &'static str,
}

impl Due {
    /// `None` for what is beyond the range of the clock.
    fn after(limit: Duration, since: Instant, setting: &'static str) -> Option<Self> {
        Some(Self { since, at: since.checked_add(limit)?, setting })
    }
}

/// What [`RequestClock::with_deadline`] names as the setting.
const DEADLINE: &str = "deadline";

pin_project! {
    /// The time that one request over a shared connection has, for whoever polls it himself: the stream of
    /// an answer, say. [`Share::run`] does all this for a future. Get one with [`Share::clock`].
    ///
    /// ```
    /// use std::io;
    /// use std::pin::Pin;
    /// use std::task::{Context, Poll};
    /// use livepool::protocol::{Multiplex, RequestClock, Share};
    ///
    /// /// The next piece of an answer, within its time.
    /// fn poll_piece<P: Multiplex>(
    ///     share: &Share<P>,
    ///     mut clock: Pin<&mut RequestClock>,
    ///     piece: impl FnOnce(&mut Context<'_>) -> Poll<Vec<u8>>,
    ///     cx: &mut Context<'_>,
    /// ) -> Poll<io::Result<Vec<u8>>> {
    ///     match piece(cx) {
    ///         Poll::Ready(piece) => {
    ///             clock.restart();
    ///             Poll::Ready(Ok(piece))
    ///         }
    ///         Poll::Pending => clock.poll_over(share, cx).map(Err),
    ///     }
    /// }
    /// ```
    #[derive(Debug)]
    pub struct RequestClock {
        read: Option<Due>,
        all: Option<Due>,
        // Armed when it is first polled. It may end before the time is up, and is armed again then.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl RequestClock {
    /// The same with this deadline of the caller's own instead of `timeouts.operation`. It says nothing of
    /// the connection, which others may go on to join when it has passed.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        let due = |at| Due { since: Instant::now(), at, setting: DEADLINE };
        self.all = deadline.into().instant().map(due);
        self
    }

    /// The same with this instead of `timeouts.read`.
    #[must_use]
    pub fn with_read_timeout(mut self, limit: Option<Duration>) -> Self {
        let due = |limit| Due::after(limit, Instant::now(), "set_read_timeout");
        self.read = limit.and_then(due);
        self
    }

    /// Whether it never ends.
    pub fn is_endless(&self) -> bool {
        self.read.is_none() && self.all.is_none()
    }

    /// The peer was heard: the read timeout begins anew.
    pub fn restart(self: Pin<&mut Self>) {
        let read = self.project().read;
        if let Some(last) = *read {
            *read = Due::after(last.at - last.since, Instant::now(), last.setting);
        }
    }

    /// Resolves when the time is up, with the error that the request ends with, of kind `TimedOut`. The
    /// event is emitted then. The connection goes on for those who have it; unless it was the caller's own
    /// deadline, nobody else joins.
    pub fn poll_over<P: Multiplex>(
        self: Pin<&mut Self>,
        share: &Share<P>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Error> {
        let mut this = self.project();
        let first = [*this.read, *this.all].into_iter().flatten().min_by_key(|due| due.at);
        let Some(Due { since, at, setting }) = first else { return Poll::Pending };
        loop {
            if this.sleep.is_none() {
                this.sleep.set(Some(sleep_until(at)));
            }
            let Some(mut sleep) = this.sleep.as_mut().as_pin_mut() else { return Poll::Pending };
            // One that ends earlier is as good until it does: nothing is armed for each piece.
            if sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                break;
            }
            sleep.reset(at);
        }
        if setting != DEADLINE {
            share.part.is_late();
        }
        let (operation, after, conn) = (Operation::Read, at - since, Some(share.id()));
        share.part.inner().emitter().emit(Event::TimedOut { operation, conn, after });
        let timeout = OpTimeout {
            of_exchange: this.all.is_some_and(|all| all.setting == setting),
            ..OpTimeout::new(operation, after, setting)
        };
        Poll::Ready(timeout.into())
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
