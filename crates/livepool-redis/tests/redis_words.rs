//! What a pool of Redis makes of words: of answers that are not those it asked for, of errors that
//! tell of their server, and of servers that speak otherwise or not at all.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::config::Validation;
use livepool::{CloseReason, Config, Guard, Pool};
use livepool_redis::Redis as Adapter;
use livepool_redis::redis::{AsyncCommands, RedisResult, Value, cmd, pipe};
use livepool_testkit::servers::{Nginx, Postgres, Redis};
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, patient, until, until_status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn pool_of(config: Config, adapter: Adapter) -> (Pool<Adapter>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(adapter).build().unwrap(), events)
}

/// So many idle connections to this server.
async fn pool_with(redis: &Redis, size: usize) -> (Pool<Adapter>, Events) {
    let adapter = Adapter::from_url(redis.url()).unwrap();
    let (pool, events) = pool_of(patient(adapter.config().with_max_size(size)), adapter);
    let mut all = Vec::new();
    for _ in 0..size {
        all.push(pool.get().await.unwrap());
    }
    drop(all);
    until_status(&pool, |now| now.idle == size).await;
    (pool, events)
}

async fn echo(conn: &mut Guard<Adapter>, text: &str) -> RedisResult<String> {
    cmd("ECHO").arg(text).query_async(&mut **conn).await
}

/// Stands between clients and a server. When it is told to, it says something of its own before the
/// server hears the next request.
struct Between {
    addr: String,
    says: Arc<AtomicUsize>,
}

/// What it says, by number; 0 is nothing.
const STRAYS: [&str; 5] = ["", "+STRAY\r\n", "+PONG\r\n", "-NOPERM not that\r\n", "+QUEUED\r\n"];

