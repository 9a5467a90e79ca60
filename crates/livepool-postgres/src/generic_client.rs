//! [`GenericClient`]: what a client, its guard and a transaction have in common.

use std::future::Future;

use tokio_postgres::types::{BorrowToSql, ToSql, Type};
use tokio_postgres::{Error, Row, RowStream, SimpleQueryMessage, Statement};

use super::client::{Client, Transaction};
use super::protocol::Postgres;
use super::query::ToStatement;
use livepool::Guard;

/// What a [`Client`], a [`Guard`] of one and a [`Transaction`] have in common, for code that runs on
/// either.
///
/// As that of `deadpool-postgres`, with the statement cache; the one of the same name in
/// [`tokio_postgres`] has none. It is implemented for these three and nothing else.
///
/// ```
/// use livepool_postgres::{GenericClient, Postgres};
/// use livepool_postgres::livepool::Pool;
/// use livepool_postgres::tokio_postgres::Error;
///
/// async fn name_of(client: &impl GenericClient, id: i32) -> Result<String, Error> {
///     let statement = client.prepare_cached("SELECT name FROM users WHERE id = $1").await?;
///     Ok(client.query_one(&statement, &[&id]).await?.get(0))
/// }
///
/// # async fn f(pool: Pool<Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = pool.get().await?;
/// name_of(&client, 1).await?;
/// let transaction = client.transaction().await?;
/// name_of(&transaction, 2).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
///
/// The errors and the cancel safety of each method are those of the method of [`Client`] with the same
/// name, or of [`tokio_postgres::Client`] where that has none.
pub trait GenericClient: Send + Sync + sealed::Sealed {
    /// See [`Client::prepare_cached`].
    fn prepare_cached(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send {
        self.prepare_typed_cached(query, &[])
    }

    /// See [`Client::prepare_typed_cached`].
    fn prepare_typed_cached(
        &self,
        query: &str,
        types: &[Type],
    ) -> impl Future<Output = Result<Statement, Error>> + Send;

    /// See [`tokio_postgres::Client::prepare`].
    fn prepare(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send {
        async move { self.client().prepare(query).await }
    }

    /// See [`tokio_postgres::Client::prepare_typed`].
    fn prepare_typed(
        &self,
        query: &str,
        types: &[Type],
    ) -> impl Future<Output = Result<Statement, Error>> + Send {
        async move { self.client().prepare_typed(query, types).await }
    }

    /// See [`Client::query`].
    fn query<T>(
        &self,
        statement: &T,
        params: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync;

    /// See [`Client::query_one`].
    fn query_one<T>(
        &self,
        statement: &T,
        params: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Row, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync;

    /// See [`Client::query_opt`].
    fn query_opt<T>(
        &self,
        statement: &T,
        params: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync;

    /// See [`Client::execute`].
    fn execute<T>(
        &self,
        statement: &T,
        params: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<u64, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync;

    /// See [`tokio_postgres::Client::query_raw`].
    fn query_raw<T, P, I>(
        &self,
        statement: &T,
        params: I,
    ) -> impl Future<Output = Result<RowStream, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync,
        P: BorrowToSql,
        I: IntoIterator<Item = P> + Sync + Send,
        I::IntoIter: ExactSizeIterator,
    {
        async move { self.client().query_raw(statement, params).await }
    }

    /// See [`tokio_postgres::Client::execute_raw`].
    fn execute_raw<T, P, I>(
        &self,
        statement: &T,
        params: I,
    ) -> impl Future<Output = Result<u64, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync,
        P: BorrowToSql,
        I: IntoIterator<Item = P> + Sync + Send,
        I::IntoIter: ExactSizeIterator,
    {
        async move { self.client().execute_raw(statement, params).await }
    }

    /// See [`tokio_postgres::Client::batch_execute`].
    fn batch_execute(&self, query: &str) -> impl Future<Output = Result<(), Error>> + Send {
        async move { self.client().batch_execute(query).await }
    }

    /// See [`tokio_postgres::Client::simple_query`].
    fn simple_query(
        &self,
        query: &str,
    ) -> impl Future<Output = Result<Vec<SimpleQueryMessage>, Error>> + Send {
        async move { self.client().simple_query(query).await }
    }

    /// See [`Client::transaction`]; in a transaction, one inside it.
    fn transaction(&mut self) -> impl Future<Output = Result<Transaction<'_>, Error>> + Send;

    /// The client of the library underneath. What is asked for there does not use the statement cache.
    fn client(&self) -> &tokio_postgres::Client;
}

macro_rules! generic_client {
    ($($type:ty: |$this:ident| $inner:expr, $client:expr;)+) => { $(
        impl sealed::Sealed for $type {}

        impl GenericClient for $type {
            async fn prepare_typed_cached(
                &self,
                query: &str,
                types: &[Type],
            ) -> Result<Statement, Error> {
                let $this = self;
                $inner.prepare_typed_cached(query, types).await
            }

            async fn query<T>(
                &self,
                statement: &T,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Vec<Row>, Error>
            where
                T: ?Sized + ToStatement + Sync,
            {
                let $this = self;
                $inner.query(statement, params).await
            }

            async fn query_one<T>(
                &self,
                statement: &T,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Row, Error>
            where
                T: ?Sized + ToStatement + Sync,
            {
                let $this = self;
                $inner.query_one(statement, params).await
            }

            async fn query_opt<T>(
                &self,
                statement: &T,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Option<Row>, Error>
            where
                T: ?Sized + ToStatement + Sync,
            {
                let $this = self;
                $inner.query_opt(statement, params).await
            }

            async fn execute<T>(
                &self,
                statement: &T,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<u64, Error>
            where
                T: ?Sized + ToStatement + Sync,
            {
                let $this = self;
                $inner.execute(statement, params).await
            }

            async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
                let $this = self;
                $inner.transaction().await
            }

            fn client(&self) -> &tokio_postgres::Client {
                let $this = self;
                $client
            }
        }
    )+ };
}

// Each by the type's own method, which has the same name and comes first.
generic_client! {
    Client: |this| this, this;
    Guard<Postgres>: |this| (**this), this;
    Transaction<'_>: |this| this, this.parts().0;
}

mod sealed {
    /// Methods may be added.
    pub trait Sealed {}
}
