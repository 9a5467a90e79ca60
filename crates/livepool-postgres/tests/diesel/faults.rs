//! Servers that die, and times that are up.

use super::*;

use livepool::CloseReason;
use livepool::error::CheckoutFailure;
use livepool_testkit::{until_seen, until_status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_in_the_middle_of_a_query_is_met_by_an_error_and_left() {
    let mut server = server();
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    let (mut conn, mut idle) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(echo(&mut idle, 1).await, Ok(1));
    drop(idle);
    let ((), asked) = tokio::join!(
        async {
            until_seen(|| running(&server, "pg_sleep(71)"), |seen| *seen == 1).await;
            server.kill_9();
        },
        conn.transaction(async |conn| conn.batch_execute("SELECT pg_sleep(71)").await)
    );
    let error = asked.unwrap_err().to_string();
    assert!(error.contains("connection closed"), "{error}");
    drop(conn);
    let closed = events.until_closed(2).await;
    let of_peer = |why: &CloseReason| matches!(why, CloseReason::PeerClosed | CloseReason::Reset);
    assert!(closed.iter().all(of_peer), "{closed:?}");
    server.start_again();
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 2).await, Ok(2));
}

#[tokio::test]
async fn a_connection_that_dies_while_it_is_idle_is_noticed_and_fails_nobody() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let backend = pid(&mut pool.get().await.unwrap()).await;
    until_status(&pool, |now| now.idle == 1).await;
    server.psql(&format!("SELECT pg_terminate_backend({backend})"));
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    assert_ne!(pid(&mut conn).await, backend);
}

#[tokio::test]
async fn a_time_that_is_up_is_told_through_diesel_and_ends_the_query() {
    let server = server();
    let timeouts = Timeouts::default().with_read(3 * SECOND).with_reset(20 * SECOND);
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let mut conn = pool.get().await.unwrap();
    let error = conn.batch_execute("SELECT pg_sleep(72)").await.unwrap_err().to_string();
    assert!(error.contains("read timed out after 3.0s (timeouts.read)"), "{error}");
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::OpTimeout]);
    until_seen(|| running(&server, "pg_sleep(72)"), |seen| *seen == 0).await;
    // That of one use.
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    let error = pool.get_by(std::time::Instant::now() + SECOND / 5).await.unwrap_err();
    assert!(matches!(error.failure(), CheckoutFailure::Timeout(_)), "{error}");
    conn.set_deadline(std::time::Instant::now() + SECOND / 5);
    let error = conn.batch_execute("SELECT pg_sleep(73)").await.unwrap_err().to_string();
    assert!(error.contains("livepool has ended the connection"), "{error}");
    drop(conn);
    until_seen(|| running(&server, "pg_sleep(73)"), |seen| *seen == 0).await;
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
}

/// A library that begins a session may fail, or be dropped for want of time: the dial fails with its words.
#[tokio::test]
async fn what_the_library_fails_with_when_a_session_begins_is_told_by_the_dial() {
    use livepool_postgres::{Error, Library, tokio_postgres};

    struct Fails(bool);
    impl Library for Fails {
        type Client = tokio_postgres::Client;
        type Error = std::io::Error;
        async fn begin(&self, client: tokio_postgres::Client) -> std::io::Result<Self::Client> {
            if self.0 {
                std::future::pending::<()>().await;
            }
            drop(client);
            Err(std::io::Error::other("it does not like the server"))
        }
        async fn batch_execute(&self, _: &mut Self::Client, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn forget_transaction(&self, _: &mut Self::Client) {}
        fn forget_statements(&self, _: &mut Self::Client) {}
    }

    let server = server();
    for (hangs, expected) in
        [(false, "it does not like the server"), (true, "did not end within 3.0s")]
    {
        let timeouts = Timeouts::default().with_connect(3 * SECOND);
        let builder = postgres(&server).with_library(Fails(hangs));
        let builder =
            builder.with_config(|config| one(config).with_timeouts(timeouts)).builder().unwrap();
        let error = builder.build().unwrap().get().await.unwrap_err();
        assert_eq!(error.find::<Error>().is_some(), !hangs, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    until_seen(|| server.psql(sessions), |seen| seen == "1").await;
}

/// On servers whose sessions do not say so, and where the setting is the session's own, the pool asks: by a
/// statement whose error is the answer, since diesel gives it no rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_read_only_is_left_by_all_connections() {
    let server = server();
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    // A transaction that was begun to only read: nothing has changed.
    let mut conn = pool.get().await.unwrap();
    let refused = conn.batch_execute("BEGIN READ ONLY; DELETE FROM orders").await.unwrap_err();
    assert!(refused.to_string().contains("read-only transaction"), "{refused}");
    let backend = pid_in_failed(conn).await;
    // Its reset may take longer than the making of another.
    until_status(&pool, |now| now.idle == 1).await;
    let mut conn = pool.get().await.unwrap();
    assert_eq!(pid(&mut conn).await, backend);
    // Its user's own setting: the session goes.
    conn.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    assert!(insert(&mut conn, 1).await.is_err());
    drop(conn);
    assert_eq!(events.until_closed(1).await.len(), 1);
    // The server's.
    let (mut conn, other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    drop(other);
    server.set("default_transaction_read_only", "on");
    let show = "SHOW default_transaction_read_only";
    until_seen(|| server.psql(show), |seen| seen == "on").await;
    let refused = async {
        while insert(&mut conn, 1).await.is_ok() {
            diesel::delete(orders::table).execute(&mut conn).await.unwrap();
        }
    };
    refused.await;
    drop(conn);
    let closed = events.until_closed(3).await;
    assert_eq!(closed[1..], [CloseReason::Invalidated; 2], "{closed:?}");
}

/// Gives a connection back, and tells which backend it has.
async fn pid_in_failed(mut conn: Guard) -> i32 {
    conn.batch_execute("ROLLBACK").await.unwrap();
    pid(&mut conn).await
}
