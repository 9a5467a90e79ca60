//! How long a statement may take, and what whoever waits for it is told.

use std::time::{Duration, Instant};

use livepool::config::ReadTimeout;
use livepool::event::Operation;
use livepool::protocol::Verdict;
use livepool::{CloseReason, Timeouts};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::*;
use livepool_testkit::until_seen;

const BARE: ReadTimeout = ReadTimeout::After(Duration::from_secs(30));

/// What a caller who holds nothing but the library's own client can say of an error.
fn said(error: &Error) -> (&str, &str) {
    let told = error.as_db_error().unwrap_or_else(|| panic!("it names no reason: {error:?}"));
    assert_eq!(told.severity(), "FATAL");
    (told.code().code(), told.message())
}

#[tokio::test]
async fn whichever_way_a_pool_is_built_a_statement_may_take_its_time() {
    let server = trusting_server(&[]);
    let (url, postgres) = (server.url(), postgres(&server));
    let config = Config::new(format!("127.0.0.1:{}", server.port()));
    let by_protocol =
        |config: &Config| Pool::builder(config.clone()).protocol(postgres.clone()).build().unwrap();
    let mut pools = vec![
        livepool_postgres::pool(&url).unwrap(),
        postgres.clone().pool().unwrap(),
        by_protocol(&config),
        by_protocol(&config.clone().with_timeouts(Timeouts::never())),
    ];
    pools.push(by_protocol(&toml::from_str(&toml::to_string(&config).unwrap()).unwrap()));
    for pool in pools {
        assert_eq!(pool.get().await.unwrap().timeouts().read, ReadTimeout::Never);
    }
    // Whoever sets one has it, the one of bare streams as well.
    let set = config.clone().with_timeouts(Timeouts::default().with_read(30 * SECOND));
    assert_eq!(by_protocol(&set).get().await.unwrap().timeouts().read, BARE);
    // So has whoever takes away what proves that a peer lives.
    let unproven = config.socket.clone().with_keepalive(None);
    let pool = by_protocol(&config.clone().with_socket(unproven));
    assert_eq!(pool.get().await.unwrap().timeouts().read, BARE);
    let bare = Pool::new(config).unwrap();
    assert_eq!(bare.get().await.unwrap().timeouts().read, BARE);
}

#[tokio::test]
async fn a_wait_for_a_lock_is_no_sign_of_a_dead_server() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_silence(SECOND));
    let mut holder = pool.get().await.unwrap();
    holder.batch_execute("CREATE TABLE t (n int8); INSERT INTO t VALUES (1)").await.unwrap();
    let transaction = holder.transaction().await.unwrap();
    transaction.batch_execute("UPDATE t SET n = 2").await.unwrap();
    let waiter = pool.get().await.unwrap();
    // Its peer is asked for a sign of life after a second, and again.
    let (waited, ()) = tokio::join!(waiter.batch_execute("UPDATE t SET n = 3"), async {
        tokio::time::sleep(4 * SECOND).await;
        transaction.commit().await.unwrap();
    });
    waited.unwrap();
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_time_that_is_up_is_told_to_whoever_waits_with_its_setting() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(Duration::from_millis(300));
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let mut conn = pool.get().await.unwrap();
    let error = conn.batch_execute("SELECT pg_sleep(70)").await.unwrap_err();
    let (code, text) = said(&error);
    assert_eq!(code, SqlState::QUERY_CANCELED.code());
    assert!(text.contains("read timed out after 300.0ms (timeouts.read)"), "{text}");
    let error = livepool_postgres::Error::from(error);
    assert!(error.is_timeout(), "{error}");
    // It is no word of the server's, of which others would have to be told.
    assert_eq!(conn.report(&error), Verdict::Close);
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    until_seen(|| running(&server, "pg_sleep(70)"), |seen| *seen == 0).await;
}

/// Those that wait for their turn behind it, too.
#[tokio::test]
async fn all_who_wait_on_one_connection_are_told_why_it_ends() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    conn.deadline(Duration::from_millis(300));
    let ask = || conn.batch_execute("SELECT pg_sleep(71)");
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    for error in [a, b, c].map(Result::unwrap_err) {
        let (code, text) = said(&error);
        assert_eq!(code, "57014");
        assert!(text.contains("cut by the deadline of its exchange after 300.0ms"), "{text}");
    }
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    assert_eq!(events.timed_out(), [Operation::Read]);
}

