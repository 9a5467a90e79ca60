//! Servers that stop, crash, hang, are full or say no.

use std::time::{Duration, Instant};

use livepool::error::CheckoutFailure;
use livepool::{CloseReason, Timeouts};

use super::*;
use livepool_testkit::{until_seen, until_status};

/// Within this, a pool is whole again after its server is.
const WHOLE_AGAIN: Duration = Duration::from_secs(10);

/// Callers that fail because nobody is there fail soon.
fn impatient(config: Config) -> Config {
    let timeouts = Timeouts::default().with_checkout(6 * SECOND).with_connect(3 * SECOND);
    config.with_timeouts(timeouts).with_max_size(4)
}

/// Until the pool gives out connections that work, and only those: returns how long it took.
async fn until_whole(pool: &Pool<Postgres>, count: usize) -> Duration {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < WHOLE_AGAIN, "it does not get well: {}", pool.status());
        let mut conns = Vec::new();
        while let Ok(conn) = pool.get().await {
            if echo(&conn, 5).await.is_err() {
                break;
            }
            conns.push(conn);
            if conns.len() == count {
                return began.elapsed();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_costs_each_connection_and_no_caller() {
    let mut server = trusting_server(&[]);
    let (pool, events) = pool(&server, impatient);
    fill(&pool, 4).await;
    server.restart_fast();
    assert_eq!(events.until_closed(4).await, [CloseReason::PeerClosed; 4]);
    println!("whole again within {:?}", until_whole(&pool, 4).await);
    assert_eq!((events.opened(), events.closed().len()), (8, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_is_met_by_clear_errors_until_it_is_back() {
    let mut server = trusting_server(&[]);
    let (pool, events) = pool(&server, impatient);
    fill(&pool, 4).await;
    let conn = pool.get().await.unwrap();
    let ((), asked) = tokio::join!(
        async {
            until_seen(|| running(&server, "pg_sleep(71)"), |seen| *seen == 1).await;
            server.kill_9();
        },
        conn.batch_execute("SELECT pg_sleep(71)")
    );
    assert!(asked.unwrap_err().is_closed());
    drop(conn);
    let closed = events.until_closed(4).await;
    let of_peer =
        |reason: &CloseReason| matches!(reason, CloseReason::PeerClosed | CloseReason::Reset);
    assert!(closed.iter().all(of_peer), "{closed:?}");

    let error = pool.get().await.unwrap_err();
    assert!(error.is_retryable());
    let why = error.connect_error().unwrap().to_string();
    assert!(why.contains("refused"), "{why}");
    server.start_again();
    println!("whole again within {:?}", until_whole(&pool, 4).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_terminated_costs_its_own_connection_alone() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, impatient);
    fill(&pool, 3).await;
    let victim = pool.get().await.unwrap();
    let number = pid(&victim).await;
    drop(victim);
    until_status(&pool, |now| now.idle == 3).await;
    // Idle.
    server.psql(&format!("SELECT pg_terminate_backend({number})"));
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    // In use: its user is told what happened.
    let victim = pool.get().await.unwrap();
    let number = pid(&victim).await;
    let (asked, ()) = tokio::join!(victim.batch_execute("SELECT pg_sleep(72)"), async {
        until_seen(|| running(&server, "pg_sleep(72)"), |seen| *seen == 1).await;
        server.psql(&format!("SELECT pg_terminate_backend({number})"));
    });
    assert_eq!(asked.unwrap_err().code().unwrap().code(), "57P01");
    assert_eq!(victim.tainted(), Some(CloseReason::PeerClosed));
    drop(victim);
    assert_eq!(events.closed(), [CloseReason::PeerClosed; 2]);
    assert_eq!(pool.status().idle, 1, "the other one stayed");
    until_whole(&pool, 3).await;
    assert_eq!(events.opened(), 5);
}

/// PostgreSQL says goodbye and closes: what waits on the socket is no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_that_the_server_ends_is_never_handed_out() {
    // Three seconds: where this process stands still for as long, a session may be ended in the moment
    // it is taken.
    let server = trusting_server(&[("idle_session_timeout", "3s")]);
    let (pool, events) = pool(&server, impatient);
    for _ in 0..4 {
        let before = events.closed().len();
        for number in 0..5 {
            assert_eq!(echo(&pool.get().await.unwrap(), number).await.unwrap(), number);
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
        }
        // More than one, where this process stood still in the meantime.
        let closed = events.until_closed(before + 1).await;
        assert!(closed.iter().all(|reason| *reason == CloseReason::PeerClosed), "{closed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_is_waited_for() {
    let server = trusting_server(&[("max_connections", "6")]);
    let (others, _) = pool(&server, |config| config.with_max_size(6));
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(others.get().await.unwrap());
    }
    let (pool, _) = pool(&server, impatient);
    let error = pool.get().await.unwrap_err();
    let why = error.connect_error().unwrap();
    assert!(why.to_string().contains("too many clients already (53300)"), "{why}");
    assert!(error.is_retryable() && !why.is_denied());
    drop(held);
    drop(others);
    println!("whole again within {:?}", until_whole(&pool, 4).await);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_at_once() {
    let server = Server::start();
    server.psql("CREATE ROLE nobody NOLOGIN");
    let port = server.port();
    for (url, text) in [
        (format!("postgres://postgres:wrong@127.0.0.1:{port}/app"), "28P01"),
        (format!("postgres://postgres@127.0.0.1:{port}/app"), "password missing"),
        (format!("postgres://nobody:x@127.0.0.1:{port}/app"), "28"),
        (format!("postgres://postgres:open%20sesame@127.0.0.1:{port}/nowhere"), "3D000"),
    ] {
        let (pool, events) = pool_of(Postgres::from_url(&url).unwrap(), |config| config);
        let began = Instant::now();
        let error = pool.get().await.unwrap_err();
        assert_eq!(error.failure(), CheckoutFailure::Connect, "{url}");
        let why = error.connect_error().unwrap();
        assert!(why.is_denied() && why.to_string().contains(text), "{url}: {why}");
        assert!(!error.is_retryable());
        assert!(began.elapsed() < 5 * SECOND, "long before the deadline of 10 s");
        assert_eq!(events.opened(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_survived() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| {
        let timeouts = Timeouts::default().with_read(SECOND).with_connect(3 * SECOND);
        config.with_timeouts(timeouts.with_checkout(4 * SECOND)).with_max_size(4)
    });
    fill(&pool, 4).await;
    server.freeze();
    let began = Instant::now();
    let asked = futures_util::future::join_all((0..8).map(async |number| {
        let conn = pool.get().await.map_err(|error| assert!(error.is_timeout(), "{error}"))?;
        let told = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
        echo(&conn, number).await.map_err(|error| assert_eq!(told(error).as_deref(), Some("57014")))
    }));
    for asked in asked.await {
        asked.unwrap_err();
    }
    // Checkout and read, one after the other; the rest is for a busy machine.
    assert!(began.elapsed() < 15 * SECOND);
    let closed = events.until_closed(4).await;
    assert!(closed.contains(&CloseReason::OpTimeout), "{closed:?}");
    server.thaw();
    println!("whole again within {:?}", until_whole(&pool, 4).await);
}
