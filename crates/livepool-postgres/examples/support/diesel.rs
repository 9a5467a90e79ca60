//! diesel-async over the sessions of a pool: all that there is to it. Copy it.

use std::borrow::Cow;
use std::error::Error;

use diesel::connection::{CacheSize, get_default_instrumentation};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use livepool_postgres::{Library, LibraryPostgres, Postgres, tokio_postgres};

/// A pool of these gives `&mut guard` to every query of diesel-async.
pub(crate) type DieselPool = livepool::Pool<LibraryPostgres<Diesel>>;

pub(crate) fn diesel(postgres: Postgres) -> LibraryPostgres<Diesel> {
    postgres.with_library(Diesel)
}

pub(crate) struct Diesel;

impl Library for Diesel {
    type Client = AsyncPgConnection;
    type Error = Box<dyn Error + Send + Sync>;

    async fn begin(&self, client: tokio_postgres::Client) -> Result<Self::Client, Self::Error> {
        Ok(AsyncPgConnection::try_from(client).await?)
    }

    async fn batch_execute(&self, conn: &mut Self::Client, sql: &str) -> Result<(), Self::Error> {
        Ok(conn.batch_execute(sql).await?)
    }

    /// The depth of its transactions, and whether one was dropped in the middle of `BEGIN` or `COMMIT`. What the
    /// last user has set of the connection ends with it, too; the cache stays, if it has its size already.
    fn forget_transaction(&self, conn: &mut Self::Client) {
        *conn.transaction_state() = Default::default();
        conn.set_instrumentation(get_default_instrumentation());
        conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
    }

    /// Another size begins with an empty cache.
    fn forget_statements(&self, conn: &mut Self::Client) {
        conn.set_prepared_statement_cache_size(CacheSize::Disabled);
        conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
    }

    /// As diesel-async sets them when a session begins.
    fn settings(&self) -> Cow<'_, str> {
        Cow::Borrowed("SET TIME ZONE 'UTC'; SET CLIENT_ENCODING TO 'UTF8'")
    }
}