impl Between {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let says = Arc::<AtomicUsize>::default();
        let told = Arc::clone(&says);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(Self::between(client, server, Arc::clone(&told)));
            }
        });
        Self { addr, says }
    }

    async fn between(mut client: TcpStream, mut server: TcpStream, says: Arc<AtomicUsize>) {
        let (mut asked, mut answered) = ([0; 4096], [0; 4096]);
        let mut is_torn = false;
        loop {
            let done = tokio::select! {
                n = client.read(&mut asked) => match n {
                    Ok(n) if n > 0 => {
                        let stray = STRAYS[says.swap(0, Ordering::SeqCst)];
                        if !stray.is_empty() {
                            let _ = client.write_all(stray.as_bytes()).await;
                            // Long enough that whoever believes it has gone on.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            is_torn = true;
                        }
                        server.write_all(&asked[..n]).await
                    }
                    _ => return,
                },
                n = server.read(&mut answered) => match n {
                    Ok(n) if n > 0 => {
                        // The last of many answers comes when there seemed to be enough of them.
                        let first = if std::mem::take(&mut is_torn) { n - "+OK\r\n".len() } else { n };
                        let _ = client.write_all(&answered[..first]).await;
                        if first < n {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        client.write_all(&answered[first..n]).await
                    }
                    _ => return,
                },
            };
            if done.is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_ping_takes_no_answer_but_its_own() {
    let redis = Redis::start();
    for (stray, said) in STRAYS.iter().enumerate().skip(1) {
        let between = Between::start(redis.addr()).await;
        let adapter = Adapter::from_url(format!("redis://{}", between.addr)).unwrap();
        let config = adapter.config().with_max_size(1).with_validation(Validation::Ping);
        let (pool, events) = pool_of(config, adapter);
        drop(pool.get().await.unwrap());
        between.says.store(stray, Ordering::SeqCst);
        let mut conn = pool.get().await.unwrap();
        assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine", "{said}");
        assert_eq!((events.opened(), events.closed().len()), (2, 1), "{said}");
    }
}

#[tokio::test]
async fn who_waits_for_what_was_asked_before_takes_no_answer_but_its_own() {
    let redis = Redis::start();
    for (stray, said) in STRAYS.iter().enumerate().skip(1) {
        for words in [&["SELECT", "3"][..], &["MULTI"]] {
            let between = Between::start(redis.addr()).await;
            let adapter = Adapter::from_url(format!("redis://{}", between.addr)).unwrap();
            let (pool, _) = pool_of(adapter.config().with_max_size(1), adapter);
            let mut conn = pool.get().await.unwrap();
            cmd(words[0]).arg(&words[1..]).query_async::<()>(&mut *conn).await.unwrap();
            between.says.store(stray, Ordering::SeqCst);
            drop(conn);
            // Whether it was put right or replaced, it is as new, and its answers are those asked for.
            let mut conn = pool.get().await.unwrap();
            assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine", "{said} {words:?}");
            let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
            assert!(info.contains("db=0") && info.contains("flags=N "), "{said} {words:?}: {info}");
        }
    }
}

#[tokio::test]
async fn a_user_who_may_not_ping_has_a_pool_that_pings_all_the_same() {
    let redis = Redis::start_with(&["user me on >secret ~* +@all -ping -echo"]);
    let adapter = Adapter::from_url(format!("redis://me:secret@{}", redis.addr())).unwrap();
    let config = adapter.config().with_max_size(1).with_validation(Validation::Ping);
    let (pool, events) = pool_of(config, adapter);
    for _ in 0..3 {
        let mut conn = pool.get().await.unwrap();
        cmd("SELECT").arg(3).query_async::<()>(&mut *conn).await.unwrap();
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
        assert!(info.contains("db=0"), "{info}");
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_server_that_cannot_save_is_read_from() {
    let redis = Redis::start_with(&["save 3600 100000", "enable-protected-configs yes"]);
    let adapter = Adapter::from_url(redis.url()).unwrap();
    let config = adapter.config().with_max_size(2).with_validation(Validation::Ping);
    let (pool, events) = pool_of(config, adapter);
    let mut conn = pool.get().await.unwrap();
    let _: () = conn.set("k", "v").await.unwrap();
    // It cannot save in a directory that is gone.
    let gone = std::env::temp_dir().join(format!("lp-gone-{}", redis.port()));
    std::fs::create_dir(&gone).unwrap();
    assert_eq!(redis.cli(&["CONFIG", "SET", "dir", gone.to_str().unwrap()]), "OK");
    std::fs::remove_dir(&gone).unwrap();
    redis.cli(&["BGSAVE"]);
    until(|| redis.cli(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")).await;
    let refused = conn.set::<_, _, ()>("k", "w").await.unwrap_err();
    assert_eq!(refused.code(), Some("MISCONF"));
    // The one there is and a new one.
    let mut other = pool.get().await.unwrap();
    for conn in [&mut conn, &mut other] {
        assert_eq!(conn.get::<_, String>("k").await.unwrap(), "v");
    }
    drop((conn, other));
    let mut conn = pool.get().await.unwrap();
    assert_eq!(conn.get::<_, String>("k").await.unwrap(), "v");
    assert_eq!((events.opened(), events.closed()), (2, vec![]));
}

/// Makes a replica of it, of a master that is nowhere.
fn turn(redis: &Redis) {
    assert_eq!(redis.cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
}

#[tokio::test]
async fn a_transaction_that_a_turned_master_discards_makes_all_connections_unfit() {
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 3).await;
    let mut conn = pool.get().await.unwrap();
    cmd("MULTI").query_async::<()>(&mut *conn).await.unwrap();
    cmd("SET").arg("k").arg(1).query_async::<Value>(&mut *conn).await.unwrap();
    turn(&redis);
    let error = cmd("EXEC").query_async::<Value>(&mut *conn).await.unwrap_err();
    assert_eq!(error.code(), Some("EXECABORT"), "{error}");
    drop(conn);
    assert_eq!(events.until_closed(3).await, [CloseReason::Invalidated; 3], "{error}");
}

#[tokio::test]
async fn a_script_in_a_transaction_that_a_replica_refuses_makes_all_connections_unfit() {
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 3).await;
    turn(&redis);
    let mut conn = pool.get().await.unwrap();
    let mut script = pipe();
    script.atomic().cmd("EVAL").arg("return redis.call('set', 'k', '1')").arg(0);
    let error = script.query_async::<Value>(&mut *conn).await.unwrap_err();
    assert!(error.to_string().to_uppercase().contains("READ"), "{error}");
    drop(conn);
    assert_eq!(events.until_closed(3).await, [CloseReason::Invalidated; 3], "{error}");
}

#[tokio::test]
async fn a_command_that_waited_for_a_master_that_turned_makes_all_connections_unfit() {
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 3).await;
    let mut conn = pool.get().await.unwrap();
    let (waited, ()) = tokio::join!(conn.blpop::<_, ()>("none", 0.0), async {
        until(|| redis.cli(&["INFO", "clients"]).contains("blocked_clients:1")).await;
        turn(&redis);
    });
    assert_eq!(waited.unwrap_err().code(), Some("UNBLOCKED"));
    drop(conn);
    let closed = events.until_closed(3).await;
    let told = closed.iter().filter(|reason| **reason == CloseReason::Invalidated).count();
    // The server ends the one that waited; whichever is seen first.
    assert!(told >= 2, "{closed:?}");
}

/// A server of today says the words of Redis 6 if a script has it do so.
#[tokio::test]
async fn a_script_in_the_words_of_redis_6_makes_all_connections_unfit() {
    const WORDS: &str = "ERR Error running script (call to f_1b936e3fe509bcbc9cd0664897bbe8fd0cac101b): \
                         @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica.";
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 3).await;
    let mut conn = pool.get().await.unwrap();
    let mut script = cmd("EVAL");
    script.arg("return redis.error_reply(ARGV[1])").arg(0).arg(WORDS);
    let error = script.query_async::<Value>(&mut *conn).await.unwrap_err();
    assert!(error.to_string().contains("READONLY"), "{error}");
    drop(conn);
    assert_eq!(events.until_closed(3).await, [CloseReason::Invalidated; 3]);
}

#[tokio::test]
async fn what_a_client_sent_says_nothing_of_the_server() {
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 3).await;
    let mut conn = pool.get().await.unwrap();
    for words in [
        &["READONLY-or-not", "READONLY", "-READONLY"][..],
        &["EVAL", "error('-READONLY no')", "0"],
        &["EVAL", "return redis.call('get', 'a: -READONLY b', 'c')", "0"],
        &["EVAL", "return redis.error_reply('ERR not -READONLY')", "0"],
        &["SET", "k", "v", "MASTERDOWN"],
        &["CLIENT", "KILL", "LOADING"],
    ] {
        let mut command = cmd(words[0]);
        let error = command.arg(&words[1..]).query_async::<Value>(&mut *conn).await.unwrap_err();
        assert!(!error.is_io_error(), "{words:?}: {error}");
    }
    // A value may be anything.
    let _: () = conn.set("k", "-READONLY x\r\n-READONLY y\r\n").await.unwrap();
    let _: String = conn.get("k").await.unwrap();
    drop(conn);
    until_status(&pool, |now| now.idle == 3).await;
    assert_eq!((events.opened(), events.closed()), (3, vec![]));
}

#[tokio::test]
async fn a_pipeline_of_resets_around_a_subscription_is_the_end_of_its_connection() {
    let redis = Redis::start();
    let (pool, events) = pool_with(&redis, 1).await;
    let mut conn = pool.get().await.unwrap();
    let mut both = pipe();
    both.cmd("RESET").cmd("SUBSCRIBE").arg("news").cmd("RESET");
    both.query_async::<Value>(&mut *conn).await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine");
    assert_eq!(events.closed(), [CloseReason::NotReusable]);
}

#[tokio::test]
async fn an_end_that_the_server_gave_the_reason_for_has_its_word() {
    let redis = Redis::start_with(&["requirepass secret"]);
    let url = format!("redis://:secret@{}", redis.addr());
    let adapter = Adapter::from_url(url).unwrap();
    let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
    let mut conn = pool.get().await.unwrap();
    cmd("RESET").query_async::<()>(&mut *conn).await.unwrap();
    let error = conn.get::<_, ()>("k").await.unwrap_err();
    assert_eq!(error.code(), Some("NOAUTH"));
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async::<()>(&mut *conn).await.unwrap();
    conn.set::<_, _, ()>("k", "v").await.unwrap_err();
    drop(conn);
    let closed = [CloseReason::ProtocolError, CloseReason::Invalidated];
    assert_eq!(events.until_closed(2).await, closed);
    assert_eq!(events.codes(), [Some("NOAUTH".to_owned()), Some("READONLY".to_owned())]);
}

/// What a checkout says that meets this server, and how long it took beyond what the machine stood still.
async fn first_words_of(addr: String, limit: Duration) -> (String, bool, Duration) {
    let adapter = Adapter::from_url(format!("redis://:hunter2@{addr}")).unwrap();
    let (pool, _) = pool_of(adapter.config(), adapter);
    let (began, stalls) = (Instant::now(), Stalls::watch());
    let error = pool.get_by(began + limit).await.unwrap_err();
    let took = began.elapsed().saturating_sub(stalls.lost().await);
    let connect = error.connect_error().expect("it says what the dial said");
    (connect.to_string(), connect.is_denied(), took)
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_such() {
    let nginx = Nginx::start();
    let addr = format!("127.0.0.1:{}", nginx.port());
    let (said, denied, took) = first_words_of(addr, Duration::from_secs(20)).await;
    assert!(said.contains("is no Redis server") && said.contains("HTTP/1.1 400"), "{said}");
    assert!(denied && took < Duration::from_secs(1), "it is told at once: {took:?}");

    let postgres = Postgres::start();
    let addr = format!("127.0.0.1:{}", postgres.port());
    let (said, denied, _) = first_words_of(addr, Duration::from_secs(2)).await;
    assert!(said.contains("hung up without an answer - Io: is it a Redis server"), "{said}");
    assert!(!denied, "it may be a proxy without backends");
}

/// Something in front of the server that greets its clients.
#[tokio::test]
async fn a_greeting_that_nobody_asked_for_is_not_taken_for_the_first_answer() {
    let redis = Redis::start();
    let ways = (1..STRAYS.len()).flat_map(|n| [(n, ""), (n, "/1"), (n, "?protocol=resp3")]);
    // SELECT and HELLO may be refused with NOPERM, which callers are told.
    let ways = ways.filter(|(n, path)| path.is_empty() || !STRAYS[*n].contains("NOPERM"));
    for (stray, path) in ways {
        let between = Between::start(redis.addr()).await;
        let url = format!("redis://{}{path}", between.addr);
        let adapter = Adapter::from_url(url).unwrap();
        let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
        between.says.store(stray, Ordering::SeqCst);
        let mut conn = pool.get().await.unwrap();
        assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine", "{} {path}", STRAYS[stray]);
        assert_eq!((events.opened(), events.closed()), (1, vec![]), "{} {path}", STRAYS[stray]);
    }
}

#[tokio::test]
async fn whatever_way_a_pool_is_built_nothing_goes_out_in_clear_that_a_url_has_encrypted() {
    use livepool_redis::redis::IntoConnectionInfo;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let url = format!("rediss://me:hunter2@{addr}");
    let secure = || Adapter::from_url(&url).unwrap();
    let plain = format!("redis://me:hunter2@{addr}").into_connection_info().unwrap();
    let host_and_port = livepool_redis::redis::ConnectionAddr::TcpTls {
        host: addr.ip().to_string(),
        port: addr.port(),
        insecure: false,
        tls_params: None,
    };
    let pools = [
        secure().pool().unwrap(),
        pool_of(secure().config(), secure()).0,
        pool_of(Config::new(addr.to_string()), secure()).0,
        pool_of(Adapter::from_url(format!("redis://{addr}")).unwrap().config(), secure()).0,
        Adapter::from_info(plain.set_addr(host_and_port)).unwrap().pool().unwrap(),
    ];
    for (n, pool) in pools.into_iter().enumerate() {
        let (got, heard) =
            tokio::join!(pool.get_by(Instant::now() + Duration::from_secs(1)), async {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut heard = vec![0; 4096];
                let n = client.read(&mut heard).await.unwrap();
                heard.truncate(n);
                // What a server says that does no TLS.
                client.write_all(b"-ERR Protocol error\r\n").await.unwrap();
                let _ = client.read_to_end(&mut heard).await;
                heard
            });
        got.unwrap_err();
        let text = String::from_utf8_lossy(&heard);
        assert_eq!(heard[0], 0x16, "way {n}: the first byte of a TLS handshake, not {text:?}");
        assert!(!text.contains("hunter2") && !text.contains("AUTH"), "way {n}: {text:?}");
    }
}
