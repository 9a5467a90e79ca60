//! Ten thousand queries, many of them given up: each answer reaches the one who asked, nobody waits
//! for what others left running, nobody is in a transaction of somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, RecycleResult};
use livepool_postgres::RecyclingMethod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use livepool_testkit::seed::seed;

const QUERIES: u64 = 10_000;
const CALLERS: u64 = 32;
const CONNECTIONS: usize = 16;

/// What is left running takes longer than anybody may wait.
const NEXT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    given_up: AtomicUsize,
    crossed: AtomicUsize,
    inherited: AtomicUsize,
    failed: AtomicUsize,
    longest: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_queries_with_random_cancellation_cross_no_answers() {
    let server = trusting_server(&[("max_connections", "60")]);
    server.psql("CREATE TABLE t (n int8)");
    storm(&server, RecyclingMethod::Fast, QUERIES).await;
}

async fn storm(server: &Server, method: RecyclingMethod, queries: u64) {
    let postgres = postgres(server).with_recycling(method);
    let (pool, events) = pool_of(postgres, |config| config.with_max_size(CONNECTIONS));
    let tally = Arc::new(Tally::default());
    let seed = seed();
    let callers = (0..CALLERS).map(|caller| {
        let (pool, tally) = (pool.clone(), Arc::clone(&tally));
        let mut random = fastrand::Rng::with_seed(seed ^ caller);
        tokio::spawn(async move {
            for round in 0..queries / CALLERS {
                let tag = (caller * 1_000_000 + round) as i64;
                ask(&pool, tag, &mut random, &tally).await;
            }
        })
    });
    for caller in futures_util::future::join_all(callers).await {
        caller.unwrap();
    }
    let get = |count: &AtomicUsize| count.load(SeqCst);
    let longest = Duration::from_micros(tally.longest.load(SeqCst));
    println!(
        "{} answered, {} given up, {} failed, longest {longest:?}, {} connections, closed {:?}",
        get(&tally.answered),
        get(&tally.given_up),
        get(&tally.failed),
        events.opened(),
        events.closed(),
    );
    assert_eq!((get(&tally.crossed), get(&tally.inherited), get(&tally.failed)), (0, 0, 0));
    assert!(get(&tally.given_up) as u64 > queries / 10);
    assert!(longest < NEXT, "somebody waited for what another left running: {longest:?}");
    livepool_testkit::until_seen(|| running(server, "pg_sleep"), |seen| *seen == 0).await;
}

async fn ask(pool: &Pool<Postgres>, tag: i64, random: &mut fastrand::Rng, tally: &Tally) {
    let mut conn = pool.get().await.unwrap();
    let began = Instant::now();
    let first = "SELECT $1::int8, txid_current_if_assigned() IS NULL";
    match async { conn.query_one(&conn.prepare_cached(first).await?, &[&tag]).await }.await {
        Ok(row) => {
            let (answer, alone): (i64, bool) = (row.get(0), row.get(1));
            tally.crossed.fetch_add(usize::from(answer != tag), SeqCst);
            tally.inherited.fetch_add(usize::from(!alone), SeqCst);
            tally.answered.fetch_add(1, SeqCst);
        }
        Err(error) => {
            println!("{tag}: {error:?}");
            tally.failed.fetch_add(1, SeqCst);
        }
    }
    tally.longest.fetch_max(began.elapsed().as_micros() as u64, SeqCst);
    let patience = Duration::from_micros(random.u64(0..4_000));
    let sleep = [0.0, 0.001, 0.01, 60.0][random.usize(0..4)];
    let given_up = match random.u8(0..10) {
        0..3 => {
            let sql = format!("SELECT {tag}::int8 FROM pg_sleep({sleep})");
            tokio::time::timeout(patience, conn.query_one(&sql, &[])).await.is_err()
        }
        // Polled once, and perhaps never sent.
        3 => {
            let mut asked = Box::pin(conn.query_one("SELECT pg_sleep(60)", &[]));
            futures_util::poll!(asked.as_mut()).is_pending()
        }
        4..6 => {
            let work = async {
                let transaction = conn.transaction().await?;
                transaction.execute("INSERT INTO t VALUES ($1)", &[&tag]).await?;
                transaction.batch_execute(&format!("SELECT pg_sleep({sleep})")).await
            };
            tokio::time::timeout(patience, work).await.is_err()
        }
        _ => false,
    };
    tally.given_up.fetch_add(usize::from(given_up), SeqCst);
}

/// The other methods send statements of their own, which a late cancel might hit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_recycling_method_crosses_answers_either() {
    let server = trusting_server(&[("max_connections", "60")]);
    server.psql("CREATE TABLE t (n int8)");
    for method in [RecyclingMethod::Verified, RecyclingMethod::Clean] {
        storm(&server, method, 1_000).await;
    }
}

/// What the same does without any of this, so that the test above is known to be able to fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plain_pool_of_streams_crosses_answers() {
    let server = trusting_server(&[("max_connections", "60")]);
    let plain = Plain(server.port());
    let pool: deadpool::managed::Pool<Plain> =
        deadpool::managed::Pool::builder(plain).max_size(CONNECTIONS).build().unwrap();
    let crossed = Arc::new(AtomicUsize::new(0));
    let seed = seed();
    let callers = (0..CALLERS).map(|caller| {
        let (pool, crossed) = (pool.clone(), Arc::clone(&crossed));
        let mut random = fastrand::Rng::with_seed(seed ^ caller);
        tokio::spawn(async move {
            for round in 0..20 {
                let tag = (caller * 1_000_000 + round).to_string();
                let mut conn = pool.get().await.unwrap();
                let sleep = if random.bool() { "0" } else { "0.02" };
                let sql = format!("SELECT {tag} FROM pg_sleep({sleep})");
                let patience = Duration::from_micros(random.u64(0..40_000));
                let asked = tokio::time::timeout(patience, simple_query(&mut conn, &sql));
                if let Ok(answer) = asked.await {
                    crossed.fetch_add(usize::from(answer.ok() != Some(tag)), SeqCst);
                }
            }
        })
    });
    for caller in futures_util::future::join_all(callers).await {
        caller.unwrap();
    }
    assert!(crossed.load(SeqCst) > 0, "not one crossed: the other test could not fail either");
    println!("{} crossed", crossed.load(SeqCst));
}

struct Plain(u16);

impl Manager for Plain {
    type Type = TcpStream;
    type Error = std::io::Error;

    async fn create(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.0)).await?;
        let startup = b"\0\x03\0\0user\0postgres\0database\0app\0\0";
        stream.write_all(&(startup.len() as u32 + 4).to_be_bytes()).await?;
        stream.write_all(startup).await?;
        while message(&mut stream).await?.0 != b'Z' {}
        Ok(stream)
    }

    async fn recycle(&self, _: &mut TcpStream, _: &Metrics) -> RecycleResult<std::io::Error> {
        Ok(())
    }
}

async fn simple_query(stream: &mut TcpStream, sql: &str) -> std::io::Result<String> {
    let mut query = vec![b'Q'];
    query.extend((sql.len() as u32 + 5).to_be_bytes());
    query.extend(sql.as_bytes());
    query.push(0);
    stream.write_all(&query).await?;
    let mut answer = String::new();
    loop {
        match message(stream).await? {
            // One column: its count, and its length.
            (b'D', row) => answer = String::from_utf8_lossy(&row[6..]).into_owned(),
            (b'Z', _) => return Ok(answer),
            _ => {}
        }
    }
}

async fn message(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    // A stream that was left in the middle of a message says anything.
    let len = stream.read_u32().await?.saturating_sub(4).min(1 << 16);
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}
