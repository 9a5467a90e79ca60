//! What a peer can make us or a client library hold is bounded.
//!
//! The peak of this process' memory is looked at, so these tests are a program of their own. All of
//! them together stay below one bound: a peak never falls.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use livepool::config::Limits;
use livepool::protocol::{Protocol, Wire};
use livepool::{CloseReason, Config, Guard, Pool, TooLarge};
use livepool_http as http1;
use livepool_http::PoolExt;
use livepool_postgres as postgres;
use livepool_postgres::tokio_postgres::error::SqlState;
use livepool_redis as redis;
use livepool_testkit::Events;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// This program takes 20 to 30 MiB, in a debug build with all tests at a time: each of a dozen peers is
/// allowed 2 MiB. Unbounded, each of them brings it to hundreds within a second.
const MOST_MIB: u64 = 64;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[track_caller]
fn is_bounded() {
    assert!(peak_mib() < MOST_MIB, "{} MiB", peak_mib());
}

/// A server that does this with each of its connections.
async fn serve<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    script: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Clients hang up on it: that is what is asked of them.
            tokio::spawn(script(socket));
        }
    });
    addr
}

/// Says this over and over, until nobody listens.
async fn endless(socket: &mut TcpStream, piece: &[u8]) -> std::io::Result<()> {
    let many = piece.repeat(64 * KIB / piece.len() + 1);
    loop {
        socket.write_all(&many).await?;
    }
}

