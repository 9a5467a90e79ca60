//! [`Multiplex`]: protocols whose client may be used by several callers at a time.

use std::fmt;
use std::io;

use super::Protocol;
use crate::event::CloseReason;
use crate::pool::Share;

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

/// How callers who share are spread over connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// As few connections as can be: another one when all others are full. For a server whose one
    /// thread does all the work, and that gains by what comes together.
    Pack,
    /// The connection with the fewest callers, and another one when each has so many. For a server
    /// with a process or thread for each connection.
    Even(usize),
}

/// A request over a shared connection has failed with the connection. It travels inside an
/// [`io::Error`] of kind [`io::ErrorKind::ConnectionAborted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestLost {
    /// Why the connection ended.
    pub reason: CloseReason,
    /// Whether the request may have been carried out: it may have been sent. If not, it may be made
    /// again whatever it does.
    pub maybe_done: bool,
}

impl RequestLost {
    /// The error of a request that a connection was lost with, for this reason.
    pub fn new(reason: CloseReason, maybe_done: bool) -> Self {
        Self { reason, maybe_done }
    }

    /// The lost request inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for RequestLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, maybe_done } = self;
        match maybe_done {
            true => write!(
                f,
                "the shared connection ended ({reason}) with this request in flight: it may have been \
                 carried out"
            ),
            false => write!(
                f,
                "the shared connection had ended ({reason}) before this request was sent: it was not \
                 carried out"
            ),
        }
    }
}

impl std::error::Error for RequestLost {}

impl From<RequestLost> for io::Error {
    fn from(lost: RequestLost) -> Self {
        io::Error::new(io::ErrorKind::ConnectionAborted, lost)
    }
}
