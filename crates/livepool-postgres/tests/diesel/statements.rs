//! The statements that diesel keeps: over checkouts, and when they are gone or useless.

use super::*;

use livepool_postgres::{Library, RecyclingMethod, tokio_postgres};

/// The names of the statements that the session has, beside the one that asks.
async fn names(conn: &mut Guard) -> String {
    let names = "SELECT coalesce(string_agg(name, ' ' ORDER BY prepare_time, name), '') \
                 FROM pg_prepared_statements WHERE statement NOT LIKE '%pg_prepared_statements%'";
    sql::<Text>(names).get_result(conn).await.unwrap()
}

/// The error of a query that has one.
async fn refusal(conn: &mut Guard) -> String {
    amounts(conn).await.unwrap_err().to_string()
}

async fn amounts(conn: &mut Guard) -> QueryResult<Vec<i32>> {
    orders::table.select(orders::amount).load(conn).await
}

#[tokio::test]
async fn statements_are_prepared_once_for_all_users_of_a_connection() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let mut first = String::new();
    for number in 0..20 {
        let mut conn = pool.get().await.unwrap();
        assert_eq!(echo(&mut conn, number).await, Ok(number));
        assert_eq!(amounts(&mut conn).await, Ok(vec![]));
        let names = names(&mut conn).await;
        assert_eq!(names.split(' ').count(), 2, "{names}");
        if number == 0 {
            first = names;
        } else {
            assert_eq!(names, first);
        }
        // A reset leaves them alone.
        conn.batch_execute("SET work_mem = '1MB'").await.unwrap();
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn statements_that_the_session_has_lost_are_not_used_again() {
    let server = server();
    let custom = RecyclingMethod::Custom("DISCARD ALL".into());
    for method in [RecyclingMethod::Fast, RecyclingMethod::Tidy, custom] {
        let postgres = postgres(&server).with_recycling(method);
        let (pool, events) = pool_of(postgres, one);
        for number in 0..10 {
            let mut conn = pool.get().await.unwrap();
            assert_eq!(echo(&mut conn, number).await, Ok(number));
            assert_eq!(amounts(&mut conn).await, Ok(vec![]));
            if number % 3 == 1 {
                conn.batch_execute("DISCARD ALL").await.unwrap();
                // In the same use, too.
                assert_eq!(echo(&mut conn, number).await, Ok(number));
            }
            if number % 3 == 2 {
                conn.batch_execute("DEALLOCATE ALL").await.unwrap();
            }
        }
        // Nor by one who never asks for the connection as mutable.
        pool.get().await.unwrap().batch_execute("DISCARD ALL").await.unwrap();
        let conn = pool.get().await.unwrap();
        let asked = diesel::select(5_i64.into_sql::<BigInt>()).get_result::<i64>(&mut &**conn);
        assert_eq!(asked.await, Ok(5));
        drop(conn);
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }
}

/// PostgreSQL refuses a statement whose columns are others than when it was prepared. The one who finds that
/// out is told; nobody after that, on any connection.
#[tokio::test]
async fn a_table_that_was_altered_fails_one_query_and_no_other() {
    let server = server();
    server.psql("INSERT INTO orders VALUES (1, 'ann', 7)");
    let (pool, events) = pool(&server, |config| config.with_max_size(3));
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut conn = pool.get().await.unwrap();
        assert_eq!(amounts(&mut conn).await, Ok(vec![7]));
        conns.push(conn);
    }
    server.psql(
        "ALTER TABLE orders ALTER amount TYPE int8; ALTER TABLE orders ALTER amount TYPE int4",
    );
    let mut failed = 0;
    // A type that changed and is the old one again fails nobody.
    for conn in &mut conns {
        failed += usize::from(amounts(conn).await.is_err());
    }
    assert_eq!(failed, 0);
    server.psql("ALTER TABLE orders ALTER amount TYPE text");
    let error = refusal(&mut conns[0]).await;
    assert!(error.contains("cached plan must not change result type"), "{error}");
    // Diesel's schema is wrong now, but each statement is the one of now.
    for conn in &mut conns {
        let error = refusal(conn).await;
        assert!(!error.contains("cached plan"), "{error}");
    }
    server.psql("ALTER TABLE orders ALTER amount TYPE int4 USING amount::int4");
    drop(conns);
    assert_eq!((events.opened(), events.closed()), (3, vec![]));
}