/// Reads one request, which comes in one piece.
async fn request(socket: &mut TcpStream) -> std::io::Result<()> {
    match socket.read(&mut [0; 4096]).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The answers to what livepool asks a new Redis connection.
const GREETING: &[u8] = b"+PONG\r\n+OK\r\n+OK\r\n";
/// Authentication is over, and the session is ready.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

fn limits() -> Limits {
    Limits::default().with_message(2 * MIB).with_retire_above(512 * KIB)
}

fn watched<P: Protocol>(config: Config, protocol: P) -> (Pool<P>, Events) {
    let events = Events::default();
    let pool = Pool::builder(config).protocol(protocol).observer(events.observer()).build();
    (pool.unwrap(), events)
}

fn redis_pool(
    addr: SocketAddr,
    change: impl FnOnce(Config) -> Config,
) -> (Pool<redis::Redis>, Events) {
    let redis = redis::Redis::from_url(format!("redis://{addr}")).unwrap();
    watched(change(redis.config().with_limits(limits())), redis)
}

fn postgres_pool(addr: SocketAddr) -> (Pool<postgres::Postgres>, Events) {
    let postgres = postgres::Postgres::from_url(&format!("postgres://me@{addr}/x")).unwrap();
    watched(postgres.config().with_limits(limits()), postgres)
}

fn brief(config: Config) -> Config {
    let timeouts = config.timeouts.with_checkout(Duration::from_secs(3));
    config.with_timeouts(timeouts)
}

/// A command to a Redis that answers its handshake and then this, without end.
async fn redis_that_says(first: &'static [u8], then: &'static [u8]) {
    let addr = serve(move |mut socket| async move {
        request(&mut socket).await?;
        socket.write_all(GREETING).await?;
        request(&mut socket).await?;
        socket.write_all(first).await?;
        endless(&mut socket, then).await
    })
    .await;
    let (pool, events) = redis_pool(addr, |config| config);
    let mut conn = pool.get().await.unwrap();
    let got =
        redis::redis::cmd("GET").arg("x").query_async::<redis::redis::Value>(&mut *conn).await;
    let error = got.unwrap_err().to_string();
    assert!(error.contains("limits.message is 2097152"), "{error}");
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::TooLarge]);
    is_bounded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_announces_half_a_terabyte_is_not_believed() {
    redis_that_says(b"$536870912000\r\n", b"a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_announces_very_many_small_elements_is_not_believed() {
    redis_that_says(b"*2147483647\r\n", b":1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_ends_a_line_is_cut_off() {
    redis_that_says(b"+", b"a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_ends_a_length_is_cut_off() {
    redis_that_says(b"$", b"1").await;
}

/// Why nobody got a connection.
async fn refusal<P: Protocol>(pool: &Pool<P>) -> String {
    pool.get().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_floods_a_handshake_gets_64_kib_and_the_error_names_the_limit() {
    let redis = serve(|mut socket| async move {
        request(&mut socket).await?;
        socket.write_all(b"$536870912\r\n").await?;
        endless(&mut socket, b"a").await
    })
    .await;
    let (pool, _) = redis_pool(redis, brief);
    let error = refusal(&pool).await;
    assert!(error.contains("limits.handshake is 65536"), "{error}");

    // Notices, one after the other, each of them small.
    let server = serve(|mut socket| async move {
        request(&mut socket).await?;
        endless(&mut socket, b"N\0\0\0\x0cSNOTICE\0\0").await
    })
    .await;
    let postgres = postgres::Postgres::from_url(&format!("postgres://me@{server}/x")).unwrap();
    let (pool, _) = watched(brief(postgres.config()), postgres);
    let error = refusal(&pool).await;
    assert!(error.contains("limits.handshake is 65536"), "{error}");
    is_bounded();
}

/// Reads a line first, however long it is.
struct Greeted;

impl Protocol for Greeted {
    type Client = BufReader<Wire>;
    type Error = std::io::Error;

    async fn connect(&self, wire: Wire) -> std::io::Result<BufReader<Wire>> {
        let mut wire = BufReader::new(wire);
        wire.read_line(&mut String::new()).await?;
        Ok(wire)
    }

    async fn ping(&self, _: &mut BufReader<Wire>) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_of_any_protocol_is_bounded_and_what_comes_after_it_is_its_own_affair() {
    let endlessly = serve(|mut socket| async move { endless(&mut socket, b"a").await }).await;
    let (pool, _) = watched(brief(Config::new(endlessly.to_string())), Greeted);
    let error = refusal(&pool).await;
    assert!(error.contains("limits.handshake is 65536"), "{error}");
    is_bounded();

    let much = serve(|mut socket| async move {
        socket.write_all(b"hello\n").await?;
        socket.write_all(&[b'a'; 256 * KIB]).await?;
        socket.read(&mut [0]).await.map(drop)
    })
    .await;
    let config = Config::new(much.to_string());
    let (pool, _) = watched(config.with_limits(limits().with_message(64 * KIB)), Greeted);
    let mut conn = pool.get().await.unwrap();
    conn.read_exact(&mut [0; 256 * KIB]).await.unwrap();
}

/// A query to a PostgreSQL that answers with this, and then without end.
fn says_to_a_query(
    first: Vec<u8>,
    then: &'static [u8],
) -> impl Fn(TcpStream) -> futures_util::future::BoxFuture<'static, std::io::Result<()>> + Send + 'static
{
    move |mut socket| {
        let first = first.clone();
        Box::pin(async move {
            request(&mut socket).await?;
            socket.write_all(WELCOME).await?;
            request(&mut socket).await?;
            socket.write_all(&first).await?;
            if then.is_empty() {
                socket.read(&mut [0]).await.map(drop)
            } else {
                endless(&mut socket, then).await
            }
        })
    }
}

/// One column of text.
const COLUMNS: &[u8] = b"T\0\0\0\x1a\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";

/// A row of it.
fn row(len: usize) -> Vec<u8> {
    let header = |len: usize| u32::try_from(len).unwrap().to_be_bytes();
    let mut row = b"D".to_vec();
    row.extend(header(4 + 2 + 4 + len));
    row.extend([0, 1]);
    row.extend(header(len));
    row.extend(std::iter::repeat_n(b'x', len));
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_announces_a_row_of_two_gigabytes_is_not_believed() {
    let first = [COLUMNS, b"D\x7f\xff\xff\xff\0\x01\x7f\xff\xff\xf0"].concat();
    let addr = serve(says_to_a_query(first, b"x")).await;
    let (pool, events) = postgres_pool(addr);
    let conn = pool.get().await.unwrap();
    let error = conn.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED), "{error}");
    // Whoever waits is told before the end.
    livepool_testkit::until(|| conn.ended_with().is_some()).await;
    let end = conn.ended_with().expect("it has ended");
    let cause = std::error::Error::source(end).and_then(|cause| cause.downcast_ref());
    let exceeded = TooLarge::of(cause.expect("an I/O error")).expect("a length");
    assert_eq!((exceeded.length, exceeded.limit), (0x8000_0000, 2 * MIB));
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::TooLarge]);
    is_bounded();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_read_one_by_one_are_not_limited_as_a_whole() {
    let rows = [
        COLUMNS.to_vec(),
        row(256 * KIB).repeat(12),
        b"C\0\0\0\x0eSELECT 12\0Z\0\0\0\x05I".to_vec(),
    ];
    let addr = serve(says_to_a_query(rows.concat(), b"")).await;
    let (pool, events) = postgres_pool(addr);
    let conn = pool.get().await.unwrap();
    let rows = conn.simple_query_raw("SELECT x").await.unwrap();
    let count = rows.try_fold(0, async |count, _| Ok(count + 1)).await.unwrap();
    assert_eq!(count, 1 + 12 + 1);
    drop(conn);
    assert_eq!(events.closed(), [], "256 KiB are not worth a new connection");
    is_bounded();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_an_http_response_is_bounded_and_its_body_is_not() {
    for (first, then) in [
        (&b"HTTP/1.1 200 "[..], &b"a"[..]),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\nx: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    ] {
        let addr = serve(move |mut socket| async move {
            request(&mut socket).await?;
            socket.write_all(first).await?;
            endless(&mut socket, then).await
        })
        .await;
        let pool = http1::pool(&format!("http://{addr}")).unwrap();
        let asked = http1::Request::get("/").body(http1::RequestBody::from(())).unwrap();
        let answer = async {
            match pool.send(asked).await {
                Ok(response) => response.into_body().bytes(MIB).await.map(drop).map_err(drop),
                Err(_) => Err(()),
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
        assert_eq!(answer.expect("it ends"), Err(()), "{}", first.escape_ascii());
        is_bounded();
    }
    let addr = serve(|mut socket| async move {
        request(&mut socket).await?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n").await?;
        endless(&mut socket, &[b'x'; 64 * KIB]).await
    })
    .await;
    let pool = http1::pool(&format!("http://{addr}")).unwrap();
    let asked = http1::Request::get("/").body(http1::RequestBody::from(())).unwrap();
    let mut body = pool.send(asked).await.unwrap().into_body();
    let mut len = 0;
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        len += frame.unwrap().data_ref().map_or(0, |data| data.len());
    }
    assert_eq!(len, 32 * MIB);
    is_bounded();
}

/// Answers every command with a value of so many bytes.
async fn large(len: usize) -> SocketAddr {
    serve(move |mut socket| async move {
        request(&mut socket).await?;
        socket.write_all(GREETING).await?;
        let mut answer = format!("${len}\r\n").into_bytes();
        answer.resize(answer.len() + len, b'x');
        answer.extend(b"\r\n");
        let mut space = vec![0; MIB];
        let mut last = Vec::new();
        loop {
            let count = socket.read(&mut space).await?;
            if count == 0 {
                return Ok(());
            }
            last.extend_from_slice(&space[..count]);
            // The end of a short command, or of a long one.
            if last.ends_with(b"\r\n") {
                last.clear();
                let text = if count > 100 || len == 0 { &b"+OK\r\n"[..] } else { &answer };
                socket.write_all(text).await?;
            }
        }
    })
    .await
}

async fn get(conn: &mut Guard<redis::Redis>) -> Vec<u8> {
    redis::redis::cmd("GET").arg("x").query_async(&mut **conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_grew_with_a_large_answer_is_closed_instead_of_becoming_idle() {
    let addr = large(MIB).await;
    let (pool, events) = redis_pool(addr, |config| config);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(get(&mut conn).await.len(), MIB);
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::Outgrown]);

    let (pool, events) = redis_pool(large(400 * KIB).await, |config| config);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(get(&mut conn).await.len(), 400 * KIB);
    drop(conn);
    assert_eq!((events.closed(), pool.status().idle), (vec![], 1));
    is_bounded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_grew_with_a_large_request_is_closed_instead_of_becoming_idle() {
    let (pool, events) = redis_pool(large(0).await, |config| config);
    let mut conn = pool.get().await.unwrap();
    let value = vec![b'x'; MIB];
    let set = redis::redis::cmd("SET").arg("x").arg(&value).query_async::<()>(&mut *conn).await;
    set.unwrap();
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::Outgrown]);
    is_bounded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_grew_goes_to_a_caller_who_waits_for_it() {
    let (pool, events) = redis_pool(large(MIB).await, |config| config.with_max_size(1));
    let mut conn = pool.get().await.unwrap();
    assert_eq!(get(&mut conn).await.len(), MIB);
    let id = conn.id();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap().id() }
    });
    livepool_testkit::until(|| pool.status().waiting == 1).await;
    drop(conn);
    assert_eq!(waiting.await.unwrap(), id);
    assert_eq!(events.until_closed(1).await, [CloseReason::Outgrown], "nobody waits any more");
    is_bounded();
}
