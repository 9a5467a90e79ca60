//! [`Client`]: a session with PostgreSQL that belongs to one caller.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Notification, Statement};

use super::cancel::Canceller;
use super::scanner::PgScanner;
use super::statements::StatementCache;
use super::transaction::{Transaction, TransactionBuilder};
use crate::stream::Ledger;

/// A session with PostgreSQL: everything that a [`tokio_postgres::Client`] can do, and a cache of
/// prepared statements.
pub struct Client {
    client: tokio_postgres::Client,
    pub(super) statements: StatementCache,
    pub(super) scanner: Arc<Mutex<PgScanner>>,
    pub(super) ledger: Ledger,
    pub(super) canceller: Canceller,
    listener: Listener,
}

/// Where notifications go, while somebody listens.
pub(super) type Listener = Arc<Mutex<Option<UnboundedSender<Notification>>>>;

impl Client {
    pub(super) fn new(
        client: tokio_postgres::Client,
        scanner: Arc<Mutex<PgScanner>>,
        ledger: Ledger,
        canceller: Canceller,
        listener: Listener,
    ) -> Self {
        let statements = StatementCache::default();
        Self { client, statements, scanner, ledger, canceller, listener }
    }

    /// As [`prepare`](tokio_postgres::Client::prepare), once per session and text.
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

    /// As [`prepare_typed`](tokio_postgres::Client::prepare_typed), once per session, text and types.
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
        let statement = self.client.prepare_typed(query, types).await?;
        self.statements.add(query, types, &statement);
        Ok(statement)
    }

    /// The statements that are prepared in this session.
    pub fn statement_cache(&self) -> &StatementCache {
        &self.statements
    }

    /// Begins a transaction, which is rolled back if it is dropped.
    ///
    /// # Errors
    ///
    /// That of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// A transaction that was begun for nobody is rolled back before the next caller has the
    /// connection.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let inner = self.client.transaction().await?;
        Ok(Transaction::new(inner, &self.statements))
    }

    /// A transaction with settings of its own.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_> {
        TransactionBuilder::new(self.client.build_transaction(), &self.statements)
    }

    /// The notifications that come from now on, on channels that this session listens to. A session
    /// that has listened stops doing so when it comes back.
    pub fn notifications(&mut self) -> UnboundedReceiver<Notification> {
        let (sender, receiver) = unbounded_channel();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    pub(super) fn scanner(&self) -> MutexGuard<'_, PgScanner> {
        self.scanner.lock().unwrap_or_else(PoisonError::into_inner)
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
        f.debug_struct("Client").field("owed", &self.ledger.debt()).finish_non_exhaustive()
    }
}
