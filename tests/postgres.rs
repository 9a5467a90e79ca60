//! Pools of PostgreSQL sessions, with a real PostgreSQL: what the next user finds, whoever the last
//! one was.
#![cfg(all(target_os = "linux", feature = "postgres"))]

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use livepool::postgres::tokio_postgres::error::SqlState;
use livepool::postgres::{Postgres, ResetMode};
use livepool::{CloseReason, Config, Guard, Pool, Release, Timeouts};
use support::crossing::{plain_with, requests};
use support::servers::Postgres as Server;
use support::{Events, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

async fn select(pool: &Pool<Postgres>, number: i64) -> i64 {
    let client = pool.get().await.unwrap();
    client.query_one("SELECT $1::int8", &[&number]).await.unwrap().get(0)
}

/// Waits until nobody of ours is at work at the server; how long that took.
async fn until_nobody_works(server: &Server) -> Duration {
    let began = Instant::now();
    let working = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    until(|| server.psql(working) == "0").await;
    began.elapsed()
}

#[tokio::test]
async fn a_session_goes_back_when_it_is_dropped_and_prepares_a_text_once() {
    let server = Server::start();
    let (pool, events) = pool(&server, 4);
    for round in 0..3 {
        let client = pool.get().await.unwrap();
        let statement = client.prepare_cached("SELECT $1::int8 + 1").await.unwrap();
        let next: i64 = client.query_one(&statement, &[&round]).await.unwrap().get(0);
        assert_eq!((next, client.statement_cache().len()), (round + 1, 1));
        let prepared = "SELECT count(*) FROM pg_prepared_statements";
        let count: i64 = client.query_one(prepared, &[]).await.unwrap().get(0);
        assert!(count <= 3, "{count} statements");
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_query_whose_caller_went_away_is_cancelled_at_the_server() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    let client = pool.get().await.unwrap();
    let long = client.query_one("SELECT pg_sleep(60)", &[]);
    tokio::time::timeout(50 * MS, long).await.unwrap_err();
    assert_eq!(client.release(), Release::Resetting);
    let began = Instant::now();
    assert_eq!(select(&pool, 7).await, 7);
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!((events.opened(), events.closed()), (1, vec![]), "the same session");
    until_nobody_works(&server).await;
}

#[tokio::test]
async fn a_query_that_was_not_even_sent_is_nobody_elses() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    let client = pool.get().await.unwrap();
    {
        let mut begin = std::pin::pin!(client.batch_execute("BEGIN"));
        assert!(futures_util::poll!(begin.as_mut()).is_pending());
    }
    drop(client);
    let client = pool.get().await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    let in_transaction = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in %'";
    assert_eq!(server.psql(in_transaction), "0");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_query_that_passes_its_deadline_is_cancelled_at_the_server() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    let mut client = pool.get().await.unwrap();
    client.deadline(100 * MS);
    let error = client.query_one("SELECT pg_sleep(60)", &[]).await.unwrap_err();
    assert!(error.is_closed() || error.to_string().contains("communicating"), "{error}");
    drop(client);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    until_nobody_works(&server).await;
    assert_eq!(select(&pool, 7).await, 7);
}

#[tokio::test]
async fn a_session_that_is_interrupted_leaves_no_query_at_the_server() {
    let server = Server::start();
    let (pool, _) = pool(&server, 1);
    let client = pool.get().await.unwrap();
    let (result, ()) = tokio::join!(client.query_one("SELECT pg_sleep(60)", &[]), async {
        let working = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        until(|| server.psql(working) == "1").await;
        pool.close_by(Instant::now()).await;
    });
    result.unwrap_err();
    drop(client);
    until_nobody_works(&server).await;
}

#[tokio::test]
async fn a_transaction_that_was_dropped_is_rolled_back_for_the_next_user() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    pool.get().await.unwrap().batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let count = async || {
        let client = pool.get().await.unwrap();
        let status = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        status.get::<_, i64>(0)
    };
    // Dropped with its guard, forgotten by hand, dropped in the middle, and failed.
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let insert = transaction.prepare_cached("INSERT INTO t VALUES ($1)").await.unwrap();
    transaction.execute(&insert, &[&1_i64]).await.unwrap();
    drop(transaction);
    drop(client);
    assert_eq!(count().await, 0);
    let client = pool.get().await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    drop(client);
    assert_eq!(count().await, 0);
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let slow = transaction.batch_execute("INSERT INTO t VALUES (3); SELECT pg_sleep(60)");
    tokio::time::timeout(50 * MS, slow).await.unwrap_err();
    drop(transaction);
    drop(client);
    assert_eq!(count().await, 0);
    let client = pool.get().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("no sql").await.unwrap_err();
    drop(client);
    assert_eq!(count().await, 0);
    let mut client = pool.get().await.unwrap();
    let transaction = client.build_transaction().read_only(false).start().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (4)", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    drop(client);
    assert_eq!(count().await, 1);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_reset_does_what_it_was_chosen_for() {
    let server = Server::start();
    let url = server.url();
    for (mode, keeps) in [
        (ResetMode::Fast, true),
        (ResetMode::Verified, true),
        (ResetMode::Clean, false),
        (ResetMode::Custom("SET work_mem = '4MB'".to_owned()), false),
    ] {
        let postgres = Postgres::from_url(&url).unwrap().with_reset(mode.clone());
        let (pool, events) = pool_of(postgres, |config| config.with_max_size(1));
        let client = pool.get().await.unwrap();
        client.batch_execute("SET work_mem = '7MB'").await.unwrap();
        client.prepare_cached("SELECT 1").await.unwrap();
        drop(client);
        let client = pool.get().await.unwrap();
        let work_mem: String = client.query_one("SHOW work_mem", &[]).await.unwrap().get(0);
        assert_eq!(work_mem == "7MB", keeps, "{mode:?}");
        let statement = client.prepare_cached("SELECT 1").await.unwrap();
        client.query_one(&statement, &[]).await.unwrap();
        drop(client);
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }
    let broken = ResetMode::Custom("no sql".to_owned());
    let (pool, events) = pool_of(Postgres::from_url(&url).unwrap().with_reset(broken), |c| c);
    drop(pool.get().await.unwrap());
    assert_eq!(events.until_closed(1).await, [CloseReason::ResetFailed]);
}

#[tokio::test]
async fn notifications_are_delivered_and_not_inherited() {
    let server = Server::start();
    let timeouts = Timeouts::default().with_read(200 * MS);
    let postgres = Postgres::from_url(&server.url()).unwrap();
    let (pool, events) =
        pool_of(postgres, |config| config.with_max_size(1).with_timeouts(timeouts));
    let mut client = pool.get().await.unwrap();
    let mut news = client.notifications();
    client.batch_execute("LISTEN news").await.unwrap();
    // Longer than a read may take, while nothing is owed.
    tokio::time::sleep(400 * MS).await;
    let notify = || {
        let notify = "NOTIFY news, 'hello'";
        let mut psql = std::process::Command::new("psql");
        psql.arg(server.url()).args(["-c", notify]).output().unwrap()
    };
    notify();
    assert_eq!(news.recv().await.unwrap().payload(), "hello");
    drop(client);
    let client = pool.get().await.unwrap();
    let rows = client.query("SELECT pg_listening_channels()", &[]).await.unwrap();
    assert!(rows.is_empty(), "{rows:?}");
    drop(client);
    notify();
    assert_eq!(select(&pool, 3).await, 3);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_copy_that_takes_its_time_is_not_cut_by_the_read_timeout() {
    let server = Server::start();
    let timeouts = Timeouts::default().with_read(200 * MS);
    let postgres = Postgres::from_url(&server.url()).unwrap();
    let (pool, events) =
        pool_of(postgres, |config| config.with_max_size(1).with_timeouts(timeouts));
    let client = pool.get().await.unwrap();
    client.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for _ in 0..2 {
        tokio::time::sleep(400 * MS).await;
        sink.send(Bytes::from_static(b"1\n2\n")).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 4);
    drop(client);
    // One that is given up in the middle is ended, and its session reused.
    let client = pool.get().await.unwrap();
    let mut given_up = Box::pin(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap());
    given_up.send(Bytes::from_static(b"3\n")).await.unwrap();
    drop(given_up);
    drop(client);
    let client = pool.get().await.unwrap();
    let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 4);
    // A query that is silent for longer than a read may take says so, or is cut.
    drop(client);
    let mut client = pool.get().await.unwrap();
    client.set_read_timeout(None);
    client.batch_execute("SELECT pg_sleep(0.5)").await.unwrap();
    drop(client);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    let client = pool.get().await.unwrap();
    client.batch_execute("SELECT pg_sleep(0.5)").await.unwrap_err();
    drop(client);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
}

#[tokio::test]
async fn what_outlives_its_guard_ends_no_session() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    for number in 0..50_i64 {
        // A row holds its statement, which is closed at the server when the row is dropped.
        let row = {
            let client = pool.get().await.unwrap();
            client.query_one("SELECT $1::int8", &[&number]).await.unwrap()
        };
        assert_eq!(row.get::<_, i64>(0), number);
        drop(row);
        if number % 2 == 0 {
            tokio::time::sleep(MS).await;
        }
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn an_error_of_the_query_leaves_the_session_as_it_is() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    let client = pool.get().await.unwrap();
    let error = client.query_one("SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    client.query_one("SELECT $1::int8", &[&"text"]).await.unwrap_err();
    drop(client);
    assert_eq!(select(&pool, 3).await, 3);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

async fn answer(client: &Guard<Postgres>, tag: usize) -> Result<String, String> {
    let nap = if tag.is_multiple_of(20) { 0.005 } else { 0.0 };
    let sql = "SELECT $1::int8 FROM pg_sleep($2)";
    let statement = client.prepare_cached(sql).await.map_err(|error| error.to_string())?;
    let tag = i64::try_from(tag).unwrap();
    let row = client.query_one(&statement, &[&tag, &nap]).await;
    Ok(row.map_err(|error| error.to_string())?.get::<_, i64>(0).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_queries_a_third_of_them_cancelled_and_none_answered_to_somebody_else() {
    let server = Server::start();
    let (pool, events) = pool(&server, 16);
    let in_transactions = pool.clone();
    let tally = requests(10_000, move |tag| {
        let pool = pool.clone();
        async move {
            let mut client = pool.get().await.map_err(|error| error.to_string())?;
            // Whoever begins a transaction finds none.
            if tag % 10 == 0 {
                let transaction = client.transaction().await.map_err(|error| error.to_string())?;
                let rows = transaction.query("SELECT $1::int8", &[&(tag as i64)]).await;
                return Ok(rows.map_err(|e| e.to_string())?[0].get::<_, i64>(0).to_string());
            }
            answer(&client, tag).await
        }
    })
    .await;
    println!("{tally:?}, {} sessions, ended {:?}", events.opened(), events.closed());
    assert_eq!((tally.crossed(), tally.failed()), (0, 0));
    assert!(tally.cancelled() > 500 && tally.answered() > 5_000);
    // Nobody is left in a transaction.
    until(|| in_transactions.status().in_use == 0).await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(server.psql(open), "0");
}

/// A pool of byte streams, and simple queries by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_a_plain_deadpool_of_streams_answers_to_somebody_else() {
    let server = Server::start();
    // Without a password, so that a hand-written start is enough.
    server.trust_everybody();
    let body = b"\0\x03\0\0user\0postgres\0database\0app\0\0";
    let hello = [&(body.len() as i32 + 4).to_be_bytes()[..], body].concat();
    let pool = plain_with(([127, 0, 0, 1], server.port()).into(), &hello, b"Z\0\0\0\x05I");
    let tally = requests(2_000, move |tag| {
        let pool = pool.clone();
        async move {
            let mut stream = pool.get().await.map_err(|error| error.to_string())?;
            by_hand(&mut stream, tag).await.map_err(|error| error.to_string())
        }
    })
    .await;
    println!("{tally:?}");
    assert!(tally.crossed() > 0, "else the test above could not fail");
}

async fn by_hand(stream: &mut tokio::net::TcpStream, tag: usize) -> std::io::Result<String> {
    let sql = format!("SELECT 'tag:{tag}'\0");
    let length = (sql.len() as i32 + 4).to_be_bytes();
    stream.write_all(&[b"Q", &length[..], sql.as_bytes()].concat()).await?;
    let answer = read_until_ready(stream).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let tag = text.split("tag:").nth(1).unwrap_or_default();
    Ok(tag.chars().take_while(char::is_ascii_digit).collect())
}

async fn read_until_ready(stream: &mut tokio::net::TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_i32().await?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await?;
        all.extend(body);
        if kind == b'Z' {
            return Ok(all);
        }
    }
}
