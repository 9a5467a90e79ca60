//! The Redis adapter with real servers: what goes wrong costs its caller one clear error, what a
//! caller leaves behind reaches nobody, and the pool is whole again by itself.
#![cfg(target_os = "linux")]

use std::time::Duration;

use livepool::config::Validation;
use livepool::error::CheckoutFailure;
use livepool::event::Operation;
use livepool::{CloseReason, Config, Delivery, Guard, Pool, Timeouts};
use livepool_redis::redis::{AsyncCommands, RedisError, RedisResult, cmd, pipe};
use livepool_redis::{Redis as Adapter, Role};
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, patient, until, until_status};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// Within this a pool is whole again after anything, on a machine that does other things as well.
const WHOLE_AGAIN: Duration = Duration::from_secs(10);

fn adapter(redis: &Redis) -> Adapter {
    Adapter::from_url(redis.url()).unwrap()
}

fn pool_of(config: Config, adapter: Adapter) -> (Pool<Adapter>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(adapter).build().unwrap(), events)
}

fn pool(redis: &Redis) -> (Pool<Adapter>, Events) {
    let adapter = adapter(redis);
    pool_of(patient(adapter.config().with_max_size(4)), adapter)
}

async fn echo(conn: &mut Guard<Adapter>, text: &str) -> RedisResult<String> {
    cmd("ECHO").arg(text).query_async(&mut **conn).await
}

/// One exchange with whatever connection the pool gives.
async fn ask(pool: &Pool<Adapter>, text: &str) -> String {
    let mut conn = pool.get().await.unwrap();
    echo(&mut conn, text).await.unwrap()
}

/// As many idle connections as the pool has room for.
async fn fill(pool: &Pool<Adapter>) {
    let count = pool.status().max_size;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(pool.get().await.unwrap());
    }
    drop(all);
    until_status(pool, |now| now.idle == count).await;
}

/// Waits for what the server will say.
async fn until_cli(redis: &Redis, args: &[&str], mut right: impl FnMut(&str) -> bool) {
    until(|| right(&redis.cli(args))).await;
}

/// Clients that wait in a blocking command.
async fn until_blocked(redis: &Redis, count: usize) {
    let line = format!("blocked_clients:{count}");
    until_cli(redis, &["INFO", "clients"], |info| info.contains(&line)).await;
}

#[tokio::test]
async fn commands_pipelines_and_the_traits_of_the_crate_work_on_a_guard() {
    for protocol in ["resp2", "resp3"] {
        let redis = Redis::start();
        let adapter = Adapter::from_url(format!("{}?protocol={protocol}", redis.url())).unwrap();
        let (pool, events) = pool_of(adapter.config(), adapter);
        let mut conn = pool.get().await.unwrap();
        let _: () = conn.set("k", 1).await.unwrap();
        let (a, b): (i64, i64) =
            pipe().incr("k", 1).incr("k", 1).query_async(&mut *conn).await.unwrap();
        assert_eq!((a, b), (2, 3));
        let (c,): (i64,) = pipe().atomic().get("k").query_async(&mut *conn).await.unwrap();
        assert_eq!(c, 3);
        let error = cmd("LPUSH").arg("k").arg(1).query_async::<()>(&mut *conn).await.unwrap_err();
        assert_eq!(error.code(), Some("WRONGTYPE"));
        drop(conn);
        assert_eq!(pool.status().idle, 1, "dropped with nothing owed, it is back");
        assert_eq!(ask(&pool, "x").await, "x");
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }
}

#[tokio::test]
async fn a_connection_is_made_with_the_user_database_and_name_of_its_url() {
    let redis = Redis::start_with(&["user me on >secret ~* +@all"]);
    let url = format!("redis://me:secret@{}/3", redis.addr());
    let pool = Adapter::from_url(url).unwrap().pool().unwrap();
    let mut conn = pool.get().await.unwrap();
    let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
    assert!(info.contains("db=3") && info.contains("user=me"), "{info}");
}

