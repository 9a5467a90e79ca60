//! Behind a real PgBouncer, as it is in Debian: in transaction mode each transaction may get another
//! session of the server.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use livepool::CloseReason;
use livepool_postgres::Statements;

use super::*;
use livepool_testkit::servers::PgBouncer;

/// Three sessions for six connections.
fn bouncer(server: &Server) -> PgBouncer {
    PgBouncer::start(server, &[("pool_mode", "transaction"), ("default_pool_size", "3")])
}

/// What six callers do 40 times each, at the same time. How many of these failed.
async fn at_once(
    pool: &Pool<Postgres>,
    work: impl AsyncFn(&mut Client, i64) -> Result<i64, tokio_postgres::Error> + Copy,
) -> usize {
    let failed = AtomicUsize::new(0);
    let callers = (0..6).map(async |caller| {
        for round in 0..40 {
            let number = caller * 1000 + round;
            let mut conn = pool.get().await.unwrap();
            match work(&mut conn, number).await {
                Ok(answer) => assert_eq!(answer, number),
                Err(_) => _ = failed.fetch_add(1, Relaxed),
            }
        }
    });
    futures_util::future::join_all(callers).await;
    failed.into_inner()
}

#[tokio::test]
async fn unnamed_statements_need_no_session_of_their_own() {
    let server = trusting_server(&[]);
    let bouncer = bouncer(&server);
    let adapter = Postgres::from_url(&bouncer.url()).unwrap().with_statements(Statements::Unnamed);
    let (pool, events) = pool_of(adapter, |config| config.with_max_size(6));
    pool.get().await.unwrap().batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let cached = async |client: &mut Client, number| {
        let statement = client.prepare_cached("SELECT $1::int8, 'x'").await?;
        Ok(client.query_one(&statement, &[&number]).await?.get(0))
    };
    assert_eq!(at_once(&pool, cached).await, 0);
    let by_text = async |client: &mut Client, number| {
        assert_eq!(client.execute("INSERT INTO t VALUES ($1)", &[&number]).await?, 1);
        let rows = client.query("SELECT n FROM t WHERE n = $1", &[&number]).await?;
        client.execute("DELETE FROM t WHERE n = $1", &[&number]).await?;
        assert!(client.query_opt("SELECT n FROM t WHERE n = $1", &[&number]).await?.is_none());
        Ok(rows[0].get(0))
    };
    assert_eq!(at_once(&pool, by_text).await, 0);
    let in_transactions = async |client: &mut Client, number| {
        let transaction = client.transaction().await?;
        let statement = transaction.prepare_cached("SELECT $1::int8 + 0").await?;
        let row = transaction.query_one(&statement, &[&number]).await?;
        transaction.execute("INSERT INTO t VALUES ($1)", &[&number]).await?;
        transaction.rollback().await?;
        Ok(row.get(0))
    };
    assert_eq!(at_once(&pool, in_transactions).await, 0);
    let without_parameters = async |client: &mut Client, number: i64| {
        let text = format!("SELECT {number}::int8");
        Ok(client.query_one(&text, &[]).await?.get(0))
    };
    assert_eq!(at_once(&pool, without_parameters).await, 0);
    assert_eq!(events.closed(), []);
    // No session of the server has kept one.
    drop(pool);
    let (server_side, _) =
        pool_of(Postgres::from_url(&bouncer.url()).unwrap(), |config| config.with_max_size(3));
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut conn = server_side.get().await.unwrap();
        let transaction = conn.transaction().await.unwrap();
        let left = "SELECT count(*) FROM pg_prepared_statements";
        let row = transaction.query_typed_one(left, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
        std::mem::forget(transaction);
        held.push(conn);
    }
}

/// An error of the number or the type of the parameters is the client library's, and what it says.
#[tokio::test]
async fn unnamed_statements_fail_as_named_ones_do() {
    let server = trusting_server(&[]);
    for statements in [Statements::Named, Statements::Unnamed] {
        let (pool, events) = pool_of(postgres(&server).with_statements(statements), one);
        let conn = pool.get().await.unwrap();
        let statement = conn.prepare_cached("SELECT $1::int8").await.unwrap();
        type Params<'a> = Vec<&'a (dyn tokio_postgres::types::ToSql + Sync)>;
        let wrong: [Params<'_>; 3] = [vec![], vec![&1_i64, &2_i64], vec![&"text"]];
        for params in wrong {
            let error = conn.query(&statement, &params).await.unwrap_err();
            assert!(error.code().is_none(), "{statements:?}: {error:?}");
        }
        let error = conn.query("SELECT nothing", &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42703");
        let error = conn.query("SELECT nothing + $1", &[&1]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42703");
        assert_eq!(echo(&conn, 7).await.unwrap(), 7);
        drop((statement, conn));
        drop(pool.get().await.unwrap());
        assert_eq!((events.opened(), events.closed()), (1, vec![]), "{statements:?}");
    }
}

/// What happens without: the named statement is in another session. Nothing ran, and it is prepared
/// again; and the connection goes, with a reason that says so.
#[tokio::test]
async fn named_statements_behind_a_proxy_that_changes_sessions_are_told_of_as_such() {
    let server = trusting_server(&[]);
    let bouncer = bouncer(&server);
    let (pool, events) =
        pool_of(Postgres::from_url(&bouncer.url()).unwrap(), |config| config.with_max_size(2));
    let (conn, mut other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    // It gets the session that was used last.
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(echo(&conn, 2).await.unwrap(), 2);
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::ProtocolError]);
    assert_eq!(events.codes(), [Some("26000".to_owned())]);
}
