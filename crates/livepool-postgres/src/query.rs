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

    /// What is to be run.
    #[derive(Debug, Clone, Copy)]
    pub enum Runnable<'a> {
        Statement(&'a Statement),
        Text(&'a str),
    }
}

pub(super) use private::Runnable;

/// What can be run: a prepared [`Statement`], or a text. As [`tokio_postgres::ToStatement`], which is
/// implemented for the same types.
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
    /// As it was given.
    AsGiven,
    /// By its text.
    Typed(String, Vec<Type>),
}

impl StatementCache {
    /// How this one is run with so many parameters.
    pub(super) async fn run_mode(
        &self,
        client: &Client,
        runnable: Runnable<'_>,
        params: usize,
    ) -> Result<RunMode, Error> {
        if self.mode() == Statements::Named {
            return Ok(RunMode::AsGiven);
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
        /// A statement of the cache that has become useless (its table has other columns now, a type was
        /// made anew, the session's statements were deallocated) is prepared anew and run, if the server
        /// refused it before anything ran and no transaction is open. In a transaction this one use
        /// fails.
        ///
        /// # Errors
        ///
        #[doc = concat!("Those of [`tokio_postgres::Client::", stringify!($name), "`].")]
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
            use super::query::{RunMode, typed};
            let (client, cache) = self.parts();
            let run_mode = cache.run_mode(client, statement.runnable(), params.len()).await?;
            let running = cache.running_guard().await;
            match run_mode {
                RunMode::Typed(text, types) => client.$typed(&text, &typed(params, types)).await,
                RunMode::AsGiven => match client.$name(statement, params).await {
                    Ok(out) => Ok(out),
                    Err(error) => {
                        // To renew it may take a transaction.
                        drop(running);
                        match cache.renew(client, statement.runnable(), &error).await {
                            Some(renewed) => client.$name(&renewed, params).await,
                            None => Err(error),
                        }
                    }
                },
            }
        }
    )+ };
}

/// The same for a client and a transaction.
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

pub(super) use {all_queries, queries};
