//! [`Client`] and [`Transaction`]: the client library's, with what a pool adds.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio_postgres::types::Type;
use tokio_postgres::{Error, IsolationLevel, Statement};

use super::cancel::{CancelToken, Canceller};
use super::notify::Notifications;
use super::session::Session;
use super::statements::StatementCache;
use crate::sync::Arc;

/// A client of one connection: [`tokio_postgres::Client`], which it derefs to, with prepared
/// statements that are kept and notifications.
///
/// A client may be given back in any state: in the middle of a query, a transaction or a `COPY`. A
/// running query is cancelled at the server, and the next user gets the connection when that is
/// proven, or another one. After a `COPY` that failed or was given up that takes one round trip; a
/// connection is closed if its server answered twice, as when a `BEFORE STATEMENT` trigger refuses
/// a `COPY` before its first row, and if what is under way does not end within `timeouts.reset`:
/// because somebody keeps the sink of a `COPY`, say.
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let client = pool.get().await?;
/// let statement = client.prepare_cached("SELECT name FROM users WHERE id = $1").await?;
/// let name: String = client.query_one(&statement, &[&7_i64]).await?.get(0);
/// # Ok(()) }
/// ```
pub struct Client {
    pub(super) client: tokio_postgres::Client,
    pub(super) statements: Arc<StatementCache>,
    pub(super) session: Session,
}

impl Client {
    /// The prepared statements of this connection.
    pub fn statement_cache(&self) -> &StatementCache {
        &self.statements
    }

    /// Prepares a statement, or takes the one that this connection has prepared before.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::prepare`].
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
    /// The errors of [`tokio_postgres::Client::prepare_typed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future loses nothing but the statement.
    pub async fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        self.statements.prepare(&self.client, query, types).await
    }

    super::query::all_queries!();

    fn parts(&self) -> (&tokio_postgres::Client, &StatementCache) {
        (&self.client, &self.statements)
    }

    /// Begins a transaction, which is rolled back if it is dropped.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::transaction`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, it is rolled back.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.client.transaction().await?;
        Ok(Transaction::new(transaction, &self.statements, &self.session.canceller))
    }

    /// As [`transaction`](Self::transaction), with an isolation level and access mode.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_> {
        let builder = self.client.build_transaction();
        TransactionBuilder::new(builder, &self.statements, &self.session.canceller)
    }

    /// The right to cancel what this connection does for its present user, to be used while it
    /// does. The method of [`tokio_postgres::Client`] with the same name knows no server here, and
    /// its token's `cancel_query` fails; what is sent by its `cancel_query_raw`, over a socket of your
    /// own, no pool knows of: it may hit the next user's query.
    pub fn cancel_token(&self) -> CancelToken {
        self.session.cancel_token()
    }

    /// Cancels what this connection does now: see [`CancelToken::cancel`].
    ///
    /// # Errors
    ///
    /// The errors of [`CancelToken::cancel`].
    ///
    /// # Cancel safety
    ///
    /// As [`CancelToken::cancel`].
    pub async fn cancel(&self) -> Result<(), Error> {
        self.cancel_token().cancel().await
    }

    /// The notifications that arrive from now on, until the connection is given back. Call it
    /// before `LISTEN`. [`Pool::listen`](livepool::Pool::listen) listens for longer than one connection
    /// lives.
    ///
    /// The next user inherits neither them nor the subscription: that of a `LISTEN`, wherever it
    /// stands, of a `DO` block, a procedure, or a function whose name ends with `listen`. A
    /// function of another name that subscribes is not noticed before its first notification. The
    /// notification ends the connection if nobody has it (`dirty`); a user who has it gets the
    /// notification, and the connection has no next user. Give such a session back with `UNLISTEN
    /// *`, or use [`RecyclingMethod::Clean`](super::RecyclingMethod::Clean).
    pub fn notifications(&self) -> Notifications {
        self.session.notifications()
    }

    /// The error that the connection ended with, a moment after the calls that waited were told.
    /// Where the pool ended the connection, the calls that waited for an answer say so themselves:
    /// see the [module's page](super). Later calls fail with "connection closed", whatever the
    /// reason was.
    pub fn ended_with(&self) -> Option<&Error> {
        self.session.ended_with()
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.client
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("line", &self.session.line).finish_non_exhaustive()
    }
}

