//! COPY that fails or is given up, and the connection it was on.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use livepool::{Guard, Timeouts};
use tokio_postgres::error::SqlState;

use super::*;

/// A pool of one connection, which has time enough to be made fit, and the table `t`.
async fn with_table(server: &Server) -> (Pool<Postgres>, Events) {
    let timeouts = Timeouts::default().with_reset(20 * SECOND);
    let (pool, events) = pool(server, |config| one(config).with_timeouts(timeouts));
    let conn = pool.get().await.unwrap();
    conn.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    drop(conn);
    (pool, events)
}

/// Rows that are understood, and one that is not at this place.
fn rows(count: usize, bad: Option<usize>) -> Vec<Bytes> {
    let row = |at| if Some(at) == bad { "no number\n".into() } else { format!("{at}\n").into() };
    (0..count).map(row).collect()
}

/// Sends them all, or as many as the server takes.
async fn copy(conn: &Guard<Postgres>, rows: Vec<Bytes>) -> Result<u64, tokio_postgres::Error> {
    let mut sink = Box::pin(conn.copy_in("COPY t FROM STDIN").await?);
    for row in rows {
        sink.feed(row).await?;
    }
    sink.as_mut().finish().await
}

#[tokio::test]
async fn copies_that_fail_cost_no_connection() {
    let server = trusting_server(&[]);
    let (pool, events) = with_table(&server).await;
    for round in 0..20_i64 {
        let conn = pool.get().await.unwrap();
        // At once, in the middle of much, at the end.
        let (count, bad) = [(1, 0), (50_000, 20_000), (3, 2)][round as usize % 3];
        let error = copy(&conn, rows(count, Some(bad))).await.unwrap_err();
        if let Some(code) = error.code() {
            assert_eq!(*code, SqlState::INVALID_TEXT_REPRESENTATION);
        }
        drop(conn);
        assert_eq!(echo(&pool.get().await.unwrap(), round).await.unwrap(), round);
    }
    let conn = pool.get().await.unwrap();
    assert_eq!(copy(&conn, rows(3, None)).await.unwrap(), 3);
    let count: i64 = conn.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!((count, events.opened(), events.closed()), (3, 1, vec![]));
}

#[tokio::test]
async fn whoever_goes_on_after_a_copy_that_failed_gives_a_connection_back_that_is_fit() {
    let server = trusting_server(&[]);
    let (pool, events) = with_table(&server).await;
    for round in 0..20_i64 {
        let mut conn = pool.get().await.unwrap();
        copy(&conn, rows(3, Some(1))).await.unwrap_err();
        assert_eq!(echo(&conn, round).await.unwrap(), round);
        let transaction = conn.transaction().await.unwrap();
        transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        drop(transaction);
        // It is known by now, and there is nothing to ask for.
        conn.batch_execute("SELECT 1").await.unwrap();
        drop(conn);
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn copies_that_are_given_up_cost_no_connection() {
    let server = trusting_server(&[]);
    let (pool, events) = with_table(&server).await;
    for round in 0..20_i64 {
        let mut conn = pool.get().await.unwrap();
        match round % 4 {
            // Nothing sent; some of it; in a transaction; in the other direction.
            0 => drop(conn.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap()),
            1 => {
                let sink = conn.copy_in("COPY t FROM STDIN").await.unwrap();
                let mut sink = Box::pin(sink);
                sink.send(Bytes::from_static(b"1\n2\n")).await.unwrap();
            }
            2 => {
                let transaction = conn.transaction().await.unwrap();
                let sink = transaction.copy_in("COPY t FROM STDIN").await.unwrap();
                let mut sink = Box::pin(sink);
                sink.send(Bytes::from_static(b"1\n2\n")).await.unwrap();
            }
            _ => {
                let all = "COPY (SELECT * FROM generate_series(1, 1000000)) TO STDOUT";
                let mut stream = Box::pin(conn.copy_out(all).await.unwrap());
                assert!(!stream.next().await.unwrap().unwrap().is_empty());
            }
        }
        drop(conn);
        assert_eq!(echo(&pool.get().await.unwrap(), round).await.unwrap(), round);
    }
    let conn = pool.get().await.unwrap();
    let count: i64 = conn.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!((count, events.opened(), events.closed()), (0, 1, vec![]));
}

/// The server answers twice then: the client library takes the second for the answer to what it asks
/// next. No connection of which that is not excluded reaches a next user.
#[tokio::test]
async fn a_copy_that_fails_before_its_first_row_harms_no_next_user() {
    let server = trusting_server(&[]);
    let (pool, events) = with_table(&server).await;
    server.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql \
         AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON t EXECUTE FUNCTION refuse()",
    );
    for round in 0..20_i64 {
        let conn = pool.get().await.unwrap();
        let count = if round % 2 == 0 { 3 } else { 20_000 };
        copy(&conn, rows(count, None)).await.unwrap_err();
        drop(conn);
        assert_eq!(echo(&pool.get().await.unwrap(), round).await.unwrap(), round);
    }
    println!("{} connections", events.opened());
    let limit = Duration::from_secs(20);
    let served = tokio::time::timeout(limit, pool.get()).await.expect("it waits for no reset");
    echo(&served.unwrap(), 7).await.unwrap();
}