#[tokio::test]
async fn a_restart_costs_the_next_callers_nothing() {
    let mut redis = Redis::start();
    let (pool, events) = pool(&redis);
    fill(&pool).await;
    redis.restart();
    for n in 0..8 {
        assert_eq!(ask(&pool, &n.to_string()).await, n.to_string());
    }
    let closed = events.closed();
    assert_eq!(closed.len(), 4, "{closed:?}");
    assert!(closed.iter().all(|reason| reason.is_death()), "{closed:?}");
    fill(&pool).await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_one_clear_error_and_then_back() {
    let mut redis = Redis::start();
    let (pool, events) = pool(&redis);
    fill(&pool).await;
    let mut held = pool.get().await.unwrap();
    redis.kill_9();
    let error = echo(&mut held, "x").await.unwrap_err();
    assert!(error.is_connection_dropped(), "{error}");
    drop(held);
    let error = pool.get_by(Instant::now() + SECOND).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let connect = error.connect_error().expect("it says what the dial said").to_string();
    assert!(connect.contains("refused"), "{connect}");
    let closed = events.until_closed(4).await;
    assert!(closed.iter().all(|reason| reason.is_death()), "{closed:?}");
    redis.start_again();
    let began = Instant::now();
    assert_eq!(ask(&pool, "y").await, "y");
    fill(&pool).await;
    assert!(began.elapsed() < WHOLE_AGAIN, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_single_connection_that_the_server_kills_is_replaced() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut conns = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut *conns[0]).await.unwrap();
    drop(conns);
    assert_eq!(redis.cli(&["CLIENT", "KILL", "ID", &id.to_string()]), "1");
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    until_status(&pool, |now| now.idle == 1).await;
    // One that is in use tells its user.
    let mut conn = pool.get().await.unwrap();
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut *conn).await.unwrap();
    let (waiting, killed) = tokio::join!(conn.blpop::<_, ()>("none", 0.0), async {
        until_blocked(&redis, 1).await;
        redis.cli(&["CLIENT", "KILL", "ID", &id.to_string()])
    });
    assert_eq!(killed, "1");
    assert!(waiting.unwrap_err().is_connection_dropped());
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::PeerClosed; 2]);
    assert_eq!(ask(&pool, "x").await, "x");
}

#[tokio::test]
async fn a_server_that_hangs_up_on_idle_clients_is_noticed_before_the_next_caller() {
    let redis = Redis::start_with(&["timeout 1"]);
    let (pool, events) = pool(&redis);
    fill(&pool).await;
    assert_eq!(events.until_closed(4).await, [CloseReason::PeerClosed; 4]);
    assert_eq!(ask(&pool, "x").await, "x");
}

#[tokio::test]
async fn a_server_that_is_full_says_so_and_serves_when_it_has_room() {
    let redis = Redis::start_with(&["maxclients 3"]);
    let (pool, _) = pool(&redis);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(pool.get().await.unwrap());
    }
    let error = pool.get_by(Instant::now() + SECOND).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let connect = error.connect_error().unwrap().to_string();
    assert!(connect.contains("max number of clients"), "{connect}");
    held.pop();
    assert_eq!(ask(&pool, "x").await, "x");
    drop(held);
    assert_eq!(ask(&pool, "y").await, "y");
}

#[tokio::test]
async fn a_wrong_password_or_database_is_told_at_once_and_not_tried_again() {
    let redis = Redis::start_with(&["requirepass secret"]);
    let addr = redis.addr();
    for (url, why) in [
        (format!("redis://:wrong@{addr}"), "WRONGPASS"),
        (format!("redis://:wrong@{addr}?protocol=resp3"), "WRONGPASS"),
        (format!("redis://nobody:secret@{addr}"), "WRONGPASS"),
        (format!("redis://{addr}"), "wants a password"),
        (format!("redis://{addr}/1"), "wants a password"),
        (format!("redis://{addr}?protocol=resp3"), "wants a password"),
        (format!("redis://:secret@{addr}/99"), "no such database"),
    ] {
        let adapter = Adapter::from_url(&url).unwrap();
        let (pool, events) = pool_of(adapter.config(), adapter);
        let began = Instant::now();
        let error = pool.get().await.unwrap_err();
        assert!(began.elapsed() < 5 * SECOND, "long before the deadline of the checkout");
        assert_eq!(error.failure(), CheckoutFailure::Connect);
        assert!(!error.is_retryable());
        let connect = error.connect_error().unwrap();
        assert!(connect.is_denied(), "{connect}");
        assert!(connect.to_string().contains(why), "{url}: {connect}");
        assert!(!connect.to_string().contains("secret"), "{connect}");
        assert_eq!((events.opened(), events.closed().len()), (0, 0));
    }
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:secret@{addr}/1?protocol={protocol}");
        let pool = Adapter::from_url(url).unwrap().pool().unwrap();
        assert_eq!(ask(&pool, "x").await, "x");
    }
}

