//! What goes wrong with a real PostgreSQL: each caller has a working session or one clear error, and
//! the pool is whole again soon.
#![cfg(all(target_os = "linux", feature = "postgres"))]

mod support;

use std::error::Error;
use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::postgres::{Postgres, Target};
use livepool::{CloseReason, Config, Pool, Timeouts};
use support::servers::{Certs, Postgres as Server};
use support::{Events, until};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pool_of(postgres: Postgres, change: impl FnOnce(Config) -> Config) -> (Pool<Postgres>, Events) {
    let events = Events::default();
    let builder = Pool::builder(change(postgres.config())).observer(events.observer());
    (builder.protocol(postgres).build().unwrap(), events)
}

fn pool(server: &Server, size: usize) -> (Pool<Postgres>, Events) {
    pool_of(Postgres::from_url(&server.url()).unwrap(), |config| config.with_max_size(size))
}

async fn select(pool: &Pool<Postgres>) -> Result<i64, Box<dyn Error>> {
    Ok(pool.get().await?.query_one("SELECT 7::int8", &[]).await?.get(0))
}

/// So many sessions, all idle.
async fn fill(pool: &Pool<Postgres>, count: usize) {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(pool.get().await.unwrap());
    }
    drop(clients);
    until(|| pool.status().idle == count).await;
}

/// Asks until it is answered; the time that took.
async fn whole_again(pool: &Pool<Postgres>) -> Duration {
    let began = Instant::now();
    while let Err(error) = select(pool).await {
        assert!(began.elapsed() < 20 * SECOND, "it does not come back: {error}");
    }
    began.elapsed()
}

