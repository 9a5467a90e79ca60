//! Queries straight on a pool: one checkout each, nothing twice, nothing left.

use std::time::Instant;

use livepool_postgres::{Error, PoolExt as _};
use livepool_testkit::{until_seen, until_status};

use super::*;

#[tokio::test]
async fn each_query_on_a_pool_is_one_checkout_and_leaves_nothing() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let made = pool.execute("CREATE TABLE visits (page text, count int8)", &[]).await.unwrap();
    assert_eq!(made, 0);
    for page in ["/a", "/b"] {
        let sql = "INSERT INTO visits VALUES ($1, 1)";
        assert_eq!(pool.execute(sql, &[&page]).await.unwrap(), 1);
    }
    let all = pool.query("SELECT page FROM visits ORDER BY page", &[]).await.unwrap();
    assert_eq!(all.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["/a", "/b"]);
    let one = pool.query_one("SELECT count FROM visits WHERE page = $1", &[&"/a"]).await.unwrap();
    assert_eq!(one.get::<_, i64>(0), 1);
    let none = pool.query_opt("SELECT count FROM visits WHERE page = $1", &[&"/c"]).await.unwrap();
    assert!(none.is_none());
    // Prepared once: the second caller finds it. And what a call did to its session ends with it.
    pool.execute("SET application_name = 'left'", &[]).await.unwrap();
    let name = pool.query_one("SELECT current_setting('application_name')", &[]).await.unwrap();
    assert_ne!(name.get::<_, String>(0), "left");
    let error = pool.query("SELECT nothing", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42703", "{error}");
    assert!(matches!(error, Error::Postgres(_)));
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // Its future is one for a task.
    let asked = pool.clone();
    tokio::spawn(async move { asked.query("SELECT 1", &[]).await.map(drop) })
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_query_on_a_pool_that_its_caller_gives_up_is_cancelled_at_the_server() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let asked = pool.query("SELECT pg_sleep(64)", &[]);
    tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
    let row = pool.query_one("SELECT 7::int8", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 7);
    assert_eq!(running(&server, "pg_sleep(64)"), 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_query_on_a_pool_is_never_run_twice_and_an_idle_session_that_ended_costs_nobody() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    pool.execute("CREATE SEQUENCE runs", &[]).await.unwrap();
    let asked = tokio::spawn({
        let pool = pool.clone();
        async move { pool.query("SELECT nextval('runs'), pg_sleep(65)", &[]).await.map(drop) }
    });
    until_seen(|| running(&server, "pg_sleep(65)"), |seen| *seen == 1).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE pid <> pg_backend_pid() AND datname = 'app'";
    server.psql(end);
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Postgres(_)), "{error:?}");
    let runs = pool.query_one("SELECT last_value FROM runs", &[]).await.unwrap();
    assert_eq!(runs.get::<_, i64>(0), 1);
    until_status(&pool, |now| now.idle == 1).await;
    server.psql(end);
    // It is only told to end by that.
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'app'";
    until_seen(|| server.psql(others), |seen| seen == "0").await;
    pool.query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn a_query_on_a_pool_without_a_connection_says_so_and_was_not_run() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| {
        let timeouts = config.timeouts.with_checkout(Duration::from_millis(50));
        one(config).with_timeouts(timeouts)
    });
    // To make it may take longer.
    let held = pool.get_by(Instant::now() + 10 * SECOND).await.unwrap();
    let began = Instant::now();
    let error = pool.query("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Checkout(_)) && error.is_timeout(), "{error:?}");
    assert!(error.to_string().contains("1 of 1 in use"), "{error}");
    assert!(began.elapsed() < 20 * SECOND);
    drop(held);
    let wrong =
        Postgres::from_url(&server.url().replace("/app", "/nowhere")).unwrap().pool().unwrap();
    let error = wrong.query("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("3D000"), "{error}");
}