#[tokio::test]
async fn callers_of_a_server_that_stands_still_fail_at_their_deadline_and_it_comes_back() {
    let redis = Redis::start();
    let timeouts = Timeouts::default().with_ping(Duration::from_millis(200));
    let adapter = adapter(&redis);
    let config = adapter.config().with_max_size(4).with_timeouts(timeouts);
    let (pool, events) = pool_of(config.with_validation(Validation::Ping), adapter);
    fill(&pool).await;
    let mut held = pool.get().await.unwrap();
    redis.freeze();
    held.deadline(Duration::from_millis(300));
    let began = Instant::now();
    let error = echo(&mut held, "x").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let error = pool.get_by(Instant::now() + SECOND).await.unwrap_err();
    assert!(error.is_timeout() || error.connect_error().is_some(), "{error}");
    assert!(began.elapsed() < WHOLE_AGAIN, "{:?}", began.elapsed());
    drop(held);
    redis.thaw();
    let began = Instant::now();
    assert_eq!(ask(&pool, "y").await, "y");
    fill(&pool).await;
    assert!(began.elapsed() < WHOLE_AGAIN, "{:?}", began.elapsed());
    let closed = events.closed();
    assert!(closed.contains(&CloseReason::OpTimeout), "{closed:?}");
    assert!(closed.contains(&CloseReason::PingTimeout), "{closed:?}");
}

#[tokio::test]
async fn a_use_has_the_time_that_is_configured_for_all_however_long_its_command_may_wait() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let timeouts = Timeouts::default().with_operation(3 * SECOND);
    let (pool, events) = pool_of(adapter.config().with_timeouts(timeouts), adapter);
    let mut conn = pool.get().await.unwrap();
    let began = Instant::now();
    assert!(conn.blpop::<_, ()>("none", 0.0).await.unwrap_err().is_timeout());
    let took = began.elapsed();
    assert!(took > SECOND * 29 / 10 && took < WHOLE_AGAIN, "{took:?}");
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    assert_eq!(ask(&pool, "x").await, "x");
}

#[tokio::test]
async fn a_command_that_waits_outlasts_the_read_timeout_and_is_bounded_by_the_exchange() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, events) = pool_of(adapter.config().with_timeouts(timeouts), adapter);
    let mut conn = pool.get().await.unwrap();
    let began = Instant::now();
    let nothing: Option<(String, String)> = conn.blpop("none", 3.0).await.unwrap();
    assert_eq!(nothing, None);
    assert!(began.elapsed() > Duration::from_millis(2900));
    // In a pipeline, what comes after it has its timeout from when its turn has come.
    let answers: (Option<(String, String)>, String) =
        pipe().blpop("none", 3.0).cmd("ECHO").arg("x").query_async(&mut *conn).await.unwrap();
    assert_eq!(answers, (None, "x".to_owned()));
    // An ordinary command does not outlast it.
    redis.freeze();
    assert!(echo(&mut conn, "x").await.unwrap_err().is_timeout());
    redis.thaw();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    conn.deadline(Duration::from_millis(300));
    let began = Instant::now();
    assert!(conn.blpop::<_, ()>("none", 0.0).await.unwrap_err().is_timeout());
    assert!(began.elapsed() < WHOLE_AGAIN);
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout; 2]);
    assert_eq!(events.timed_out(), [Operation::Read; 2]);
}

