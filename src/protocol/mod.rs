//! [`Protocol`]: what runs over a connection.
//!
//! A pool of a protocol hands out its clients. The protocol says how one begins, how it is asked
//! whether the program behind it lives, whether it may be reused, and what an error means for the
//! others. Everything else is the pool's business.

mod aside;
mod bell;
mod bounds;
mod conn;
mod credentials;
mod driver;
mod guard_ext;
mod linger;
#[cfg(shuttle)]
pub(crate) mod models;
mod request_lost;
mod scanner;
mod shared;
mod statements;
mod verdict;
mod wire;
mod wire_stream;

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use crate::stream::Stream;

pub use self::guard_ext::GuardExt;
pub use aside::{SideChannel, SidePermit};
pub use credentials::{Credentials, CredentialsError, CredentialsRequest, CredentialsSource};
pub use driver::{Driven, Driver, DriverState};
pub use linger::{Linger, LingeringSocket};
pub use request_lost::RequestLost;
pub use scanner::Scanner;
pub use statements::StatementCounts;
pub use verdict::Verdict;
pub use wire::{DeferredEvents, Wire};
pub use wire_stream::WireStream;

pub use crate::causes::{OneLine, is_connection_error};
pub use crate::pool::{Feed, Listen, Multiplex, RequestClock, Retry, Share, Spread};
pub use crate::stream::{Ledger, Owed};
pub use crate::telemetry::log::log_trouble;
pub use crate::text::Escaped;

pub(crate) use aside::Asides;
pub(crate) use bell::Keeper;
pub(crate) use conn::{Access, AccessMut, Bare, Conn};
pub(crate) use linger::{Lingering, Place};
#[cfg(all(test, unix))]
pub(crate) use shared::Shared;

