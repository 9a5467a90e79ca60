//! [`Transaction`]: as the client library's, with the session's prepared statements.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio_postgres::types::Type;
use tokio_postgres::{Error, IsolationLevel, Statement};

use super::statements::StatementCache;

/// A transaction. Dropped without [`commit`](Self::commit), it is rolled back, before the next caller
/// has the connection.
pub struct Transaction<'a> {
    inner: tokio_postgres::Transaction<'a>,
    statements: &'a StatementCache,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        inner: tokio_postgres::Transaction<'a>,
        statements: &'a StatementCache,
    ) -> Self {
        Self { inner, statements }
    }

    /// See [`Client::prepare_cached`](super::Client::prepare_cached).
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// Nothing is cached.
    pub async fn prepare_cached(&self, query: &str) -> Result<Statement, Error> {
        self.prepare_typed_cached(query, &[]).await
    }

    /// See [`Client::prepare_typed_cached`](super::Client::prepare_typed_cached).
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// Nothing is cached.
    pub async fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(query, types) {
            return Ok(statement);
        }
        let statement = self.inner.prepare_typed(query, types).await?;
        self.statements.add(query, types, &statement);
        Ok(statement)
    }

    /// Ends it, and keeps what it did.
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// It is committed or rolled back, and nobody knows which.
    pub async fn commit(self) -> Result<(), Error> {
        self.inner.commit().await
    }

    /// Ends it, and undoes what it did.
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// It is rolled back all the same.
    pub async fn rollback(self) -> Result<(), Error> {
        self.inner.rollback().await
    }

    /// A transaction within this one.
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// It is rolled back with this one, at the latest.
    pub async fn savepoint(&mut self, name: impl Into<String>) -> Result<Transaction<'_>, Error> {
        Ok(Transaction { inner: self.inner.savepoint(name).await?, statements: self.statements })
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = tokio_postgres::Transaction<'a>;

    fn deref(&self) -> &tokio_postgres::Transaction<'a> {
        &self.inner
    }
}

impl<'a> DerefMut for Transaction<'a> {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Transaction<'a> {
        &mut self.inner
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

/// How a transaction is to be. Made by
/// [`Client::build_transaction`](super::Client::build_transaction).
#[must_use = "it does nothing until start() is called"]
pub struct TransactionBuilder<'a> {
    inner: tokio_postgres::TransactionBuilder<'a>,
    statements: &'a StatementCache,
}

impl<'a> TransactionBuilder<'a> {
    pub(super) fn new(
        inner: tokio_postgres::TransactionBuilder<'a>,
        statements: &'a StatementCache,
    ) -> Self {
        Self { inner, statements }
    }

    /// What it sees of others.
    pub fn isolation_level(self, level: IsolationLevel) -> Self {
        Self { inner: self.inner.isolation_level(level), ..self }
    }

    /// Whether it may write.
    pub fn read_only(self, read_only: bool) -> Self {
        Self { inner: self.inner.read_only(read_only), ..self }
    }

    /// Whether it waits for a moment in which it can be read-only and serializable without being
    /// cancelled.
    pub fn deferrable(self, deferrable: bool) -> Self {
        Self { inner: self.inner.deferrable(deferrable), ..self }
    }

    /// Begins it.
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// As [`Client::transaction`](super::Client::transaction).
    pub async fn start(self) -> Result<Transaction<'a>, Error> {
        Ok(Transaction::new(self.inner.start().await?, self.statements))
    }
}

impl fmt::Debug for TransactionBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionBuilder").finish_non_exhaustive()
    }
}