#[tokio::test]
async fn nobody_waits_for_a_command_that_waits_and_was_given_up() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
    let mut conn = pool.get().await.unwrap();
    tokio::select! {
        _ = conn.blpop::<_, ()>("q", 0.0) => panic!("there is nothing to pop"),
        () = until_blocked(&redis, 1) => {}
    }
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    let began = Instant::now();
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine");
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    // Its connection is closed, so the server does not pop for somebody who is gone.
    until_blocked(&redis, 0).await;
    assert_eq!(redis.cli(&["RPUSH", "q", "kept"]), "1");
    assert_eq!(redis.cli(&["LLEN", "q"]), "1");
}

#[tokio::test]
async fn a_slow_answer_whose_caller_went_away_is_waited_for_and_reaches_nobody() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
    let mut conn = pool.get().await.unwrap();
    let asked = conn.incr::<_, _, i64>("n", 1);
    // Polled once, so that it is on its way; whether it was sent yet, nobody knows.
    assert!(futures_util::poll!(std::pin::pin!(asked)).is_pending());
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine");
    drop(conn);
    // Once the server is at it.
    let mut conn = pool.get().await.unwrap();
    let mut sleeps = cmd("DEBUG");
    sleeps.arg("SLEEP").arg(0.3);
    let given_up =
        tokio::time::timeout(Duration::from_millis(50), sleeps.query_async::<()>(&mut *conn));
    given_up.await.unwrap_err();
    let id = conn.id();
    drop(conn);
    until_status(&pool, |now| now.idle > 0).await;
    let mut conn = pool.get().await.unwrap();
    assert_eq!(conn.id(), id, "it was worth waiting for");
    assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine");
    assert_eq!(events.closed(), []);
}

/// On one thread, so that the driver has not even looked at it when its caller is done.
#[tokio::test]
async fn what_nobody_waits_for_is_done_before_the_next_user_has_the_connection() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
    let mut conn = pool.get().await.unwrap();
    let mut select = cmd("SELECT");
    select.arg(3).set_no_response(true).query_async::<()>(&mut *conn).await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
    assert!(info.contains("db=0"), "{info}");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    let mut pop = cmd("BLPOP");
    pop.arg("none").arg(0).set_no_response(true).query_async::<()>(&mut *conn).await.unwrap();
    drop(conn);
    let began = Instant::now();
    assert_eq!(ask(&pool, "x").await, "x");
    assert!(began.elapsed() < 5 * SECOND);
    assert_eq!(events.closed(), [CloseReason::NotReusable]);
}

#[tokio::test]
async fn a_transaction_watched_keys_and_another_database_are_not_inherited() {
    let redis = Redis::start();
    redis.cli(&["SET", "k", "in database 0"]);
    let adapter = adapter(&redis);
    let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
    for left in [
        &[&["MULTI"][..], &["SET", "k", "never"]][..],
        &[&["WATCH", "k"]],
        &[&["SELECT", "3"]],
        &[&["WATCH", "k"], &["MULTI"], &["SELECT", "3"]],
        &[&["MULTI"], &["SELECT", "3"], &["EXEC"]],
    ] {
        let mut conn = pool.get().await.unwrap();
        for words in left {
            let _: livepool_redis::redis::Value =
                cmd(words[0]).arg(&words[1..]).query_async(&mut *conn).await.unwrap();
        }
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        // Had the keys still been watched, this would make the transaction fail.
        redis.cli(&["SET", "k", "in database 0"]);
        let k: Option<(String,)> = pipe().atomic().get("k").query_async(&mut *conn).await.unwrap();
        assert_eq!(k.unwrap().0, "in database 0", "{left:?}");
        let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
        assert!(info.contains("db=0") && info.contains("flags=N "), "{left:?}: {info}");
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]), "all on one connection");
}