/// A protocol that runs over the connections of a pool. Given to
/// [`Builder::protocol`](crate::Builder::protocol).
///
/// The client may hold its [`Wire`] itself, behind a codec say, or give it to a task of its own. When
/// its guard is dropped, the connection goes back if nothing is owed on it:
///
/// - A client that counts what it is owed ([`Wire::count_debt`]), or has a [`Scanner`]
///   count it ([`Wire::scan`]), is reused if that is nothing, however its exchange ended.
/// - One that does not count is reused only after [`Guard::release`](crate::Guard::release), as a
///   bare stream is.
/// - After a timeout, an I/O error or a panic it is not reused, whatever the protocol says.
///
/// A client whose task reads all the time counts, or says that it has such a task
/// ([`Wire::driver`]): otherwise its pending read is taken for a caller's that was given up, and the
/// connection is never reused.
///
/// A protocol that panics costs the connection it was called for, with reason `panicked`, and nobody
/// else. In the handshake that is a refusal for now; where it is asked for a rule, it has none.
///
/// `examples/custom_protocol.rs` is a whole one.
///
/// # Cancel safety
///
/// Every future may be dropped at any await: when its time is up, when its caller goes, when the pool
/// is closed. The connection is closed then.
///
/// ```no_run
/// use livepool::protocol::{Protocol, Wire};
/// use livepool::{Config, Pool};
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
///
/// /// Every line is answered with a line.
/// struct Lines;
///
/// struct Client(BufReader<Wire>);
///
/// impl Client {
///     async fn ask(&mut self, question: &str) -> std::io::Result<String> {
///         self.0.write_all(format!("{question}\n").as_bytes()).await?;
///         let mut answer = String::new();
///         self.0.read_line(&mut answer).await?;
///         Ok(answer)
///     }
/// }
///
/// impl Protocol for Lines {
///     type Client = Client;
///     type Error = std::io::Error;
///
///     async fn connect(&self, wire: Wire) -> std::io::Result<Client> {
///         // Read ahead it may: the buffer is the client's, and stays with the connection.
///         Ok(Client(BufReader::new(wire)))
///     }
///
///     async fn ping(&self, client: &mut Client) -> std::io::Result<()> {
///         client.ask("ping").await.map(drop)
///     }
/// }
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder(Config::new("lines.internal:7000")).protocol(Lines).build()?;
/// let mut client = pool.get().await?;
/// println!("{}", client.ask("how are you?").await?);
/// client.release();
/// # Ok(()) }
/// ```
pub trait Protocol: Send + Sync + 'static {
    /// The client that callers get.
    type Client: Send + Sync + 'static;

    /// The error of its handshake, ping, reset and client.
    type Error: Error + Send + Sync + 'static;

    /// Makes a client of a connection that was just made, within `timeouts.connect`. The connection
    /// counts as opened when this is done.
    fn connect(&self, wire: Wire)
    -> impl Future<Output = Result<Self::Client, Self::Error>> + Send;

    /// Makes one request that does no harm, and reads its answer. Made before a connection is
    /// handed out that was idle, if [`Config::validation`](crate::Config::validation) asks for it,
    /// within `timeouts.ping`.
    fn ping(
        &self,
        client: &mut Self::Client,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Whether there is such a request. If not, a pool that asks for it cannot be built.
    fn has_ping(&self) -> bool {
        true
    }

    /// Says what is to become of a connection that came back. Called in the guard's drop: it must
    /// not wait.
    fn reuse(&self, client: &Self::Client) -> Verdict {
        let _ = client;
        Verdict::Keep
    }

    /// How long the peer lets this connection be idle, if it said so. The pool does not use it after
    /// that. Asked when it comes back.
    fn idle_limit(&self, client: &Self::Client) -> Option<Duration> {
        let _ = client;
        None
    }

    /// Makes a connection that came back fit for its next user, within `timeouts.reset`, in the
    /// background. Afterwards nothing may be owed.
    fn reset(
        &self,
        client: &mut Self::Client,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = client;
        std::future::ready(Ok(()))
    }

    /// Says that every user has to find the session as it is now: the pool's hook after connect
    /// ([`Builder::after_connect`](crate::Builder::after_connect)) has run. What it has changed is not a
    /// user's change. After a [`reset`](Self::reset) that may have undone it
    /// ([`is_unsettled`](Self::is_unsettled)) the hook is run again, and then this is called again.
    /// Default: nothing.
    fn settled(&self, client: &Self::Client) {
        let _ = client;
    }

    /// Whether the [`reset`](Self::reset) that has just succeeded may have undone what the pool's hook
    /// after connect has done to the session. Asked of pools that have that hook. Default: yes.
    fn is_unsettled(&self, client: &Self::Client) -> bool {
        let _ = client;
        true
    }

    /// Says what follows from an error, for this connection and all others.
    fn classify(&self, error: &Self::Error) -> Verdict {
        let _ = error;
        Verdict::Close
    }

    /// The peer's own word in this error, if it has one: an SQLSTATE, say. Where the error costs a
    /// connection, it is shown in [`Event::Closed`](crate::Event::Closed) and the log, escaped and cut
    /// after 40 characters.
    fn code(&self, error: &Self::Error) -> Option<String> {
        let _ = error;
        None
    }

    /// Whether a handshake that failed with this will fail again until somebody changes something: a
    /// wrong password, say. Callers are told at once then, and it is not tried again for them; any
    /// other error makes the pool try the next address, pause, and try again.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// The protocol's name, `"PostgreSQL"` say, for the question that the error of a doubtful
    /// handshake ends with: "does the server there speak PostgreSQL?". Default: none, and the
    /// question is for "this protocol".
    fn speaks(&self) -> &'static str {
        ""
    }

    /// Whether a handshake that failed with this was not answered in this protocol: another one is
    /// spoken there, perhaps. Callers of a pool that has never had a connection are told at once then
    /// ([`FirstConnect`](crate::config::FirstConnect)). A connection that ended, or an
    /// [`InvalidData`](std::io::ErrorKind::InvalidData), counts in any case, if the error shows it as
    /// itself or among its sources.
    fn is_gibberish(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// What the protocol's prepared statements come to, of all connections of this pool, for
    /// `livepool_statements` and `livepool_statement_lookups_total`. Asked once per tick. Default: none,
    /// for a protocol that keeps no statements.
    fn statement_counts(&self) -> Option<StatementCounts> {
        None
    }

    /// Says what these bytes mean, which came while nobody used the connection and nothing was
    /// owed. The bytes begin with a message, perhaps several, and may be cut short: asked again
    /// when more comes, the protocol is told all that came within a second.
    fn unread(&self, bytes: &[u8]) -> Verdict {
        let _ = bytes;
        Verdict::Close
    }
}

/// No protocol: callers get the [`Stream`] itself, and say where an exchange ends.
///
/// ```
/// use livepool::protocol::Raw;
/// use livepool::{Guard, Pool, Stream};
///
/// // What is meant where no protocol is named.
/// fn same(pool: Pool<Raw>, guard: Guard<Raw>) -> (Pool, Stream) {
///     (pool, guard.detach())
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Raw;

impl Protocol for Raw {
    type Client = Stream;
    type Error = std::io::Error;

    async fn connect(&self, wire: Wire) -> std::io::Result<Stream> {
        wire.into_stream()
    }

    async fn ping(&self, _: &mut Stream) -> std::io::Result<()> {
        Ok(())
    }

    fn has_ping(&self) -> bool {
        false
    }
}
