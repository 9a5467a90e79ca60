//! Pools of Redis clients, with a real Redis.
#![cfg(all(target_os = "linux", feature = "redis"))]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::event::Operation;
use livepool::redis::redis::{self as client, AsyncCommands, RedisError, RedisResult};
use livepool::redis::{Redis, Role};
use livepool::{CloseReason, Config, Consequence, Guard, Pool, Release, Timeouts};
use support::crossing::{plain, requests};
use support::servers::Redis as Server;
use support::{Events, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

fn pool_of(redis: Redis, change: impl FnOnce(Config) -> Config) -> (Pool<Redis>, Events) {
    let events = Events::default();
    let builder = Pool::builder(change(redis.config())).observer(events.observer());
    (builder.protocol(redis).build().unwrap(), events)
}

fn pool(server: &Server, size: usize) -> (Pool<Redis>, Events) {
    pool_of(Redis::from_url(&server.url()).unwrap(), |config| config.with_max_size(size))
}

async fn echo(pool: &Pool<Redis>, text: &str) -> Result<String, String> {
    let mut conn = pool.get().await.map_err(|error| error.to_string())?;
    echo_on(&mut conn, text).await.map_err(|error| error.to_string())
}

async fn echo_on(conn: &mut Guard<Redis>, text: &str) -> RedisResult<String> {
    client::cmd("ECHO").arg(text).query_async(&mut **conn).await
}

/// Asks until it is answered; the time that took.
async fn whole_again(pool: &Pool<Redis>) -> Duration {
    let began = Instant::now();
    while echo(pool, "up").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come back");
    }
    began.elapsed()
}

#[tokio::test]
async fn commands_run_on_a_connection_that_goes_back_when_it_is_dropped() {
    let server = Server::start();
    let (pool, events) = pool(&server, 4);
    let mut conn = pool.get().await.unwrap();
    conn.set::<_, _, ()>("key", 42).await.unwrap();
    assert_eq!(conn.get::<_, i64>("key").await.unwrap(), 42);
    let both: (i64, i64) = client::pipe()
        .atomic()
        .incr("key", 1)
        .incr("key", 1)
        .query_async(&mut *conn)
        .await
        .unwrap();
    assert_eq!(both, (43, 44));
    drop(conn);
    assert_eq!((pool.status().idle, events.opened()), (1, 1));
}

#[tokio::test]
async fn replies_that_nobody_waited_for_are_waited_for_by_nobody_else() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    let mut conn = pool.get().await.unwrap();
    let slow = client::cmd("DEBUG").arg("SLEEP").arg("0.2").clone();
    tokio::time::timeout(20 * MS, slow.exec_async(&mut *conn)).await.unwrap_err();
    assert_eq!(conn.owed(), 1);
    assert_eq!(conn.release(), Release::Resetting);
    assert_eq!(echo(&pool, "mine").await.unwrap(), "mine");
    assert_eq!(
        (events.opened(), events.closed()),
        (1, vec![]),
        "the reply came, in the background"
    );
    // One that may come at any time is not waited for.
    let mut conn = pool.get().await.unwrap();
    let blocked = conn.blpop::<_, ()>("nothing", 0.0);
    tokio::time::timeout(20 * MS, blocked).await.unwrap_err();
    drop(conn);
    let began = Instant::now();
    assert_eq!(echo(&pool, "mine").await.unwrap(), "mine");
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

#[tokio::test]
async fn a_command_that_waits_is_not_cut_by_the_read_timeout() {
    let server = Server::start();
    let timeouts = Timeouts::default().with_read(100 * MS);
    let redis = Redis::from_url(&server.url()).unwrap();
    let (pool, events) = pool_of(redis, |config| config.with_timeouts(timeouts));
    let (mut waits, mut gives) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let give = async {
        tokio::time::sleep(400 * MS).await;
        gives.rpush::<_, _, ()>("list", "gift").await.unwrap();
    };
    let (got, ()) = tokio::join!(waits.blpop::<_, (String, String)>("list", 0.0), give);
    assert_eq!(got.unwrap().1, "gift");
    // Any other command is, and a deadline cuts both.
    let slow = client::cmd("DEBUG").arg("SLEEP").arg("0.4").clone();
    let error = slow.exec_async(&mut *waits).await.unwrap_err();
    assert!(waits.report(&error) == Consequence::Evict, "{error}");
    gives.deadline(50 * MS);
    gives.blpop::<_, ()>("list", 0.0).await.unwrap_err();
    drop((waits, gives));
    assert_eq!(events.closed(), [CloseReason::OpTimeout; 2]);
    assert_eq!(events.timed_out(), [Operation::Read; 2]);
}