#[tokio::test]
async fn a_connection_that_is_somebody_elses_or_for_something_else_is_not_inherited() {
    let redis = Redis::start_with(&["user other on nopass ~* +@all"]);
    for protocol in ["resp2", "resp3"] {
        for words in [
            &["SUBSCRIBE", "news"][..],
            &["PSUBSCRIBE", "n*"],
            &["MONITOR"],
            &["AUTH", "other", "any"],
            &["CLIENT", "REPLY", "OFF"],
            &["CLIENT", "SETNAME", "mine"],
        ] {
            let url = format!("{}?protocol={protocol}", redis.url());
            let adapter = Adapter::from_url(url).unwrap();
            let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
            let mut conn = pool.get().await.unwrap();
            let mut command = cmd(words[0]);
            command.arg(&words[1..]).set_no_response(words[0] == "CLIENT");
            let _ = command.query_async::<livepool_redis::redis::Value>(&mut *conn).await;
            drop(conn);
            let mut conn = pool.get().await.unwrap();
            assert_eq!(echo(&mut conn, "mine").await.unwrap(), "mine", "{words:?}");
            let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
            for clean in [" sub=0 ", " psub=0 ", " user=default ", " name= "] {
                assert!(info.contains(clean), "{words:?}: {info}");
            }
            drop(conn);
            let closed = events.closed();
            assert_eq!(closed.len(), 1, "{words:?}: {closed:?}");
            let expected = [CloseReason::NotReusable, CloseReason::ResetFailed];
            assert!(expected.contains(&closed[0]), "{words:?}: {closed:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_its_user_reset_is_as_new_unless_that_logged_it_out() {
    let redis = Redis::start_with(&["user me on >secret ~* +@all"]);
    for (login, closed) in [("", vec![]), ("me:secret@", vec![CloseReason::NotReusable])] {
        let url = format!("redis://{login}{}/3", redis.addr());
        let adapter = Adapter::from_url(url).unwrap();
        let (pool, events) = pool_of(adapter.config().with_max_size(1), adapter);
        let mut conn = pool.get().await.unwrap();
        cmd("RESET").query_async::<()>(&mut *conn).await.unwrap();
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
        assert!(info.contains("db=3"), "{info}");
        assert_eq!(info.contains("user=me"), !login.is_empty(), "{info}");
        assert_eq!(events.closed(), closed);
    }
}

#[tokio::test]
async fn a_subscriber_takes_its_connection_out_of_the_pool_and_waits_as_long_as_it_takes() {
    let redis = Redis::start_with(&["requirepass secret"]);
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:secret@{}?protocol={protocol}", redis.addr());
        let adapter = Adapter::from_url(url).unwrap();
        let timeouts = Timeouts::default().with_read(2 * SECOND);
        let config = adapter.config().with_max_size(1).with_timeouts(timeouts);
        let (pool, events) = pool_of(config, adapter);
        let mut conn = pool.get().await.unwrap();
        echo(&mut conn, "x").await.unwrap();
        let mut pubsub = conn.detach().into_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        assert_eq!(events.closed(), [CloseReason::Detached]);
        // Its slot is free.
        assert_eq!(ask(&pool, "y").await, "y");
        tokio::time::sleep(Duration::from_millis(3000)).await;
        let mut conn = pool.get().await.unwrap();
        let heard: i64 = conn.publish("news", "hello").await.unwrap();
        assert_eq!(heard, 1);
        let message = futures_util::StreamExt::next(&mut pubsub.on_message()).await.unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "hello");
        drop(pubsub);
        until_cli(&redis, &["-a", "secret", "PUBSUB", "NUMSUB", "news"], |n| n.ends_with('0'))
            .await;
        drop(conn);
        drop(pool);
    }
}

#[tokio::test]
async fn a_connection_in_a_transaction_does_not_become_a_subscriber() {
    let redis = Redis::start();
    let (pool, _) = pool(&redis);
    let mut conn = pool.get().await.unwrap();
    cmd("MULTI").query_async::<()>(&mut *conn).await.unwrap();
    let Err(error) = conn.detach().into_pubsub().await else { panic!("it did") };
    assert!(error.to_string().contains("transaction"), "{error}");
}

/// Makes a server a replica of another, as a failover does.
async fn follow(replica: &Redis, master: &Redis) {
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    until_cli(replica, &["INFO", "replication"], |info| info.contains("master_link_status:up"))
        .await;
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left_at_the_first_word_of_it() {
    let (old, new) = (Redis::start(), Redis::start());
    follow(&new, &old).await;
    let adapter = adapter(&old).with_role(Role::Master);
    let config = adapter.config().with_upstream([new.addr(), old.addr()]).with_max_size(3);
    let (pool, events) = pool_of(config, adapter);
    fill(&pool).await;
    let mut conn = pool.get().await.unwrap();
    let _: () = conn.set("k", "v").await.expect("the replica is passed over, though it is first");
    // The failover.
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    follow(&old, &new).await;
    // Redis closes the connections of those who may not stay; what it leaves learns it so.
    let result: RedisResult<()> = conn.set("k", "w").await;
    if let Err(error) = &result {
        let told = error.code() == Some("READONLY") || error.is_connection_dropped();
        assert!(told, "{error}");
    }
    drop(conn);
    let closed = events.until_closed(3).await;
    let expected = |reason: &CloseReason| reason.is_death() || *reason == CloseReason::Invalidated;
    assert!(closed.iter().all(expected), "{closed:?}");
    let began = Instant::now();
    let mut conn = pool.get().await.unwrap();
    let _: () = conn.set("k", "x").await.unwrap();
    assert_eq!(conn.peer_addr().to_string(), new.addr());
    assert!(began.elapsed() < WHOLE_AGAIN);
}

#[tokio::test]
async fn a_write_that_a_replica_refuses_makes_all_its_connections_unfit() {
    let (master, replica) = (Redis::start(), Redis::start());
    follow(&replica, &master).await;
    for (role, reasons) in [
        (Role::Any, vec![CloseReason::Invalidated; 3]),
        (Role::Replica, vec![CloseReason::ProtocolError]),
    ] {
        let adapter = adapter(&replica).with_role(role);
        let (pool, events) = pool_of(adapter.config().with_max_size(3), adapter);
        fill(&pool).await;
        let mut conn = pool.get().await.unwrap();
        let error: RedisError = conn.set::<_, _, ()>("k", "v").await.unwrap_err();
        assert_eq!(error.code(), Some("READONLY"));
        drop(conn);
        assert_eq!(events.until_closed(reasons.len()).await, reasons, "{role:?}");
        assert_eq!(ask(&pool, "x").await, "x");
    }
}

#[tokio::test]
async fn a_server_of_the_wrong_role_is_not_connected_to() {
    let redis = Redis::start();
    let adapter = adapter(&redis).with_role(Role::Replica);
    let (pool, _) = pool_of(adapter.config(), adapter);
    let error = pool.get_by(Instant::now() + SECOND).await.unwrap_err();
    assert!(error.is_retryable(), "it may become one");
    let connect = error.connect_error().unwrap().to_string();
    assert!(connect.contains("its role is master"), "{connect}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_its_data_is_passed_over() {
    let (loading, ready) = (Redis::start(), Redis::start());
    loading.cli(&["DEBUG", "POPULATE", "3000", "k", "100"]);
    loading.cli(&["SAVE"]);
    loading.cli(&["CONFIG", "SET", "key-load-delay", "1000"]);
    loading.cli(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
    let adapter = adapter(&loading);
    let config = adapter.config().with_upstream([loading.addr(), ready.addr()]).with_max_size(1);
    let (pool, events) = pool_of(config, adapter);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| loading.cli(&["DEBUG", "RELOAD", "NOSAVE"]));
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                until_cli(&loading, &["PING"], |answer| answer.contains("LOADING")).await;
                let mut conn = pool.get().await.unwrap();
                assert_eq!(echo(&mut conn, "x").await.unwrap(), "x");
                assert_eq!(conn.peer_addr().to_string(), ready.addr());
                assert!(!reload.is_finished(), "it was loading all the time");
            });
        });
    });
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_unix_socket_is_as_good() {
    let path = std::env::temp_dir().join(format!("lp-redis-{}.sock", std::process::id()));
    let redis = Redis::start_with(&[&format!("unixsocket {}", path.display())]);
    let url = format!("redis+unix://{}?db=2", path.display());
    let (pool, events) = {
        let adapter = Adapter::from_url(url).unwrap();
        pool_of(adapter.config(), adapter)
    };
    assert_eq!(ask(&pool, "x").await, "x");
    let mut conn = pool.get().await.unwrap();
    let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
    assert!(info.contains("db=2"), "{info}");
    drop(conn);
    drop(redis);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
}