#[tokio::test]
async fn what_the_pool_interrupts_and_what_is_too_large_is_told_to_whoever_waits() {
    let server = trusting_server(&[]);
    let limits = livepool::config::Limits::default().with_message(1 << 20);
    let (pool, events) = pool(&server, |config| one(config).with_limits(limits));
    let conn = pool.get().await.unwrap();
    let (asked, ()) = tokio::join!(conn.batch_execute("SELECT pg_sleep(72)"), async {
        until_seen(|| running(&server, "pg_sleep(72)"), |seen| *seen == 1).await;
        pool.invalidate_and_interrupt();
    });
    let error = asked.unwrap_err();
    let (code, text) = said(&error);
    assert_eq!(code, SqlState::ADMIN_SHUTDOWN.code());
    assert!(text.contains("interrupted") && text.contains("invalidated"), "{text}");
    drop(conn);
    until_seen(|| running(&server, "pg_sleep(72)"), |seen| *seen == 0).await;
    let conn = pool.get().await.unwrap();
    let error = conn.query_one("SELECT repeat('x', 2 << 20)", &[]).await.unwrap_err();
    let (code, text) = said(&error);
    assert_eq!(code, SqlState::PROGRAM_LIMIT_EXCEEDED.code());
    assert!(text.contains("limits.message"), "{text}");
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::Invalidated, CloseReason::TooLarge]);
}

#[tokio::test]
async fn a_use_has_the_time_that_is_configured_for_all_and_may_take_another() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_operation(Duration::from_millis(1200));
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let mut conn = pool.get().await.unwrap();
    conn.deadline(60 * SECOND);
    conn.batch_execute("SELECT pg_sleep(1.5)").await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    conn.set_deadline(None);
    conn.batch_execute("SELECT pg_sleep(1.5)").await.unwrap();
    drop(conn);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    let conn = pool.get().await.unwrap();
    let error = conn.batch_execute("SELECT pg_sleep(73)").await.unwrap_err();
    let (code, text) = said(&error);
    assert_eq!(code, "57014");
    assert!(text.contains("read cut by timeouts.operation after 1.2s"), "{text}");
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    until_seen(|| running(&server, "pg_sleep(73)"), |seen| *seen == 0).await;

    // Whoever asks when it is over is told the same; whoever does not costs no connection.
    let conn = pool.get().await.unwrap();
    tokio::time::sleep(SECOND * 3 / 2).await;
    drop(conn);
    let conn = pool.get().await.unwrap();
    echo(&conn, 1).await.unwrap();
    tokio::time::sleep(SECOND * 3 / 2).await;
    let error = conn.batch_execute("SELECT 1").await.unwrap_err();
    assert!(said(&error).1.contains("cut by timeouts.operation"), "{error:?}");
    drop(conn);
    assert_eq!((events.opened(), events.closed()), (2, vec![CloseReason::OpTimeout; 2]));
}

/// What is done to a connection that came back has its own time, not what its user has left.
#[tokio::test]
async fn a_query_that_is_given_up_near_the_end_of_its_time_costs_no_connection() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_reset(20 * SECOND);
    for _ in 0..20 {
        let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
        let mut conn = pool.get().await.unwrap();
        let began = Instant::now();
        conn.deadline(SECOND / 4);
        let asked = conn.batch_execute("SELECT pg_sleep(74)");
        let ended = tokio::time::timeout(SECOND / 5, asked).await.is_ok();
        if ended || began.elapsed() >= SECOND / 4 {
            // The machine was busy, and the query's own time is over.
            continue;
        }
        drop(conn);
        echo(&pool.get().await.unwrap(), 1).await.unwrap();
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
        return;
    }
    panic!("no query was given up within its time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_server_that_hangs_are_told_within_their_time() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_operation(SECOND);
    let (pool, events) = pool(&server, |config| config.with_timeouts(timeouts).with_max_size(4));
    fill(&pool, 4).await;
    server.freeze();
    let began = Instant::now();
    let asked = futures_util::future::join_all((0..4).map(async |number| {
        let conn = pool.get().await.unwrap();
        let error = echo(&conn, number).await.unwrap_err();
        assert!(said(&error).1.contains("timeouts.operation"), "{error:?}");
        began.elapsed()
    }));
    let told = asked.await;
    // A second; the rest is for a busy machine.
    assert!(told.iter().all(|told| *told >= SECOND && *told < 10 * SECOND), "{told:?}");
    server.thaw();
    assert_eq!(events.until_closed(4).await, [CloseReason::OpTimeout; 4]);
    let conn = pool.get().await;
    drop(conn);
}
