//! Code that others write, or generate, for any client of PostgreSQL: it runs on a guard, a client and a
//! transaction of ours.
#![cfg(target_os = "linux")]

use clorinde::client::{GenericClient as Generated, Params};
use clorinde::queries::authors::{
    RenameAuthorParams, author_by_name, authors_of_mood, insert_author, rename_author,
};
use clorinde::types::Mood;
use livepool::Pool;
use livepool_postgres::tokio_postgres::types::{BorrowToSql, ToSql};
use livepool_postgres::tokio_postgres::{Error, Row, RowStream, Statement, ToStatement};
use livepool_postgres::{GenericClient, Postgres};
use livepool_testkit::servers::Postgres as Server;
use refinery_core::{Migration, Runner};

const SCHEMA: &str = include_str!("../clorinde/schema.sql");

fn pool(server: &Server) -> Pool<Postgres> {
    livepool_postgres::pool(&server.url()).unwrap()
}

/// What is generated has a trait of its own, which a program implements for its clients. This does it
/// for all of ours, with the statement cache.
struct Db<'a, C>(&'a C);

impl<C: GenericClient> Generated for Db<'_, C> {
    fn stmt_cache() -> bool {
        true
    }

    async fn prepare(&self, query: &str) -> Result<Statement, Error> {
        self.0.prepare_cached(query).await
    }

    async fn execute<T>(&self, query: &T, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement + Sync + Send,
    {
        self.0.client().execute(query, params).await
    }

    async fn query_one<T>(&self, query: &T, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error>
    where
        T: ?Sized + ToStatement + Sync + Send,
    {
        self.0.client().query_one(query, params).await
    }

    async fn query_opt<T>(
        &self,
        query: &T,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error>
    where
        T: ?Sized + ToStatement + Sync + Send,
    {
        self.0.client().query_opt(query, params).await
    }

    async fn query<T>(&self, query: &T, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error>
    where
        T: ?Sized + ToStatement + Sync + Send,
    {
        self.0.client().query(query, params).await
    }

    async fn query_raw<T, I>(&self, query: &T, params: I) -> Result<RowStream, Error>
    where
        T: ?Sized + ToStatement + Sync + Send,
        I: IntoIterator + Sync + Send,
        I::IntoIter: ExactSizeIterator,
        I::Item: BorrowToSql,
    {
        self.0.client().query_raw(query, params).await
    }
}

/// A program's own code, for whatever it is given.
async fn add(client: &impl GenericClient, name: &str, born: Option<i32>) -> i64 {
    insert_author().bind(&Db(client), &name, &Mood::busy, &born).one().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clorinde_generates_runs_on_a_guard_a_client_and_a_transaction() {
    let server = Server::start();
    server.psql(SCHEMA);
    let pool = pool(&server);
    let mut guard = pool.get().await.unwrap();
    let first = add(&guard, "Ada", Some(1815)).await;
    // The client itself, from whatever holds it.
    let second = add(&*guard, "Brian", None).await;
    assert!(second > first);
    let kept = guard.statement_cache().size();
    assert_eq!(kept, 1, "prepared once");

    let mut transaction = GenericClient::transaction(&mut guard).await.unwrap();
    let third = add(&transaction, "Carl", None).await;
    let inner = GenericClient::transaction(&mut transaction).await.unwrap();
    add(&inner, "nobody", None).await;
    inner.rollback().await.unwrap();
    let renamed = RenameAuthorParams { new_name: "Karl", name: "Carl" };
    assert_eq!(rename_author().params(&Db(&transaction), &renamed).await.unwrap(), 1);
    transaction.commit().await.unwrap();

    let db = Db(&guard);
    let all = authors_of_mood().bind(&db, &Mood::busy).all().await.unwrap();
    let all: Vec<_> = all.iter().map(|author| (author.id, &*author.name, author.born)).collect();
    let expected = [(first, "Ada", Some(1815)), (second, "Brian", None), (third, "Karl", None)];
    assert_eq!(all, expected);
    assert!(author_by_name().bind(&db, &"nobody").opt().await.unwrap().is_none());
    // What gives no rows is run by its text there.
    assert_eq!(guard.statement_cache().size(), 3, "three queries, each prepared once");

    // Where nothing is to be kept, the library's own client is as good.
    let client: &livepool_postgres::tokio_postgres::Client = &guard;
    assert_eq!(authors_of_mood().bind(client, &Mood::calm).all().await.unwrap(), []);
    // Across tasks, as a server does it.
    let spawned = tokio::spawn(async move { add(&pool.get().await.unwrap(), "Dora", None).await });
    assert!(spawned.await.unwrap() > third);
}

#[tokio::test]
async fn generic_code_has_every_call_on_each_of_them() {
    async fn all(client: &mut impl GenericClient) {
        client.batch_execute("CREATE TEMP TABLE IF NOT EXISTS t (n int4)").await.unwrap();
        let insert = client.prepare_typed_cached("INSERT INTO t VALUES ($1)", &[]).await.unwrap();
        assert_eq!(client.execute(&insert, &[&1_i32]).await.unwrap(), 1);
        assert_eq!(client.execute_raw(&insert, [2_i32]).await.unwrap(), 1);
        let one = client.prepare("SELECT n FROM t WHERE n = 1").await.unwrap();
        assert_eq!(client.query_one(&one, &[]).await.unwrap().get::<_, i32>(0), 1);
        let two = client.query_opt("SELECT n FROM t WHERE n = $1", &[&2_i32]).await.unwrap();
        assert_eq!(two.unwrap().get::<_, i32>(0), 2);
        assert_eq!(client.query("SELECT n FROM t", &[]).await.unwrap().len(), 2);
        let rows = client.query_raw("SELECT n FROM t WHERE n > $1", [0_i32]).await.unwrap();
        assert_eq!(futures_util::TryStreamExt::try_collect::<Vec<_>>(rows).await.unwrap().len(), 2);
        assert_eq!(client.simple_query("DELETE FROM t").await.unwrap().len(), 1);
        client.transaction().await.unwrap().rollback().await.unwrap();
    }
    let server = Server::start();
    let mut guard = pool(&server).get().await.unwrap();
    all(&mut guard).await;
    all(&mut *guard).await;
    all(&mut guard.transaction().await.unwrap()).await;
}

#[tokio::test]
async fn refinery_migrates_over_a_guard() {
    let server = Server::start();
    let pool = pool(&server);
    let migrations = [
        Migration::unapplied("V1__authors", SCHEMA).unwrap(),
        Migration::unapplied("V2__more", "ALTER TABLE authors ADD COLUMN died int4").unwrap(),
    ];
    for applied in [2, 0] {
        let mut guard = pool.get().await.unwrap();
        // It takes the client of the library underneath.
        let client: &mut livepool_postgres::tokio_postgres::Client = &mut guard;
        let report = Runner::new(&migrations).run_async(client).await.unwrap();
        assert_eq!(report.applied_migrations().len(), applied);
    }
    let guard = pool.get().await.unwrap();
    assert_eq!(guard.query("SELECT died FROM authors", &[]).await.unwrap().len(), 0);
}