mod tls {
    use livepool_tls::Tls;

    use super::*;
    use livepool_testkit::servers::Certs;

    fn trusting(certs: &Certs) -> Tls {
        Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap()
    }

    fn adapter(redis: &Redis) -> Adapter {
        Adapter::from_url(format!("rediss://localhost:{}", redis.tls_port())).unwrap()
    }

    #[tokio::test]
    async fn an_encrypted_connection_does_all_that_others_do() {
        let certs = Certs::new();
        let mut redis = Redis::start_with_tls(&[], &certs);
        let adapter = adapter(&redis).with_tls(trusting(&certs));
        let timeouts = Timeouts::default().with_read(2 * SECOND);
        let config = adapter.config().with_max_size(2).with_timeouts(timeouts);
        let (pool, events) = pool_of(config, adapter);
        fill(&pool).await;
        let mut conn = pool.get().await.unwrap();
        let nothing: Option<(String, String)> = conn.blpop("none", 3.0).await.unwrap();
        assert_eq!(nothing, None, "longer than the read timeout");
        cmd("MULTI").query_async::<()>(&mut *conn).await.unwrap();
        drop(conn);
        until_status(&pool, |now| now.idle == 2).await;
        assert_eq!(ask(&pool, "x").await, "x");
        assert_eq!((events.opened(), events.closed()), (2, vec![]));
        redis.restart();
        for n in 0..4 {
            assert_eq!(ask(&pool, &n.to_string()).await, n.to_string());
        }
        let closed = events.closed();
        assert!(closed.iter().all(|reason| reason.is_death()), "{closed:?}");
        let mut pubsub = pool.get().await.unwrap().detach().into_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        let mut conn = pool.get().await.unwrap();
        let _: () = conn.publish("news", "hello").await.unwrap();
        let message = futures_util::StreamExt::next(&mut pubsub.on_message()).await.unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "hello");
        drop(conn);