#[tokio::test]
async fn a_caller_who_goes_while_a_statement_is_prepared_leaves_none_behind() {
    let server = server();
    let (pool, events) = pool(&server, one);
    // As many conditions are a text of their own, which diesel keeps.
    let query = |conditions: usize| {
        let all = orders::table.select(orders::id).into_boxed();
        (0..conditions).fold(all, |query, _| query.filter(orders::amount.gt(0)))
    };
    let mut given_up = 0;
    for waits in 0..4 {
        let mut conn = pool.get().await.unwrap();
        let done = given_up_after(waits, query(waits).load::<i64>(&mut conn)).await;
        given_up += usize::from(done.is_none());
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        assert_eq!(query(waits).load::<i64>(&mut conn).await, Ok(vec![]));
        assert_eq!(amounts(&mut conn).await, Ok(vec![]));
        let names = names(&mut conn).await;
        assert!(names.split(' ').count() <= waits + 2, "after {waits} waits: {names}");
    }
    assert!(
        given_up >= 2,
        "it was given up {given_up} times: not while it was prepared and while it ran"
    );
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// Keeps one statement, and says how often it was told to forget it.
struct Keeper {
    client: tokio_postgres::Client,
    kept: Option<tokio_postgres::Statement>,
    forgotten: usize,
}

struct Keeping;

impl Library for Keeping {
    type Client = Keeper;
    type Error = tokio_postgres::Error;

    async fn begin(&self, client: tokio_postgres::Client) -> Result<Keeper, Self::Error> {
        Ok(Keeper { client, kept: None, forgotten: 0 })
    }

    async fn batch_execute(&self, keeper: &mut Keeper, sql: &str) -> Result<(), Self::Error> {
        keeper.client.batch_execute(sql).await
    }

    fn forget_transaction(&self, _: &mut Keeper) {}

    fn forget_statements(&self, keeper: &mut Keeper) {
        (keeper.kept, keeper.forgotten) = (None, keeper.forgotten + 1);
    }
}

/// On the wire it is like one whose caller went away, and closed: the library must not use it then.
#[tokio::test]
async fn a_statement_that_a_library_keeps_and_never_ran_is_forgotten_when_it_is_closed() {
    let server = server();
    let pool = postgres(&server)
        .with_library(Keeping)
        .with_config(one)
        .builder()
        .unwrap()
        .build()
        .unwrap();
    for runs in [true, false] {
        let mut conn = pool.get().await.unwrap();
        conn.kept = Some(conn.client.prepare("SELECT 42").await.unwrap());
        if runs {
            conn.client.query_one(conn.kept.as_ref().unwrap(), &[]).await.unwrap();
        }
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        let keeper: &mut Keeper = &mut conn;
        assert_eq!((keeper.kept.is_some(), keeper.forgotten), (runs, usize::from(!runs)));
        if let Some(kept) = keeper.kept.take() {
            let row = keeper.client.query_one(&kept, &[]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 42);
        }
    }
}

/// Another connection has found out, and this one's users never ask for it as mutable.
#[tokio::test]
async fn statements_that_became_useless_are_forgotten_between_two_users_who_only_share() {
    let server = server();
    let postgres = postgres(&server);
    let pool =
        postgres.clone().with_library(Keeping).with_config(one).builder().unwrap().build().unwrap();
    drop(pool.get().await.unwrap());
    postgres.clear_statement_caches();
    // It comes back to one who then gets it as it has to be.
    drop(pool.get().await.unwrap());
    let conn = pool.get().await.unwrap();
    let keeper: &Keeper = &conn;
    assert_eq!(keeper.forgotten, 1);
}

/// What a user sets of the connection itself is not the next one's.
#[tokio::test]
async fn an_observer_of_queries_and_the_size_of_the_cache_end_with_their_user() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let observer = std::sync::Arc::new(());
    let mut conn = pool.get().await.unwrap();
    let own = std::sync::Arc::clone(&observer);
    conn.set_instrumentation(move |_: diesel::connection::InstrumentationEvent<'_>| {
        assert_eq!(*own, ());
    });
    conn.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(amounts(&mut conn).await, Ok(vec![]));
    assert_eq!(std::sync::Arc::strong_count(&observer), 1, "it is gone");
    let names = names(&mut conn).await;
    assert!(!names.is_empty(), "statements are kept again");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}
