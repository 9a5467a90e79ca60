//! Requests to cancel as those see them who take them: how they come, how many, and what is free when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livepool::{CloseReason, Event, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use livepool_testkit::servers::PgBouncer;
use livepool_testkit::until_seen;

/// How the requests to cancel ended.
pub(super) fn outcomes(events: &Events) -> Vec<&'static str> {
    let all = events.all();
    let requests = all.iter().filter_map(|event| match event {
        Event::CancelRequested { outcome, .. } => Some(outcome.as_str()),
        _ => None,
    });
    requests.collect()
}

/// Passes everything on to a server, and a request to cancel only after a while, as a bouncer does that
/// has no free connection.
struct Relay {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    /// Ended by us before they were passed on.
    ended: AtomicUsize,
    from: Mutex<Vec<SocketAddr>>,
}

impl Relay {
    async fn start(server: &Server, busy: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, port) = (listener.local_addr().unwrap(), server.port());
        let seen = Arc::<Seen>::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((client, from)) = listener.accept().await {
                all.from.lock().unwrap().push(from);
                let (seen, server) = (Arc::clone(&all), TcpStream::connect(("127.0.0.1", port)));
                tokio::spawn(
                    async move { relay(client, server.await.unwrap(), busy, &seen).await },
                );
            }
        });
        Self { addr, seen }
    }

    fn url(&self) -> String {
        format!("postgres://postgres@{}/app", self.addr)
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, busy: Duration, seen: &Seen) {
    let mut head = [0; 8];
    if client.read_exact(&mut head).await.is_err() {
        return;
    }
    server.write_all(&head).await.unwrap();
    // CancelRequest.
    if head[4..] != 80_877_102_u32.to_be_bytes() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    seen.requests.fetch_add(1, SeqCst);
    seen.most.fetch_max(seen.now.fetch_add(1, SeqCst) + 1, SeqCst);
    let mut key = [0; 8];
    client.read_exact(&mut key).await.unwrap();
    if let Ok(read) = tokio::time::timeout(busy, client.read(&mut [0])).await {
        assert_eq!(read.unwrap_or(0), 0, "nothing follows");
        seen.ended.fetch_add(1, SeqCst);
    }
    server.write_all(&key).await.unwrap();
    let _ = server.read(&mut [0]).await;
    seen.now.fetch_sub(1, SeqCst);
}

/// `pg-cancel-request-fin`: a PgBouncer 1.18 dies of it.
#[tokio::test]
async fn a_request_is_left_open_until_it_was_taken() {
    // After a quarter of a second another request is made.
    const SOON: Duration = Duration::from_millis(200);
    let server = trusting_server(&[]);
    for _ in 0..20 {
        let relay = Relay::start(&server, Duration::from_millis(20)).await;
        let (pool, events) = pool_of(Postgres::from_url(&relay.url()).unwrap(), one);
        let mut conn = pool.get().await.unwrap();
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            let asked = conn.batch_execute("SELECT pg_sleep(73)");
            tokio::time::timeout(Duration::from_millis(20), asked).await.unwrap_err();
            let began = Instant::now();
            drop(conn);
            conn = pool.get().await.unwrap();
            slowest = slowest.max(began.elapsed());
        }
        assert_eq!(echo(&conn, 1).await.unwrap(), 1);
        assert_eq!(relay.seen.ended.load(SeqCst), 0);
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
        if slowest < SOON {
            assert_eq!(outcomes(&events), ["ok"; 3]);
            return;
        }
        // The machine was busy, and a second request may have been made.
    }
    panic!("no three resets were over within {SOON:?} each");
}

#[tokio::test]
async fn many_deadlines_that_pass_together_open_few_connections() {
    const MANY: usize = 40;
    let server = trusting_server(&[("max_connections", "60")]);
    let relay = Relay::start(&server, Duration::from_millis(10)).await;
    let timeouts = Timeouts::default().with_reset(Duration::from_secs(60));
    let (pool, events) = pool_of(Postgres::from_url(&relay.url()).unwrap(), |config| {
        config.with_max_size(MANY).with_max_connecting(3).with_timeouts(timeouts)
    });
    fill(&pool, MANY).await;
    let mut conns = Vec::new();
    for _ in 0..MANY {
        conns.push(pool.get().await.unwrap());
    }
    let asked = conns.iter().map(|conn| conn.batch_execute("SELECT pg_sleep(74)"));
    let all = futures_util::future::join_all(asked);
    tokio::time::timeout(Duration::from_millis(300), all).await.unwrap_err();
    drop(conns);
    livepool_testkit::until_status(&pool, |now| now.idle == MANY).await;
    assert_eq!(running(&server, "pg_sleep(74)"), 0);
    let most = relay.seen.most.load(SeqCst);
    assert!((1..=3).contains(&most), "{most} at a time");
    assert_eq!((events.opened(), events.closed()), (MANY, vec![]));
    // One for each, unless it did not end within a quarter of a second.
    let requests = relay.seen.requests.load(SeqCst);
    assert!((MANY..2 * MANY).contains(&requests), "{requests} requests");
    assert_eq!(outcomes(&events), vec!["ok"; requests]);
}