#[tokio::test]
async fn a_server_that_restarts_costs_nobody_an_error_but_those_it_was_answering() {
    let mut server = Server::start();
    let (pool, events) = pool(&server, 4);
    for kill in [false, true] {
        fill(&pool, 3).await;
        let before = events.closed().len();
        if kill {
            server.kill_9();
            server.start_again();
        } else {
            server.restart_fast();
        }
        // The idle ones were found to be ended: the first to come has a new one.
        let took = whole_again(&pool).await;
        println!("whole again {took:?} after the server, killed: {kill}");
        let closed = &events.closed()[before..];
        assert!(closed.len() >= 3, "{closed:?}");
        assert!(
            closed.iter().all(|why| matches!(why, CloseReason::PeerClosed | CloseReason::Reset)),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn a_query_that_a_shutdown_ends_is_one_clear_error_and_invalidates_the_rest() {
    let mut server = Server::start();
    let (pool, events) = pool(&server, 4);
    fill(&pool, 3).await;
    let client = pool.get().await.unwrap();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let (result, ()) = tokio::join!(client.query_one("SELECT pg_sleep(60)", &[]), async {
        until(|| server.psql(asleep) == "1").await;
        server.stop_fast();
    });
    let error = result.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P01"), "{error:?}");
    drop(client);
    let closed = events.until_closed(3).await;
    assert!(closed.contains(&CloseReason::Invalidated), "{closed:?}");
    server.start_again();
    whole_again(&pool).await;
}

#[tokio::test]
async fn a_session_that_is_terminated_is_evicted_alone_and_at_once() {
    let server = Server::start();
    let (pool, events) = pool(&server, 4);
    fill(&pool, 3).await;
    let one = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = 'app' LIMIT 1";
    server.psql(one);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    for _ in 0..10 {
        assert_eq!(select(&pool).await.unwrap(), 7);
    }
    assert_eq!(events.closed().len(), 1, "the others live on");
}

#[tokio::test]
async fn a_session_that_the_server_finds_idle_for_too_long_is_evicted() {
    let server = Server::start_with(&[("idle_session_timeout", "300ms")]);
    let (pool, events) = pool(&server, 4);
    fill(&pool, 2).await;
    assert_eq!(events.until_closed(2).await, [CloseReason::PeerClosed; 2]);
    assert_eq!(select(&pool).await.unwrap(), 7);
}

#[tokio::test]
async fn a_full_server_is_waited_for_and_named() {
    let server = Server::start_with(&[
        ("max_connections", "6"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "0"),
    ]);
    let (others, _) = pool(&server, 6);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(others.get().await.unwrap());
    }
    let (pool, events) = pool(&server, 2);
    let error = pool.get_by(Instant::now() + 300 * MS).await.unwrap_err();
    let text = error.connect_error().unwrap().to_string();
    assert!(text.contains("too many clients") || text.contains("53300"), "{text}");
    assert!(error.is_retryable());
    drop(held);
    drop(others);
    whole_again(&pool).await;
    assert_eq!(events.opened(), 1);
}

#[tokio::test]
async fn a_wrong_password_or_database_is_said_at_once_and_to_everybody() {
    let server = Server::start();
    for (what, with, says) in [
        ("open%20sesame", "wrong", "28P01"),
        ("/app", "/nowhere", "3D000"),
        (":open%20sesame@", "@", "password missing"),
    ] {
        let url = server.url().replace(what, with);
        let (pool, events) = pool_of(Postgres::from_url(&url).unwrap(), |config| config);
        let began = Instant::now();
        let error = pool.get().await.unwrap_err();
        assert!(began.elapsed() < 5 * SECOND, "{with}: {error:?}");
        assert_eq!(error.failure(), CheckoutFailure::Connect);
        assert!(!error.is_retryable(), "{with}");
        let text = error.connect_error().unwrap().to_string();
        assert!(text.contains(says), "{text}");
        assert!(!text.contains("sesame"), "{text}");
        assert_eq!(events.opened(), 0);
    }
}

#[tokio::test]
async fn a_server_that_stands_still_fails_callers_at_their_deadline_and_is_found_again() {
    let server = Server::start();
    let postgres = Postgres::from_url(&server.url()).unwrap();
    let timeouts = Timeouts::default().with_read(300 * MS).with_checkout(500 * MS);
    let (pool, events) =
        pool_of(postgres, |config| config.with_timeouts(timeouts).with_max_size(2));
    fill(&pool, 2).await;
    server.freeze();
    let began = Instant::now();
    for _ in 0..3 {
        select(&pool).await.unwrap_err();
    }
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    assert!(events.closed().contains(&CloseReason::OpTimeout), "{:?}", events.closed());
    server.thaw();
    let took = whole_again(&pool).await;
    println!("whole again {took:?} after the server went on");
}

#[tokio::test]
async fn a_server_that_became_read_only_is_left_for_the_one_that_writes() {
    let primary = Server::start_with(&[("wal_level", "replica")]);
    primary.psql("CREATE TABLE IF NOT EXISTS t (n int8)");
    let standby = primary.standby();
    let url = format!(
        "postgres://postgres:open%20sesame@127.0.0.1:{},127.0.0.1:{}/app",
        primary.port(),
        standby.port()
    );
    let postgres = Postgres::from_url(&url).unwrap().with_target(Target::ReadWrite);
    let (pool, events) = pool_of(postgres, |config| config.with_max_size(3));
    let insert = async || -> Result<(), Box<dyn Error>> {
        pool.get().await?.batch_execute("INSERT INTO t VALUES (1)").await?;
        Ok(())
    };
    for _ in 0..3 {
        insert().await.unwrap();
    }
    fill(&pool, 3).await;
    standby.promote();
    primary.set("default_transaction_read_only", "on");
    // One caller is told by the server; nobody after that.
    let error = insert().await.unwrap_err();
    assert!(error.to_string().contains("db error") || format!("{error:?}").contains("25006"));
    for _ in 0..5 {
        insert().await.unwrap();
    }
    let closed = events.until_closed(3).await;
    assert_eq!(closed, [CloseReason::Invalidated; 3]);
    assert!(
        pool.get().await.unwrap().peer_addr().to_string().ends_with(&standby.port().to_string())
    );
    // Nobody wants to read from where nobody writes, unless that is what is asked for.
    let reader = Postgres::from_url(&url).unwrap().with_target(Target::ReadOnly);
    let (readers, _) = pool_of(reader, |config| config);
    let addr = readers.get().await.unwrap().peer_addr().to_string();
    assert!(addr.ends_with(&primary.port().to_string()), "{addr}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn encrypted_sessions_are_pooled_cancelled_and_a_wrong_name_is_refused() {
    use livepool::tls::Tls;

    for (certs, is_ours) in [(Certs::new(), true), (Certs::of_somebody_else(), false)] {
        let server = Server::start_with_tls(&[], &certs);
        let tls = Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap();
        let url = server.url().replace("127.0.0.1", "localhost") + "?sslmode=require";
        let postgres = Postgres::from_url(&url).unwrap().with_tls(tls);
        let (pool, events) = pool_of(postgres, |config| config.with_max_size(1));
        if !is_ours {
            let error = pool.get().await.unwrap_err();
            assert!(!error.is_retryable());
            let text = error.connect_error().unwrap().to_string();
            assert!(text.contains("not valid for name \"localhost\""), "{text}");
            continue;
        }
        for _ in 0..5 {
            let client = pool.get().await.unwrap();
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
            let long = client.query_one("SELECT pg_sleep(60)", &[]);
            tokio::time::timeout(20 * MS, long).await.unwrap_err();
        }
        select(&pool).await.unwrap();
        until(|| pool.status().idle == 1).await;
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app'");
        assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
        select(&pool).await.unwrap();
    }
    // A server without TLS is no server for who requires it.
    let server = Server::start();
    let tls = Tls::builder().with_webpki_roots().build().unwrap();
    let url = server.url() + "?sslmode=require";
    let (pool, _) = pool_of(Postgres::from_url(&url).unwrap().with_tls(tls.clone()), |c| c);
    let text = pool.get().await.unwrap_err().connect_error().unwrap().to_string();
    assert!(text.contains("the server has no TLS"), "{text}");
    // Who only prefers it does without.
    let (pool, _) = pool_of(Postgres::from_url(&server.url()).unwrap().with_tls(tls), |c| c);
    select(&pool).await.unwrap();
}

#[test]
fn a_slip_in_the_url_says_what_a_url_is() {
    let error = Postgres::from_url("postgres://host:port/x").unwrap_err().to_string();
    assert!(error.starts_with("a PostgreSQL URL is postgres://user:password@host"), "{error}");
    for (url, upstream) in [
        ("postgres://u@db/x", &["db:5432"][..]),
        ("postgres://u@a:1,b:2/x", &["a:1", "b:2"]),
        ("postgres://u@[::1]:7/x", &["[::1]:7"]),
        ("postgres:///x?host=/run/pg&port=7", &["unix:/run/pg/.s.PGSQL.7"]),
        ("host=a,b port=6000 user=u", &["a:6000", "b:6000"]),
    ] {
        let postgres = Postgres::from_url(url).unwrap();
        assert_eq!(postgres.config().upstream, upstream, "{url}");
    }
    let debug = format!("{:?}", Postgres::from_url("postgres://u:sesame@db/x").unwrap());
    assert!(debug.contains("db:5432") && !debug.contains("sesame"), "{debug}");
}