#[tokio::test]
async fn nobody_inherits_a_transaction_a_watch_a_database_or_a_subscription() {
    let server = Server::start();
    let (pool, events) = pool(&server, 1);
    for (left_open, ends) in [
        (vec!["MULTI"], None),
        (vec!["WATCH", "key"], None),
        (vec!["SELECT", "3"], Some(CloseReason::Unfinished)),
        (vec!["CLIENT", "TRACKING", "ON"], Some(CloseReason::Unfinished)),
    ] {
        let before = events.closed().len();
        let mut conn = pool.get().await.unwrap();
        let mut command = client::Cmd::new();
        for word in &left_open {
            command.arg(*word);
        }
        let _ = command.exec_async(&mut *conn).await;
        drop(conn);
        assert_eq!(echo(&pool, "mine").await.unwrap(), "mine", "{left_open:?}");
        let list = server.cli(&["CLIENT", "LIST"]);
        let ours = list.lines().find(|line| !line.contains("cmd=client|list")).unwrap();
        assert!(ours.contains(" db=0 ") && ours.contains(" multi=-1 "), "{ours}");
        assert!(!ours.contains(" watch=1"), "{ours}");
        assert_eq!(events.closed()[before..], Vec::from_iter(ends), "{left_open:?}");
    }
    let url = format!("{}/?protocol=resp3", server.url());
    let (pool, events) = pool_of(Redis::from_url(&url).unwrap(), |config| config);
    let mut conn = pool.get().await.unwrap();
    let mut pushes = conn.pushes();
    client::cmd("SUBSCRIBE").arg("news").exec_async(&mut *conn).await.unwrap();
    server.cli(&["PUBLISH", "news", "hello"]);
    while !format!("{:?}", pushes.recv().await.unwrap()).contains("hello") {}
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    until(|| server.cli(&["PUBSUB", "NUMSUB", "news"]).ends_with('0')).await;
}