#[tokio::test]
async fn requests_for_one_connection_that_come_together_are_one() {
    let server = trusting_server(&[]);
    let relay = Relay::start(&server, Duration::from_millis(50)).await;
    let (pool, _) = pool_of(Postgres::from_url(&relay.url()).unwrap(), one);
    let conn = pool.get().await.unwrap();
    let all = (0..50).map(|_| conn.cancel());
    for cancelled in futures_util::future::join_all(all).await {
        cancelled.unwrap();
    }
    assert_eq!(relay.seen.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn a_request_goes_out_as_the_connections_of_its_pool_do() {
    let server = trusting_server(&[]);
    let relay = Relay::start(&server, Duration::ZERO).await;
    let (pool, _) = pool_of(Postgres::from_url(&relay.url()).unwrap(), |mut config| {
        config.socket.local_addr = Some("127.0.0.7".parse().unwrap());
        one(config)
    });
    let conn = pool.get().await.unwrap();
    conn.cancel().await.unwrap();
    let from = relay.seen.from.lock().unwrap().clone();
    assert_eq!(from.len(), 2, "{from:?}");
    assert!(from.iter().all(|from| from.ip().to_string() == "127.0.0.7"), "{from:?}");
}

/// How many sessions of clients it has that came over TCP, as `psql` here does not.
fn sessions(server: &Server) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND client_addr IS NOT NULL";
    server.psql(sql).parse().unwrap()
}

/// Goes on for half a second after it was cancelled, and is not stopped by another request meanwhile.
const RESISTS: &str = "DO $$ DECLARE ends timestamptz; BEGIN \
    BEGIN PERFORM pg_sleep(75); EXCEPTION WHEN query_canceled THEN END; \
    ends := clock_timestamp() + interval '0.5 s'; \
    WHILE clock_timestamp() < ends LOOP \
        BEGIN PERFORM pg_sleep(0.05); EXCEPTION WHEN query_canceled THEN END; \
    END LOOP; END $$";

#[tokio::test]
async fn a_place_is_not_free_before_its_statement_has_ended_at_the_server() {
    let server = trusting_server(&[]);
    for end in ["reset", "read", "discard"] {
        let mut timeouts = Timeouts::default().with_reset(Duration::from_millis(30));
        if end == "read" {
            timeouts = timeouts.with_read(Duration::from_secs(2));
        }
        let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
        let conn = pool.get().await.unwrap();
        let asked = conn.batch_execute(RESISTS);
        let patience = Duration::from_millis(if end == "read" { 20_000 } else { 200 });
        let asked = tokio::time::timeout(patience, asked).await;
        assert_eq!(asked.is_ok(), end == "read");
        match end {
            "discard" => conn.discard(),
            _ => drop(conn),
        }
        if end != "reset" {
            let now = pool.status();
            assert_eq!((now.ending, now.in_use, now.idle), (1, 0, 0), "{end}: {now}");
        }
        let conn = pool.get().await.unwrap();
        assert_eq!(running(&server, "PERFORM pg_sleep(75)"), 0, "{end}: it goes on");
        assert_eq!(sessions(&server), 1, "{end}: the old session is still there");
        assert_eq!(echo(&conn, 1).await.unwrap(), 1);
        let reason = match end {
            "reset" => CloseReason::ResetFailed,
            "read" => CloseReason::OpTimeout,
            _ => CloseReason::Discarded,
        };
        assert_eq!((events.opened(), events.closed()), (2, vec![reason]), "{end}");
        assert_eq!(pool.status().ending, 0);
        drop((conn, pool));
        until_seen(|| sessions(&server), |seen| *seen == 0).await;
    }
}

/// Its kernel takes the request, and nobody reads it.
#[tokio::test]
async fn a_server_that_takes_no_request_keeps_no_place_for_longer_than_a_connection_takes() {
    let server = trusting_server(&[]);
    let mut timeouts = Timeouts::default().with_connect(Duration::from_secs(2));
    timeouts = timeouts.with_read(Duration::from_secs(3));
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let conn = pool.get().await.unwrap();
    server.freeze();
    conn.batch_execute("SELECT 1").await.unwrap_err();
    drop(conn);
    assert_eq!(pool.status().ending, 1);
    until_seen(|| pool.status().ending, |seen| *seen == 0).await;
    assert_eq!(outcomes(&events), ["timeout"]);
    server.thaw();
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
}

/// A server with a large answer under way is stopped though nobody takes it.
#[tokio::test]
async fn a_statement_that_ends_in_the_middle_of_its_answer_frees_its_place() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_reset(Duration::from_millis(1));
    let (pool, _) = pool(&server, |config| one(config).with_timeouts(timeouts));
    for _ in 0..5 {
        let conn = pool.get().await.unwrap();
        let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 30000000)";
        let asked = conn.query_raw(sql, std::iter::empty::<i32>());
        let rows = asked.await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop((rows, conn));
        let conn = pool.get().await.unwrap();
        assert_eq!(running(&server, "generate_series"), 0);
        assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    }
}

