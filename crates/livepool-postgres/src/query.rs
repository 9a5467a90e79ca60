//! Running statements that may have become useless, or that must not be named.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Statement};

use super::statements::{StatementCache, Statements};

mod private {
    use tokio_postgres::Statement;

    pub trait AsRunnable {
        #[doc(hidden)]
        fn runnable(&self) -> Runnable<'_>;
    }

    /// A statement or a text that is to be run.
    #[derive(Debug, Clone, Copy)]
    pub enum Runnable<'a> {
        Statement(&'a Statement),
        Text(&'a str),
    }
}

pub(super) use private::{AsRunnable, Runnable};

/// A prepared [`Statement`], or a text, that can be run. As [`tokio_postgres::ToStatement`], which
/// is implemented for the same types.
///
/// ```
/// use livepool_postgres::tokio_postgres::Error;
/// use livepool_postgres::{Client, ToStatement};
///
/// /// A text, or a statement that was prepared.
/// async fn count(client: &Client, query: &(impl ToStatement + ?Sized)) -> Result<i64, Error> {
///     Ok(client.query_one(query, &[]).await?.get(0))
/// }
/// ```
pub trait ToStatement: tokio_postgres::ToStatement + private::AsRunnable {}

impl ToStatement for Statement {}
impl ToStatement for str {}
impl ToStatement for String {}

impl private::AsRunnable for Statement {
    fn runnable(&self) -> Runnable<'_> {
        Runnable::Statement(self)
    }
}

impl private::AsRunnable for str {
    fn runnable(&self) -> Runnable<'_> {
        Runnable::Text(self)
    }
}

impl private::AsRunnable for String {
    fn runnable(&self) -> Runnable<'_> {
        Runnable::Text(self)
    }
}

/// The values of parameters.
pub(super) type Params<'a> = [&'a (dyn ToSql + Sync)];

/// How a statement is run.
pub(super) enum RunMode {
    /// With the call of the client library that was asked for.
    AsGiven,
    /// With this statement of the cache, instead of its text.
    Cached(Statement),
    /// With a call that sends the text and the types of the parameters each time.
    Typed(String, Vec<Type>),
}

impl StatementCache {
    /// Decides how a statement is run with so many parameters; with unnamed statements that may ask
    /// the server for its types.
    pub(super) async fn run_mode(
        &self,
        client: &Client,
        runnable: Runnable<'_>,
        params: usize,
    ) -> Result<RunMode, Error> {
        if self.mode() == Statements::Named {
            return Ok(match runnable {
                // The client library would prepare it for this one use, and close it.
                Runnable::Text(text) if self.keeps_statements() => {
                    RunMode::Cached(self.prepare(client, text, &[]).await?)
                }
                _ => RunMode::AsGiven,
            });
        }
        let (text, statement) = match runnable {
            Runnable::Text(text) if params == 0 => {
                return Ok(RunMode::Typed(text.to_owned(), Vec::new()));
            }
            Runnable::Text(text) => (text.to_owned(), self.prepare(client, text, &[]).await?),
            Runnable::Statement(statement) => match self.text_of(statement) {
                Some((text, _)) => (text, statement.clone()),
                // Prepared by the client library's own call.
                None => return Ok(RunMode::AsGiven),
            },
        };
        // With too many or too few of them the client library has the error.
        let fits = statement.params().len() == params;
        Ok(if fits { RunMode::Typed(text, statement.params().to_vec()) } else { RunMode::AsGiven })
    }

    pub(super) async fn renew(
        &self,
        client: &Client,
        runnable: Runnable<'_>,
        error: &Error,
    ) -> Option<Statement> {
        match runnable {
            Runnable::Statement(statement) => self.renew_statement(client, statement, error).await,
            Runnable::Text(_) => None,
        }
    }
}

pub(super) fn typed<'a>(
    params: &Params<'a>,
    types: Vec<Type>,
) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().copied().zip(types).collect()
}