#[tokio::test]
async fn a_server_that_restarts_costs_nobody_an_error_but_those_it_was_answering() {
    let mut server = Server::start();
    let (pool, events) = pool(&server, 4);
    for kill in [false, true] {
        let guards = [pool.get().await.unwrap(), pool.get().await.unwrap()];
        drop(guards);
        let before = events.closed().len();
        if kill {
            server.kill_9();
            server.start_again();
        } else {
            server.restart();
        }
        let took = whole_again(&pool).await;
        println!("whole again {took:?} after the server, killed: {kill}");
        let closed = &events.closed()[before..];
        assert!(closed.len() >= 2, "{closed:?}");
        assert!(
            closed.iter().all(|why| matches!(why, CloseReason::PeerClosed | CloseReason::Reset)),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_the_server_kills_or_times_out_is_evicted() {
    let server = Server::start_with(&["timeout 1"]);
    let (pool, events) = pool(&server, 2);
    echo(&pool, "a").await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    echo(&pool, "a").await.unwrap();
    // The server ends it after a second of silence.
    assert_eq!(events.until_closed(2).await, [CloseReason::PeerClosed; 2]);
    echo(&pool, "a").await.unwrap();
    assert_eq!(events.opened(), 3);
}

#[tokio::test]
async fn a_server_that_is_full_is_waited_for_and_named() {
    let server = Server::start_with(&["maxclients 4"]);
    let addr: SocketAddr = server.addr().parse().unwrap();
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(tokio::net::TcpStream::connect(addr).await.unwrap());
    }
    others[3].write_all(b"PING\r\n").await.unwrap();
    others[3].read_u8().await.unwrap();
    let (pool, _) = pool(&server, 4);
    let error = pool.get_by(Instant::now() + 300 * MS).await.unwrap_err();
    let text = error.connect_error().unwrap().to_string();
    // It says so and closes; what we sent meanwhile may make that a reset.
    assert!(text.contains("max number of clients reached") || text.contains("reset"), "{text}");
    assert!(error.is_retryable());
    drop(others);
    whole_again(&pool).await;
}

#[tokio::test]
async fn a_wrong_password_or_database_is_said_at_once_and_to_everybody() {
    let server = Server::start_with(&["requirepass sesame"]);
    for (auth, says) in
        [(":wrong@", "WRONGPASS"), ("", "NOAUTH"), (":sesame@", "DB index is out of range")]
    {
        let url = format!("redis://{auth}{}/77", server.addr());
        let (pool, events) = pool_of(Redis::from_url(&url).unwrap(), |config| config);
        let began = Instant::now();
        let error = pool.get().await.unwrap_err();
        assert_eq!(error.failure(), CheckoutFailure::Connect, "{auth}: {error:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(!error.is_retryable(), "{auth}");
        let text = error.connect_error().unwrap().to_string();
        let says_so = text.contains(says) || text.to_lowercase().contains("authentication");
        assert!(says_so, "{auth}: {text}");
        assert!(!text.contains("sesame"), "{text}");
        assert_eq!(events.opened(), 0);
    }
    let url = format!("redis://:sesame@{}/7", server.addr());
    let (pool, _) = pool_of(Redis::from_url(&url).unwrap(), |config| config);
    assert_eq!(echo(&pool, "in").await.unwrap(), "in");
}

#[tokio::test]
async fn a_replica_is_left_for_the_master_when_it_says_that_it_is_one() {
    let (old, new) = (Server::start(), Server::start());
    let redis = Redis::from_url(&old.url()).unwrap().with_role(Role::Master);
    let upstream = [old.addr(), new.addr()];
    let (pool, events) = pool_of(redis, |config| config.with_upstream(upstream).with_max_size(2));
    let (mut a, mut b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    // Both to one server: it becomes a replica of the other.
    let port = |conn: &Guard<Redis>| conn.peer_addr().to_string();
    let (first, second) = if port(&a) == old.addr() { (&old, &new) } else { (&new, &old) };
    first.cli(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]);
    for conn in [&mut a, &mut b] {
        let _: Result<(), RedisError> = conn.set("key", 1).await;
    }
    drop((a, b));
    let mut conn = pool.get().await.unwrap();
    conn.set::<_, _, ()>("key", 2).await.unwrap();
    assert_eq!(port(&conn), second.addr());
    assert!(events.closed().contains(&CloseReason::Invalidated), "{:?}", events.closed());
}

#[tokio::test]
async fn a_server_that_stands_still_fails_callers_at_their_deadline_and_is_found_again() {
    let server = Server::start();
    let redis = Redis::from_url(&server.url()).unwrap();
    let timeouts = Timeouts::default().with_read(200 * MS).with_checkout(400 * MS);
    let (pool, events) = pool_of(redis, |config| config.with_timeouts(timeouts).with_max_size(2));
    echo(&pool, "a").await.unwrap();
    server.freeze();
    let began = Instant::now();
    echo(&pool, "a").await.unwrap_err();
    // Its kernel takes new connections; nobody greets them.
    echo(&pool, "a").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(events.timed_out().contains(&Operation::Read));
    server.thaw();
    let took = whole_again(&pool).await;
    println!("whole again {took:?} after the server went on");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn encrypted_connections_are_pooled_and_a_wrong_name_is_refused() {
    use livepool::tls::Tls;
    use support::servers::Certs;

    for (certs, is_ours) in [(Certs::new(), true), (Certs::of_somebody_else(), false)] {
        let server = Server::start_with_tls(&[], &certs);
        let url = format!("rediss://localhost:{}", server.tls_port());
        let tls = Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap();
        let redis = Redis::from_url(&url).unwrap().with_tls(tls);
        let (pool, events) = pool_of(redis, |config| config);
        if is_ours {
            for _ in 0..10 {
                assert_eq!(echo(&pool, "secret").await.unwrap(), "secret");
            }
            assert_eq!(events.opened(), 1);
        } else {
            let error = pool.get().await.unwrap_err();
            assert!(!error.is_retryable());
            let text = error.connect_error().unwrap().to_string();
            assert!(text.contains("localhost"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commands_a_third_of_them_cancelled_and_none_answered_to_somebody_else() {
    let server = Server::start();
    let (pool, events) = pool(&server, 16);
    let tally = requests(10_000, move |tag| {
        let pool = pool.clone();
        async move {
            let mut conn = pool.get().await.map_err(|error| error.to_string())?;
            if tag % 50 == 0 {
                let _: RedisResult<()> = conn.blpop("nothing", 0.01).await;
            }
            echo_on(&mut conn, &tag.to_string()).await.map_err(|error| error.to_string())
        }
    })
    .await;
    println!("{tally:?}, {} connections", events.opened());
    assert_eq!((tally.crossed(), tally.failed()), (0, 0));
    assert!(tally.cancelled() > 500 && tally.answered() > 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_a_plain_deadpool_of_streams_answers_to_somebody_else() {
    let server = Server::start();
    let pool = plain(server.addr().parse().unwrap());
    let tally = requests(2_000, move |tag| {
        let pool = pool.clone();
        async move {
            let mut stream = pool.get().await.map_err(|error| error.to_string())?;
            let ask = format!("ECHO {tag}\r\n");
            stream.write_all(ask.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut text = String::new();
            // "$4\r\n1234\r\n"
            while text.matches('\n').count() < 2 {
                text.push(char::from(stream.read_u8().await.map_err(|error| error.to_string())?));
            }
            Ok(text.lines().nth(1).unwrap_or_default().to_owned())
        }
    })
    .await;
    println!("{tally:?}");
    assert!(tally.crossed() > 0, "else the test above could not fail");
}

#[test]
fn a_slip_in_the_url_says_what_a_url_is() {
    let error = Redis::from_url("http://localhost").unwrap_err().to_string();
    assert!(error.contains("a Redis URL is redis://[user:password@]host[:port]"), "{error}");
    let debug = format!("{:?}", Redis::from_url("redis://:sesame@db:7000/1").unwrap());
    assert!(debug.contains("db:7000") && !debug.contains("sesame"), "{debug}");
    for (url, upstream) in [
        ("redis://db", "db:6379"),
        ("redis://[::1]:7", "[::1]:7"),
        ("redis+unix:///run/redis.sock", "unix:/run/redis.sock"),
        ("rediss://db:6380/2", "db:6380"),
    ] {
        let redis = Redis::from_url(url).unwrap();
        assert_eq!(redis.config().upstream, [upstream], "{url}");
    }
}
