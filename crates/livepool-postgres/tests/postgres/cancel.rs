//! Queries that nobody waits for any more.

use std::time::Duration;

use livepool::event::Operation;
use livepool::{CloseReason, Timeouts};

use super::*;
use livepool_testkit::until_seen;

/// Long enough for any machine, short enough to tell it from a sleep of a minute.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_caller_went_away_is_stopped_and_its_connection_used_again() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let backend = {
        let conn = pool.get().await.unwrap();
        let backend = pid(&conn).await;
        let asked = conn.batch_execute("SELECT pg_sleep(61)");
        tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
        backend
    };
    let began = std::time::Instant::now();
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    assert!(began.elapsed() < SOON, "the next user waited for it");
    assert_eq!(pid(&conn).await, backend, "it was the same connection");
    assert_eq!(running(&server, "pg_sleep(61)"), 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// The client library sends in a task of its own: this one is not even sent when its caller goes.
#[tokio::test]
async fn a_query_that_was_given_up_before_it_was_sent_is_stopped_too() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for _ in 0..10 {
        let conn = pool.get().await.unwrap();
        let mut asked = Box::pin(conn.batch_execute("SELECT pg_sleep(62)"));
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
        drop(asked);
        drop(conn);
        let began = std::time::Instant::now();
        let conn = pool.get().await.unwrap();
        assert_eq!(echo(&conn, 1).await.unwrap(), 1);
        assert!(began.elapsed() < SOON, "the next user waited for it");
    }
    assert_eq!(running(&server, "pg_sleep(62)"), 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn several_queries_at_once_are_all_stopped() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    {
        let ask = || Box::pin(conn.batch_execute("SELECT pg_sleep(63)"));
        let (mut a, mut b, mut c) = (ask(), ask(), ask());
        let all = futures_util::future::join3(&mut a, &mut b, &mut c);
        tokio::time::timeout(Duration::from_millis(50), all).await.unwrap_err();
    }
    drop(conn);
    let began = std::time::Instant::now();
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    assert!(began.elapsed() < SOON);
    assert_eq!(running(&server, "pg_sleep(63)"), 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_query_that_times_out_is_stopped_at_the_server() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(SECOND).with_reset(20 * SECOND);
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let conn = pool.get().await.unwrap();
    let error = conn.batch_execute("SELECT pg_sleep(64)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    livepool_testkit::until(|| conn.ended_with().is_some()).await;
    let why = std::error::Error::source(conn.ended_with().unwrap()).unwrap().to_string();
    assert!(why.contains("read"), "{why}");
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    assert_eq!(events.timed_out(), [Operation::Read]);
    until_seen(|| running(&server, "pg_sleep(64)"), |seen| *seen == 0).await;
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_query_that_the_pool_interrupts_is_stopped_at_the_server() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    let (asked, ()) = tokio::join!(conn.batch_execute("SELECT pg_sleep(65)"), async {
        until_seen(|| running(&server, "pg_sleep(65)"), |seen| *seen == 1).await;
        pool.invalidate_and_interrupt();
    });
    asked.unwrap_err();
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::Invalidated]);
    until_seen(|| running(&server, "pg_sleep(65)"), |seen| *seen == 0).await;
}

#[tokio::test]
async fn a_query_whose_connection_is_discarded_is_stopped_at_the_server() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    let asked = conn.batch_execute("SELECT pg_sleep(66)");
    tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
    conn.discard();
    until_seen(|| running(&server, "pg_sleep(66)"), |seen| *seen == 0).await;
}

/// A cancel that comes late must not hit the statement of the next user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cancel_hits_the_next_user() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for round in 0..150_u64 {
        let conn = pool.get().await.unwrap();
        // Ends about when the grace does.
        let asked = conn.batch_execute("SELECT pg_sleep(0.012)");
        let micros = 1_000 * (round % 13);
        let _ = tokio::time::timeout(Duration::from_micros(micros), asked).await;
        drop(conn);
        let conn = pool.get().await.unwrap();
        for number in 0..3 {
            assert_eq!(echo(&conn, number).await.unwrap(), number);
        }
    }
    assert_eq!(events.closed(), []);
}
