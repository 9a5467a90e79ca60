//! [`SharedClient`]: what those get who share a connection.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};

use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, SimpleQueryMessage, Statement};

use super::client::Client;
use super::driver_stream::is_from_pool;
use super::protocol::Postgres;
use super::query::{self, RunMode, ToStatement};
use super::statements::Statements;
use super::unclaimed::UnclaimedStatements;
use livepool::net::PeerAddr;
use livepool::protocol::{Multiplex, RequestLost, Share, Spread};
use livepool::{CloseReason, ConnId};

/// A part of a connection to PostgreSQL that other callers use at the same time. Get one with
/// [`Pool::share`](livepool::Pool::share).
///
/// It has what several can do over one session: queries, statements of the cache, and
/// [`batch`](Self::batch). Requests are sent as they come and answered in order: one that takes long
/// holds up those behind it. Transactions, `COPY`, `LISTEN` and whatever leaves something in the session
/// (`BEGIN`, `SET`) are for a connection of one's own ([`Pool::get`](livepool::Pool::get)). One that is
/// sent by text all the same is noticed with its answer: what others send until then is part of it. From
/// then on nobody joins the connection, which is reset as
/// [`RecyclingMethod`](super::RecyclingMethod) says, or closed, when its users have gone
/// ([`Event::SharingEnded`](livepool::Event::SharingEnded)); in a transaction or a `COPY` nothing more is
/// sent. With [`Statements::Unnamed`] nobody shares: each has a connection of its own.
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let row = pool.share().await?.query_one("SELECT $1::int4 + 1", &[&41_i32]).await?;
/// assert_eq!(row.get::<_, i32>(0), 42);
/// # Ok(()) }
/// ```
///
/// Whoever drops a request harms nobody: its answer is thrown away when it comes, and nothing of others
/// is cancelled. What the last one has left behind is, when the connection comes back. Whoever keeps a request without polling it holds up the others: the client library reads
/// no further than its answer. When the connection ends, each request that was in flight on it fails with an
/// error whose text says whether it may have been carried out; [`request_lost`] finds that in it.
pub struct SharedClient {
    share: Share<Postgres>,
}

/// Why nothing is sent on a session that is in the middle of something.
const IN_ANOTHERS: &str = "another caller has left the shared session in a transaction or a COPY: this \
                           request was not sent; take another share";

/// How many callers a connection has before another one is used: a server has a process for each.
const DEPTH: usize = 16;

impl Multiplex for Postgres {
    type Shared = SharedClient;

    fn shared(&self, share: Share<Self>) -> SharedClient {
        SharedClient { share }
    }

    fn spread(&self) -> Spread {
        Spread::Even(DEPTH)
    }

    fn most_shares(&self, client: &Client) -> usize {
        let line = &client.session.line;
        // To describe a statement takes a transaction, in which nobody else may be.
        if client.statements.mode() == Statements::Unnamed {
            return 1;
        }
        let is_changed = self.resets_after(line.is_touched());
        let is_full = line.unclaimed().is_some_and(UnclaimedStatements::is_full);
        let is_begun = line.is_in_transaction() || line.awaits_data();
        match line.is_lost() || is_begun || is_changed || line.listens() || is_full {
            true => 0,
            false => usize::MAX,
        }
    }
}

/// What became of a request whose error this is, if its connection was shared and ended.
pub fn request_lost(error: &Error) -> Option<RequestLost> {
    // The request that ran has the server's own word for the end of its session.
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    if matches!(severity, Some(Severity::Fatal | Severity::Panic)) {
        return Some(RequestLost::new(CloseReason::PeerClosed, true));
    }
    let source = std::error::Error::source(error)?.downcast_ref()?;
    RequestLost::of(source).copied()
}

impl SharedClient {
    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.share.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.share.peer_addr()
    }

    /// Prepares a statement, or takes the one that this connection has prepared before. It is of use on
    /// this connection only.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::prepare`], and those of this type.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future loses nothing but the statement.
    pub async fn prepare_cached(&self, query: &str) -> Result<Statement, Error> {
        self.prepare_typed_cached(query, &[]).await
    }

    /// As [`prepare_cached`](Self::prepare_cached), with the types of the parameters given.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`prepare_cached`](Self::prepare_cached).
    pub async fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        self.run(pin!(self.client().prepare_typed_cached(query, types))).await
    }

    /// Runs statements that return nothing, separated by semicolons, as one transaction.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::batch_execute`], and those of this type.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, nobody can say whether they were run.
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.run(pin!(self.client().client.batch_execute(sql))).await
    }

    /// Runs statements, and gives their rows as text.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::simple_query`], and those of this type.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, nobody can say whether they were run.
    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.run(pin!(self.client().client.simple_query(sql))).await
    }

    query::shared_queries!();

    fn client(&self) -> &Client {
        self.share.client()
    }

    /// Makes a request, within this caller's time. Pinned by the caller, since it is long, and each move of it
    /// is a copy.
    async fn run<T, F>(&self, request: Pin<&mut F>) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if !self.share.is_well()
            && let Some(lost) = self.share.lost(false)
        {
            return Err(self.error(lost.into()).await);
        }
        let Client { session, statements, .. } = self.client();
        let line = &session.line;
        let is_alone = statements.mode() == Statements::Unnamed;
        if !is_alone && (line.is_in_transaction() || line.awaits_data()) {
            // It would be part of that, and undone with it.
            return Err(self.error(std::io::Error::other(IN_ANOTHERS)).await);
        }
        match self.share.run(request).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(self.told(error).await),
            Err(late) => Err(self.error(late).await),
        }
    }

    /// Says of a request that failed with its connection whether it may have been carried out.
    #[cold]
    async fn told(&self, error: Error) -> Error {
        let is_end = error.is_closed() || error.as_db_error().is_some_and(is_from_pool);
        match self.share.lost(true).filter(|_| is_end) {
            Some(lost) => self.error(lost.into()).await,
            None => error,
        }
    }

    /// The client library's error about this one.
    async fn error(&self, error: std::io::Error) -> Error {
        match self.client().session.canceller.error(error).await {
            Err(error) => error,
            Ok(()) => unreachable!("a stream that fails is no success"),
        }
    }
}

impl fmt::Debug for SharedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedClient").field("share", &self.share).finish()
    }
}
