//! Running statements that may have become useless, or that must not be named.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Statement};

use super::statements::{StatementCache, Statements};

mod private {
    use tokio_postgres::Statement;

    pub trait Sealed {
        #[doc(hidden)]
        fn given(&self) -> Given<'_>;
    }

    /// What is to be run.
    #[derive(Debug, Clone, Copy)]
    pub enum Given<'a> {
        Statement(&'a Statement),
        Text(&'a str),
    }
}

pub(super) use private::Given;

/// What can be run: a prepared [`Statement`], or a text. As [`tokio_postgres::ToStatement`], which is
/// implemented for the same types.
pub trait ToStatement: tokio_postgres::ToStatement + private::Sealed {}

impl ToStatement for Statement {}
impl ToStatement for str {}
impl ToStatement for String {}

impl private::Sealed for Statement {
    fn given(&self) -> Given<'_> {
        Given::Statement(self)
    }
}

impl private::Sealed for str {
    fn given(&self) -> Given<'_> {
        Given::Text(self)
    }
}

impl private::Sealed for String {
    fn given(&self) -> Given<'_> {
        Given::Text(self)
    }
}

/// The values of parameters.
pub(super) type Params<'a> = [&'a (dyn ToSql + Sync)];

/// How a statement is run.
pub(super) enum Way {
    /// As it was given.
    Given,
    /// By its text.
    Typed(String, Vec<Type>),
}

impl StatementCache {
    /// How this one is run with so many parameters.
    pub(super) async fn way(
        &self,
        client: &Client,
        given: Given<'_>,
        params: usize,
    ) -> Result<Way, Error> {
        if self.mode() == Statements::Named {
            return Ok(Way::Given);
        }
        let (text, statement) = match given {
            Given::Text(text) if params == 0 => return Ok(Way::Typed(text.to_owned(), Vec::new())),
            Given::Text(text) => (text.to_owned(), self.prepare(client, text, &[]).await?),
            Given::Statement(statement) => match self.text_of(statement) {
                Some((text, _)) => (text, statement.clone()),
                // Prepared by the client library's own call.
                None => return Ok(Way::Given),
            },
        };
        // With too many or too few of them the client library has the error.
        let fits = statement.params().len() == params;
        Ok(if fits { Way::Typed(text, statement.params().to_vec()) } else { Way::Given })
    }

    pub(super) async fn renewed_of(
        &self,
        client: &Client,
        given: Given<'_>,
        error: &Error,
    ) -> Option<Statement> {
        match given {
            Given::Statement(statement) => self.renewed(client, statement, error).await,
            Given::Text(_) => None,
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
            use super::query::{Way, typed};
            let (client, cache) = self.parts();
            let way = cache.way(client, statement.given(), params.len()).await?;
            let running = cache.running().await;
            match way {
                Way::Typed(text, types) => client.$typed(&text, &typed(params, types)).await,
                Way::Given => match client.$name(statement, params).await {
                    Ok(out) => Ok(out),
                    Err(error) => {
                        // To renew it may take a transaction.
                        drop(running);
                        match cache.renewed_of(client, statement.given(), &error).await {
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
