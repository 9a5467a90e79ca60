//! [`PoolExt`]: queries straight on a pool.

use std::future::Future;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::Error;
use super::protocol::Postgres;
use livepool::Pool;

/// Calls of a client that a pool has as well, for one statement by itself.
macro_rules! on_pool {
    ($($(#[$doc:meta])* $name:ident => $out:ty;)+) => {
        /// Queries straight on a pool, for one statement by itself: implemented for
        /// [`Pool<Postgres>`](crate::Pool).
        ///
        /// Each call is one checkout, one use, and a connection that goes back; its statement is prepared once
        /// for each connection, as by [`Client::query`](crate::Client::query). So two calls may run in two
        /// sessions, in any order: no transaction spans them, and a `SET`, a temporary table or a lock of
        /// the session is gone after its call. For more than one statement take a client
        /// ([`Pool::get`](livepool::Pool::get)); for many small ones at a time a share
        /// ([`Pool::share`](livepool::Pool::share)).
        ///
        /// Nothing is run a second time. A connection is proved alive before its statement is sent; if it
        /// ends all the same before the answer has come, the call fails, and nobody can say whether the
        /// statement was carried out: whether to repeat it is yours to know. (A cached statement that has become
        /// useless is prepared anew, as on a client.) A statement that was
        /// [prepared](crate::Client::prepare_cached) belongs to its connection; here is the text.
        ///
        /// The wait for a connection is bounded by `timeouts.checkout`, the statement by
        /// [`timeouts.operation`](livepool::config::Timeouts::operation) if that is set.
        ///
        /// ```no_run
        /// use livepool_postgres::{PoolExt as _, Postgres};
        ///
        /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
        /// let pool = Postgres::from_url("postgres://app:secret@db.internal/app")?.pool()?;
        /// let row = pool.query_one("SELECT count(*) FROM visits WHERE page = $1", &[&"/"]).await?;
        /// println!("{}", row.get::<_, i64>(0));
        /// # Ok(()) }
        /// ```
        pub trait PoolExt: sealed::Sealed { $(
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// [`Error::Checkout`], if no connection was to be had: the statement was not run then.
            #[doc = concat!("[`Error::Postgres`] with the errors of [`Client::", stringify!($name), "`](crate::Client::", stringify!($name), ").")]
            ///
            /// # Cancel safety
            ///
            /// Dropped while it waits for a connection, it loses its place in the queue. Dropped later, the
            /// statement is cancelled at the server, and may have been carried out before.
            fn $name(
                &self,
                statement: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> impl Future<Output = Result<$out, Error>> + Send;
        )+ }

        impl PoolExt for Pool<Postgres> { $(
            #[track_caller]
            fn $name(
                &self,
                statement: &str,
                params: &[&(dyn ToSql + Sync)],
            ) -> impl Future<Output = Result<$out, Error>> + Send {
                // Here, so that what is told of a checkout names who called.
                let client = self.get();
                async move {
                    let client = client.await?;
                    client.$name(statement, params).await.map_err(Error::Postgres)
                }
            }
        )+ }
    };
}

on_pool! {
    /// Runs a statement, and gives all of its rows.
    query => Vec<Row>;
    /// Runs a statement that gives one row.
    query_one => Row;
    /// Runs a statement that gives one row, or none.
    query_opt => Option<Row>;
    /// Runs a statement, and says how many rows it has changed.
    execute => u64;
}

/// For nobody else, and so methods may be added.
mod sealed {
    use super::{Pool, Postgres};

    pub trait Sealed {}

    impl Sealed for Pool<Postgres> {}
}