/// Calls of the client library that take a statement and values.
macro_rules! queries {
    ($($(#[$doc:meta])* $name:ident, $typed:ident => $out:ty;)+) => { $(
        $(#[$doc])*
        ///
        /// A text is prepared once for each connection, as by
        /// [`prepare_cached`](super::Client::prepare_cached), and kept: to run it again is one round trip.
        /// The cache is bounded; with a capacity of 0 a text is prepared for each use.
        ///
        /// A statement of the cache that has become useless (its table has other columns now, a type was
        /// made anew, the session's statements were deallocated) is prepared anew and run, if the server
        /// refused it before anything ran and no transaction is open. In a transaction this one use
        /// fails.
        ///
        /// # Errors
        ///
        #[doc = concat!("The errors of [`tokio_postgres::Client::", stringify!($name), "`].")]
        ///
        /// # Cancel safety
        ///
        /// Dropped in the middle, nobody can say whether it was run.
        pub async fn $name<T>(
            &self,
            statement: &T,
            params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
        ) -> Result<$out, Error>
        where
            T: ?Sized + super::query::ToStatement,
        {
            use super::query::{AsRunnable, RunMode, typed};
            let (client, cache) = self.parts();
            let run_mode = cache.run_mode(client, statement.runnable(), params.len()).await?;
            let running = cache.running_guard().await;
            let (result, used) = match run_mode {
                RunMode::Typed(text, types) => {
                    return client.$typed(&text, &typed(params, types)).await;
                }
                RunMode::Cached(cached) => (client.$name(&cached, params).await, Some(cached)),
                RunMode::AsGiven => (client.$name(statement, params).await, None),
            };
            let error = match result {
                Ok(out) => return Ok(out),
                Err(error) => error,
            };
            // To renew it may take a transaction.
            drop(running);
            let used = used.as_ref().map_or(statement.runnable(), AsRunnable::runnable);
            match cache.renew(client, used, &error).await {
                Some(renewed) => client.$name(&renewed, params).await,
                None => Err(error),
            }
        }
    )+ };
}

/// The calls that a client and a transaction have in common.
macro_rules! all_queries {
    () => {
        super::query::queries! {
            /// Runs a statement, and gives all of its rows.
            query, query_typed => Vec<tokio_postgres::Row>;
            /// Runs a statement that gives one row.
            query_one, query_typed_one => tokio_postgres::Row;
            /// Runs a statement that gives one row, or none.
            query_opt, query_typed_opt => Option<tokio_postgres::Row>;
            /// Runs a statement, and says how many rows it has changed.
            execute, execute_typed => u64;
        }
    };
}

/// Calls of those who share a connection. What went wrong on it may be another's fault, so nothing is run
/// twice.
macro_rules! shared_queries {
    ($($(#[$doc:meta])* $name:ident, $typed:ident => $out:ty;)+) => { $(
        $(#[$doc])*
        ///
        /// A text is prepared once for each connection, and kept. A statement that has become useless fails
        /// once, and is prepared anew for its next use.
        ///
        /// # Errors
        ///
        #[doc = concat!("The errors of [`tokio_postgres::Client::", stringify!($name), "`], and those of this type.")]
        ///
        /// # Cancel safety
        ///
        /// Dropped in the middle, nobody can say whether it was run.
        pub async fn $name<T>(
            &self,
            statement: &T,
            params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
        ) -> Result<$out, Error>
        where
            T: ?Sized + ToStatement,
        {
            let Client { client, statements, .. } = self.client();
            let request = std::pin::pin!(async {
                let run_mode = statements.run_mode(client, statement.runnable(), params.len()).await?;
                let _running = statements.running_guard().await;
                match run_mode {
                    RunMode::Typed(text, types) => {
                        client.$typed(&text, &query::typed(params, types)).await
                    }
                    RunMode::Cached(cached) => client.$name(&cached, params).await,
                    RunMode::AsGiven => client.$name(statement, params).await,
                }
            });
            self.run(request).await
        }
    )+ };
    () => {
        query::shared_queries! {
            /// Runs a statement, and gives all of its rows.
            query, query_typed => Vec<tokio_postgres::Row>;
            /// Runs a statement that gives one row.
            query_one, query_typed_one => tokio_postgres::Row;
            /// Runs a statement that gives one row, or none.
            query_opt, query_typed_opt => Option<tokio_postgres::Row>;
            /// Runs a statement, and says how many rows it has changed.
            execute, execute_typed => u64;
        }
    };
}

pub(super) use {all_queries, queries, shared_queries};