/// `p23_cancel`: heavy statements are given up faster than the server can stop them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_given_up_never_work_for_more_than_the_pool_may_have() {
    const SIZE: usize = 4;
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_reset(Duration::from_millis(10));
    let (pool, events) = pool(&server, |config| config.with_max_size(SIZE).with_timeouts(timeouts));
    let users = (0..8_u64).map(|user| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for round in 0..8_u64 {
                let Ok(conn) = pool.get().await else { continue };
                let asked = conn.batch_execute(
                    "DO $$ BEGIN PERFORM pg_sleep(76); EXCEPTION WHEN query_canceled THEN \
                     PERFORM pg_sleep(0.1); END $$",
                );
                let limit = Duration::from_millis(1 + (user * 7 + round * 3) % 20);
                let _ = tokio::time::timeout(limit, asked).await;
            }
        })
    });
    let users = futures_util::future::join_all(users.collect::<Vec<_>>());
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, port) = (Arc::clone(&most), server.port());
    let watch = tokio::spawn(async move {
        let config = format!("host=127.0.0.1 port={port} user=postgres dbname=app");
        let (client, connection) =
            tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE state = 'active' AND query LIKE '%pg_sleep(76)%' AND pid <> pg_backend_pid()";
        loop {
            let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            seen.fetch_max(count as usize, SeqCst);
        }
    });
    users.await;
    watch.abort();
    let most = most.load(SeqCst);
    assert!((1..=SIZE).contains(&most), "{most} at a time at the server; {:?}", events.closed());
    assert!(events.closed().contains(&CloseReason::ResetFailed), "no reset came too late");
}

/// `pg-cancel-pgbouncer`: version 1.18 died within a second of a request whose sender had ended his side
/// ("bad client state").
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bouncer_outlives_many_requests_to_cancel() {
    let server = trusting_server(&[]);
    let settings = [("pool_mode", "transaction"), ("default_pool_size", "3")];
    let bouncer = PgBouncer::start(&server, &settings);
    let postgres = Postgres::from_url(&bouncer.url()).unwrap();
    let (pool, events) = pool_of(postgres, |config| config.with_max_size(6));
    let users = (0..8_u64).map(|user| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for round in 0..25_u64 {
                let Ok(conn) = pool.get().await else { continue };
                let asked = conn.batch_execute("SELECT pg_sleep(0.2)");
                let limit = Duration::from_millis((user * 7 + round * 3) % 30);
                let _ = tokio::time::timeout(limit, asked).await;
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    assert!(bouncer.is_alive(), "{}", bouncer.log());
    let requests = outcomes(&events);
    assert!(requests.contains(&"ok"), "{requests:?}");
    // What runs there is what was asked for.
    for number in 0..20 {
        let conn = pool.get().await.unwrap();
        let answer = conn.simple_query(&format!("SELECT {number}")).await.unwrap();
        let row = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(row, Some(number.to_string().as_str()));
    }
    until_seen(|| running(&server, "pg_sleep(0.2)"), |seen| *seen == 0).await;
}
