//! Which server of several: the one that takes writes, wherever it is.

use livepool::protocol::Verdict;
use livepool::{CloseReason, Timeouts};
use livepool_postgres::Target;

use super::*;
use livepool_testkit::{until_seen, until_status};

fn both(a: &Server, b: &Server, target: Target) -> (Pool<Postgres>, Events) {
    let (a, b) = (a.port(), b.port());
    let hosts = format!("127.0.0.1:{a},127.0.0.1:{b}");
    let url = format!("postgres://postgres:open%20sesame@{hosts}/app");
    let timeouts = Timeouts::default().with_checkout(5 * SECOND);
    let postgres = Postgres::from_url(&url).unwrap().with_target(target);
    pool_of(postgres, |config| config.with_max_size(3).with_timeouts(timeouts))
}

async fn port(client: &Client) -> u16 {
    let row = client.query_one("SELECT inet_server_port()", &[]).await.unwrap();
    row.get::<_, i32>(0).try_into().unwrap()
}

/// Where the pool's connections go.
async fn goes_to(pool: &Pool<Postgres>) -> Vec<u16> {
    let mut conns = Vec::new();
    for _ in 0..3 {
        conns.push(pool.get().await.unwrap());
    }
    let mut ports = Vec::new();
    for conn in &conns {
        ports.push(port(conn).await);
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_follows_the_primary() {
    let mut primary = trusting_server(&[]);
    primary.psql("CREATE TABLE t (n int8)");
    let standby = primary.standby();
    let (writes, events) = both(&standby, &primary, Target::ReadWrite);
    let (primaries, _) = both(&standby, &primary, Target::Primary);
    let (reads, _) = both(&primary, &standby, Target::ReadOnly);
    let (standbys, _) = both(&primary, &standby, Target::Standby);
    assert_eq!(goes_to(&writes).await, [primary.port()]);
    assert_eq!(goes_to(&primaries).await, [primary.port()]);
    assert_eq!(goes_to(&reads).await, [standby.port()]);
    assert_eq!(goes_to(&standbys).await, [standby.port()]);
    let (any, _) = both(&primary, &standby, Target::Any);
    assert_eq!(goes_to(&any).await.len(), 2, "spread over both");

    primary.kill_9();
    events.until_closed(3).await;
    let error = writes.get().await.unwrap_err();
    let why = error.connect_error().unwrap().to_string();
    assert!(why.contains("it is a standby, and not a server that takes writes"), "{why}");
    assert!(error.is_retryable());
    standby.promote();
    until_seen(|| standby.psql("SELECT pg_is_in_recovery()"), |seen| *seen == "f").await;
    let began = std::time::Instant::now();
    while writes.get().await.is_err() {
        assert!(began.elapsed() < 20 * SECOND, "it does not find the new primary");
    }
    assert_eq!(goes_to(&writes).await, [standby.port()]);
    writes.get().await.unwrap().batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert!(events.closed().iter().all(|reason| *reason != CloseReason::Invalidated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_read_only_is_left_by_all_connections() {
    let (old, new) = (trusting_server(&[]), trusting_server(&[]));
    for server in [&old, &new] {
        server.psql("CREATE TABLE t (n int8)");
    }
    new.set("default_transaction_read_only", "on");
    let (pool, events) = both(&old, &new, Target::ReadWrite);
    assert_eq!(goes_to(&pool).await, [old.port()]);
    until_status(&pool, |now| now.idle == 3).await;
    // What the servers are changes hands.
    old.set("default_transaction_read_only", "on");
    new.set("default_transaction_read_only", "off");
    let conn = pool.get().await.unwrap();
    let error = conn.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006");
    drop(conn);
    // Nobody had to report it.
    assert_eq!(events.until_closed(3).await, [CloseReason::Invalidated; 3]);
    let conn = pool.get().await.unwrap();
    assert_eq!(port(&conn).await, new.port());
    conn.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

/// A program that writes where it said it would not has a fault of its own.
#[tokio::test]
async fn a_write_in_a_transaction_that_is_to_read_only_harms_no_connection() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE t (n int8)");
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    fill(&pool, 2).await;
    let mut conn = pool.get().await.unwrap();
    let transaction = conn.build_transaction().read_only(true).start().await.unwrap();
    let error = transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006");
    drop(transaction);
    drop(conn);
    until_status(&pool, |now| now.idle == 2).await;
    assert_eq!(events.closed(), []);
}

/// Who asked for a server that takes no writes knew it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_on_a_server_that_was_to_take_none_harms_no_connection() {
    let primary = trusting_server(&[]);
    primary.psql("CREATE TABLE t (n int8)");
    let standby = primary.standby();
    for target in [Target::Standby, Target::ReadOnly] {
        let (pool, events) = both(&primary, &standby, target);
        fill(&pool, 3).await;
        let mut conn = pool.get().await.unwrap();
        let error = conn.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25006");
        assert_eq!(conn.report(&livepool_postgres::Error::from(error)), Verdict::Keep);
        drop(conn);
        // Whoever is told to leave the server does so before he is used again.
        assert_eq!(goes_to(&pool).await, [standby.port()]);
        until_status(&pool, |now| now.idle == 3).await;
        assert_eq!((events.opened(), events.closed()), (3, vec![]), "{target}");
    }
}