        let mut subscription = pool.listen(["jobs"]).await.unwrap();
        redis.restart();
        let comes = tokio::time::timeout(WHOLE_AGAIN, subscription.next());
        let gap = comes.await.unwrap().unwrap();
        assert!(matches!(gap, Delivery::Reconnected { .. }), "{gap:?}");
        let mut conn = pool.get().await.unwrap();
        let _: () = conn.publish("jobs", "x".repeat(100_000)).await.unwrap();
        let comes = tokio::time::timeout(WHOLE_AGAIN, subscription.next());
        match comes.await.unwrap().unwrap() {
            Delivery::Message(message) => assert_eq!(message.get_payload_bytes().len(), 100_000),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_or_of_nobody_known_is_told_at_once() {
        let (certs, somebody_else) = (Certs::new(), Certs::of_somebody_else());
        let wrong_name = Redis::start_with_tls(&[], &somebody_else);
        let unknown = Redis::start_with_tls(&[], &certs);
        for adapter in [
            adapter(&wrong_name).with_tls(trusting(&somebody_else)),
            // What this system trusts, our authority is not among.
            adapter(&unknown),
        ] {
            let (pool, events) = pool_of(adapter.config(), adapter);
            let began = Instant::now();
            let error = pool.get().await.unwrap_err();
            assert!(began.elapsed() < 5 * SECOND, "long before the deadline of the checkout");
            assert!(!error.is_retryable());
            let connect = error.connect_error().unwrap();
            assert!(connect.is_denied(), "{connect}");
            assert!(connect.to_string().contains("certificate"), "{connect}");
            assert_eq!((events.opened(), events.closed().len()), (0, 0));
        }
    }
}