/// A transaction. Dropped without [`commit`](Self::commit), it is rolled back before the next user
/// gets the connection.
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = pool.get().await?;
/// let transaction = client.transaction().await?;
/// transaction.execute("UPDATE accounts SET amount = amount - 1 WHERE id = $1", &[&7_i64]).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
pub struct Transaction<'a> {
    transaction: tokio_postgres::Transaction<'a>,
    statements: Arc<StatementCache>,
    canceller: Canceller,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        transaction: tokio_postgres::Transaction<'a>,
        statements: &Arc<StatementCache>,
        canceller: &Canceller,
    ) -> Self {
        Self { transaction, statements: Arc::clone(statements), canceller: canceller.clone() }
    }

    /// See [`Client::cancel_token`](super::Client::cancel_token).
    pub fn cancel_token(&self) -> CancelToken {
        self.canceller.token()
    }

    /// The prepared statements of this connection.
    pub fn statement_cache(&self) -> &StatementCache {
        &self.statements
    }

    /// See [`Client::prepare_cached`](super::Client::prepare_cached).
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::prepare`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future loses nothing but the statement.
    pub async fn prepare_cached(&self, query: &str) -> Result<Statement, Error> {
        self.prepare_typed_cached(query, &[]).await
    }

    /// See [`Client::prepare_typed_cached`](super::Client::prepare_typed_cached).
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Client::prepare_typed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future loses nothing but the statement.
    pub async fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        self.statements.prepare(self.transaction.client(), query, types).await
    }

    super::query::all_queries!();

    pub(super) fn parts(&self) -> (&tokio_postgres::Client, &StatementCache) {
        (self.transaction.client(), &self.statements)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, nobody can say whether it was committed.
    pub async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    /// Rolls the transaction back, and returns when that is done.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Transaction::rollback`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, it is rolled back all the same.
    pub async fn rollback(self) -> Result<(), Error> {
        self.transaction.rollback().await
    }

    /// A transaction inside this one.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Transaction::transaction`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, the savepoint may be left behind until this transaction ends.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.transaction.transaction().await?;
        Ok(Transaction::new(transaction, &self.statements, &self.canceller))
    }

    /// As [`transaction`](Self::transaction), with a name.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::Transaction::savepoint`].
    ///
    /// # Cancel safety
    ///
    /// As [`transaction`](Self::transaction).
    pub async fn savepoint(&mut self, name: impl Into<String>) -> Result<Transaction<'_>, Error> {
        let transaction = self.transaction.savepoint(name).await?;
        Ok(Transaction::new(transaction, &self.statements, &self.canceller))
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = tokio_postgres::Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

/// A transaction that is about to begin. See
/// [`Client::build_transaction`](super::Client::build_transaction).
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// use livepool_postgres::tokio_postgres::IsolationLevel;
///
/// let mut client = pool.get().await?;
/// let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
/// let transaction = builder.read_only(true).start().await?;
/// let count: i64 = transaction.query_one("SELECT count(*) FROM users", &[]).await?.get(0);
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until start() is called"]
pub struct TransactionBuilder<'a> {
    builder: tokio_postgres::TransactionBuilder<'a>,
    statements: Arc<StatementCache>,
    canceller: Canceller,
}

impl<'a> TransactionBuilder<'a> {
    pub(super) fn new(
        builder: tokio_postgres::TransactionBuilder<'a>,
        statements: &Arc<StatementCache>,
        canceller: &Canceller,
    ) -> Self {
        Self { builder, statements: Arc::clone(statements), canceller: canceller.clone() }
    }

    /// Sets the isolation level.
    pub fn isolation_level(self, level: IsolationLevel) -> Self {
        Self { builder: self.builder.isolation_level(level), ..self }
    }

    /// Sets whether the transaction may only read.
    pub fn read_only(self, read_only: bool) -> Self {
        Self { builder: self.builder.read_only(read_only), ..self }
    }

    /// Sets whether a serializable transaction that only reads may wait at its start, to run
    /// undisturbed then.
    pub fn deferrable(self, deferrable: bool) -> Self {
        Self { builder: self.builder.deferrable(deferrable), ..self }
    }

    /// Begins the transaction.
    ///
    /// # Errors
    ///
    /// The errors of [`tokio_postgres::TransactionBuilder::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, it is rolled back.
    pub async fn start(self) -> Result<Transaction<'a>, Error> {
        Ok(Transaction::new(self.builder.start().await?, &self.statements, &self.canceller))
    }
}

impl fmt::Debug for TransactionBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionBuilder").finish_non_exhaustive()
    }
}
