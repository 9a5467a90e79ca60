//! Ten thousand requests with random cancellation behind a proxy: each answer reaches the one who
//! asked, and giving up is nobody else's error. On plain pools of streams, answers do reach others:
//! `crates/livepool-postgres/tests/postgres/storm.rs`, `crates/livepool-redis/tests/redis_chaos.rs` and
//! `crates/livepool-http/tests/http1/crossed.rs` show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use livepool_http::{PoolExt, Request, RequestBody};
use livepool_postgres::Statements;
use livepool_postgres::tokio_postgres::types::Type;
use livepool_redis::redis::{Value, cmd, pipe};

use super::*;
use livepool_testkit::crossing::{Tally, requests};
use livepool_testkit::servers::{Nginx, Redis as RedisServer};
use livepool_testkit::{until_seen, until_status};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 16;
const MINUTE: Duration = Duration::from_secs(60);

const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity \
                        WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(%'";

fn sixteen(config: Config) -> Config {
    config.with_max_size(CONNECTIONS)
}

/// Nobody's answer was another's, nobody failed, and both kinds of end happened often.
fn assert_nobody_was_crossed(tally: &Tally, events: &Events) {
    println!("{tally:?}; {} connections, closed {:?}", events.opened(), events.closed());
    assert_eq!((tally.crossed(), tally.failed()), (0, 0));
    assert!(tally.answered() > REQUESTS / 10 && tally.cancelled() > REQUESTS / 10, "{tally:?}");
}

async fn ask_postgres(pool: &Pool<Postgres>, tag: usize) -> Result<String, String> {
    let mut conn = pool.get().await.map_err(|error| format!("{error:?}"))?;
    let number = tag as i64;
    // A transaction of another user would have an id.
    let sql = "SELECT $1::int8, txid_current_if_assigned() IS NULL";
    let asked = async {
        let rows = match fastrand::bool() {
            true => conn.query(&conn.prepare_cached(sql).await?, &[&number]).await?,
            false => conn.query_typed(sql, &[(&number, Type::INT8)]).await?,
        };
        let (answer, is_alone): (i64, bool) = (rows[0].get(0), rows[0].get(1));
        let answer = if is_alone { answer.to_string() } else { "in a transaction".to_owned() };
        // Something that the outer patience, or our own here, cuts in the middle.
        match fastrand::u8(0..10) {
            0..2 => {
                let sleep = ["0.001", "0.01", "60"][fastrand::usize(0..3)];
                let sql = format!("SELECT pg_sleep({sleep})");
                let slow = conn.simple_query(&sql);
                let patience = Duration::from_micros(fastrand::u64(0..4_000));
                let _ = tokio::time::timeout(patience, slow).await;
            }
            2..4 => {
                let transaction = conn.transaction().await?;
                transaction.batch_execute(&format!("INSERT INTO t VALUES ({tag})")).await?;
                match fastrand::bool() {
                    true => transaction.commit().await?,
                    false => drop(transaction),
                }
            }
            _ => {}
        }
        Ok(answer)
    };
    asked.await.map_err(|error: tokio_postgres::Error| format!("{error:?}"))
}

/// Says why a request failed. After the first one that did, nobody asks any more: a proxy that has
/// died costs everybody the time of a checkout.
async fn told(
    has_failed: &AtomicBool,
    tag: usize,
    request: impl Future<Output = Result<String, String>>,
) -> Result<String, String> {
    if has_failed.load(SeqCst) {
        return Err("not asked".to_owned());
    }
    let answer = request.await;
    answer.inspect_err(|error| {
        has_failed.store(true, SeqCst);
        println!("{tag}: {error}");
    })
}

async fn postgres_storm(url: &str, server: &Server, statements: Statements) {
    server.psql("CREATE TABLE t (n int8)");
    let postgres = Postgres::from_url(url).unwrap().with_statements(statements);
    // What is given up is cancelled over connections of its own, two at a time, for each of which the
    // server starts a process. On a busy machine sixteen in line take longer than the second there is
    // by default: their connections would be closed, which is right, and told nothing here.
    let timeouts = Timeouts::default().with_reset(MINUTE).with_connect(MINUTE);
    let (pool, events) = postgres_of(postgres, |config| sixteen(config).with_timeouts(timeouts));
    let (has_failed, asking) = (Arc::<AtomicBool>::default(), pool.clone());
    let tally = requests(REQUESTS, move |tag| {
        let (pool, has_failed) = (asking.clone(), Arc::clone(&has_failed));
        async move { told(&has_failed, tag, ask_postgres(&pool, tag)).await }
    })
    .await;
    assert_nobody_was_crossed(&tally, &events);
    // What was given up was ended at the server, too.
    until_seen(|| server.psql(SLEEPING), |seen| seen == "0").await;
    // And each connection is fit for whoever comes next.
    until_status(&pool, |now| now.in_use == 0).await;
    let (now, closed) = (pool.status(), events.closed());
    assert_eq!(
        now.idle,
        CONNECTIONS,
        "{now}; closed {closed:?}, timed out {:?}",
        events.timed_out()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_queries_behind_a_pgbouncer_that_pools_transactions_cross_no_answers() {
    let server = trusting_server();
    let settings = [("pool_mode", "transaction"), ("default_pool_size", "8")];
    let pgbouncer = PgBouncer::start(&server, &settings);
    postgres_storm(&pgbouncer.url(), &server, Statements::Unnamed).await;
    assert!(pgbouncer.is_alive(), "{}", pgbouncer.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_queries_behind_a_pgbouncer_that_pools_sessions_cross_no_answers() {
    let server = trusting_server();
    let pgbouncer = PgBouncer::start(&server, &[("pool_mode", "session")]);
    postgres_storm(&pgbouncer.url(), &server, Statements::Named).await;
    assert!(pgbouncer.is_alive(), "{}", pgbouncer.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_queries_behind_a_haproxy_cross_no_answers() {
    let server = trusting_server();
    let haproxy = Haproxy::tcp(&[format!("127.0.0.1:{}", server.port())], &[]);
    postgres_storm(&postgres_url(haproxy.port()), &server, Statements::Named).await;
}

/// A bouncer forgets whoever closes, and with it what could be cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_ends_in_the_middle_of_queries_leaves_none_running_behind_a_pgbouncer() {
    let server = trusting_server();
    for mode in ["session", "transaction"] {
        let pgbouncer = PgBouncer::start(&server, &[("pool_mode", mode)]);
        let (pool, _events) = postgres_at(&pgbouncer.url(), sixteen);
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let pool = pool.clone();
            asked.spawn(async move {
                let conn = pool.get().await.unwrap();
                conn.simple_query("SELECT pg_sleep(60)").await.map(drop)
            });
        }
        // One that is still on its way cannot be cancelled: PostgreSQL cancels what runs.
        until_seen(|| server.psql(SLEEPING), |seen| seen == "8").await;
        asked.shutdown().await;
        drop(pool);
        until_seen(|| server.psql(SLEEPING), |seen| seen == "0").await;
        assert!(pgbouncer.is_alive(), "{mode}: {}", pgbouncer.log());
    }
}

async fn ask_redis(pool: &Pool<Redis>, tag: usize) -> Result<String, String> {
    let mut conn = pool.get().await.map_err(|error| format!("{error:?}"))?;
    let asked = async {
        match tag % 10 {
            0..6 => cmd("ECHO").arg(tag).query_async(&mut *conn).await,
            6..8 => {
                let mut many = pipe();
                many.atomic().set("tag", tag).cmd("ECHO").arg(tag);
                let (_, last): (Value, String) = many.query_async(&mut *conn).await?;
                Ok(last)
            }
            8 => {
                let _: Value = cmd("BLPOP").arg("none").arg("0.01").query_async(&mut *conn).await?;
                cmd("ECHO").arg(tag).query_async(&mut *conn).await
            }
            _ => {
                cmd("MULTI").query_async::<()>(&mut *conn).await?;
                cmd("ECHO").arg(tag).query_async::<()>(&mut *conn).await?;
                let (answer,): (String,) = cmd("EXEC").query_async(&mut *conn).await?;
                Ok(answer)
            }
        }
    };
    asked.await.map_err(|error: livepool_redis::redis::RedisError| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commands_behind_a_haproxy_cross_no_answers() {
    let server = RedisServer::start();
    let haproxy = Haproxy::tcp(&[server.addr()], &[]);
    let (pool, events) = redis_at(&haproxy.addr(), sixteen);
    let has_failed = Arc::<AtomicBool>::default();
    let tally = requests(REQUESTS, move |tag| {
        let (pool, has_failed) = (pool.clone(), Arc::clone(&has_failed));
        async move { told(&has_failed, tag, ask_redis(&pool, tag)).await }
    })
    .await;
    assert_nobody_was_crossed(&tally, &events);
}

async fn ask_http(pool: &Pool<Http1>, tag: usize) -> Result<String, String> {
    let text = tag.to_string();
    let request: Result<Request<RequestBody>, _> = match tag % 3 {
        0 => Request::get(format!("/tag/{text}")).body(().into()),
        1 => Request::post(format!("/big/{text}")).body(text.clone().into()),
        _ => Request::get(format!("/big/{text}")).body(().into()),
    };
    let text_of = |error: livepool_http::Error| format!("{error:?}");
    let response = pool.send(request.unwrap()).await.map_err(text_of)?;
    if !response.status().is_success() {
        return Err(response.status().to_string());
    }
    let mut body = response.into_body();
    if tag % 9 == 2 {
        // Given up by dropping the body after its first piece.
        let piece = body.frame().await.ok_or("no body")?.map_err(text_of)?.into_data();
        let piece = String::from_utf8_lossy(&piece.unwrap_or_default()).into_owned();
        return Ok(piece.lines().next().unwrap_or_default().to_owned());
    }
    let bytes = body.bytes(1 << 22).await.map_err(text_of)?;
    let body = String::from_utf8_lossy(&bytes).into_owned();
    // All lines are the same, or it is somebody else's.
    let is_one = body.lines().all(|line| line == text);
    Ok(if is_one { text } else { body })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_http_requests_behind_a_haproxy_cross_no_answers() {
    let lines = "$1\n".repeat(512);
    // nginx ends a connection after 1000 requests by default, without asking HAProxy.
    let directives =
        format!("keepalive_requests 1000000; location ~ ^/big/(.*)$ {{ return 200 \"{lines}\"; }}");
    let nginx = Nginx::start_with(&directives, None);
    let haproxy = Haproxy::http(&[format!("127.0.0.1:{}", nginx.port())], &[]);
    let (pool, events) = http_at(haproxy.addr(), sixteen);
    let has_failed = Arc::<AtomicBool>::default();
    let tally = requests(REQUESTS, move |tag| {
        let (pool, has_failed) = (pool.clone(), Arc::clone(&has_failed));
        async move { told(&has_failed, tag, ask_http(&pool, tag)).await }
    })
    .await;
    assert_nobody_was_crossed(&tally, &events);
}
