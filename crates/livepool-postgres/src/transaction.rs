//! [`Transaction`]: the client library's, with the statement cache of its connection.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio_postgres::types::Type;
use tokio_postgres::{Error, IsolationLevel, Statement};

use super::cancel::{CancelToken, Canceller};
use super::statements::StatementCache;
use crate::sync::Arc;

/// A transaction. Dropped without [`commit`](Self::commit), it is rolled back before the next user
/// gets the connection.
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
    /// Those of [`tokio_postgres::Client::prepare`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost but the statement.
    pub async fn prepare_cached(&self, query: &str) -> Result<Statement, Error> {
        self.prepare_typed_cached(query, &[]).await
    }

    /// See [`Client::prepare_typed_cached`](super::Client::prepare_typed_cached).
    ///
    /// # Errors
    ///
    /// Those of [`tokio_postgres::Client::prepare_typed`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost but the statement.
    pub async fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        self.statements.prepare(self.transaction.client(), query, types).await
    }

    super::query::all_queries!();

    fn parts(&self) -> (&tokio_postgres::Client, &StatementCache) {
        (self.transaction.client(), &self.statements)
    }

    /// Makes it last.
    ///
    /// # Errors
    ///
    /// Those of [`tokio_postgres::Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, nobody can say whether it was committed.
    pub async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    /// Takes it back, and says when that is done.
    ///
    /// # Errors
    ///
    /// Those of [`tokio_postgres::Transaction::rollback`].
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
    /// Those of [`tokio_postgres::Transaction::transaction`].
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
    /// Those of [`tokio_postgres::Transaction::savepoint`].
    ///
    /// # Cancel safety
    ///
    /// As that of [`transaction`](Self::transaction).
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

    /// What it sees of others.
    pub fn isolation_level(self, level: IsolationLevel) -> Self {
        Self { builder: self.builder.isolation_level(level), ..self }
    }

    /// Whether it may write.
    pub fn read_only(self, read_only: bool) -> Self {
        Self { builder: self.builder.read_only(read_only), ..self }
    }

    /// Whether a serializable one that only reads may wait at its start, to run undisturbed then.
    pub fn deferrable(self, deferrable: bool) -> Self {
        Self { builder: self.builder.deferrable(deferrable), ..self }
    }

    /// Begins it.
    ///
    /// # Errors
    ///
    /// Those of [`tokio_postgres::TransactionBuilder::start`].
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
