//! A guard where the crate redis wants a connection, and commands straight on a pool.
#![cfg(target_os = "linux")]

use std::time::Duration;

use livepool::{Release, Timeouts};
use livepool_redis::redis::{AsyncCommands, RedisResult, cmd, pipe};
use livepool_redis::{Config, Connection, Pool, PoolExt as _, Redis as Adapter, checkout_error};
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, patient, until_status};

fn pool_of(redis: &Redis, change: impl FnOnce(Config) -> Config) -> (Pool, Events) {
    let events = Events::default();
    let adapter =
        Adapter::from_url(redis.url()).unwrap().with_config(|config| change(patient(config)));
    (adapter.builder().unwrap().observer(events.observer()).build().unwrap(), events)
}

fn one(config: Config) -> Config {
    config.with_max_size(1)
}

#[tokio::test]
async fn a_guard_is_what_the_crate_takes_for_a_connection() {
    let redis = Redis::start();
    let (pool, events) = pool_of(&redis, one);
    let mut conn = pool.connection().await.unwrap();
    // As deadpool-redis has it: `&mut conn`, without a star.
    let _: () = cmd("SET").arg("key").arg(1).query_async(&mut conn).await.unwrap();
    let both: (i64, i64) =
        pipe().atomic().incr("key", 1).incr("key", 1).query_async(&mut conn).await.unwrap();
    assert_eq!(both, (2, 3));
    let plain: (i64, Option<String>) =
        pipe().get("key").get("none").query_async(&mut conn).await.unwrap();
    assert_eq!(plain, (3, None));
    let _: () = conn.set("other", 5).await.unwrap();
    let value: i64 = conn.get("other").await.unwrap();
    assert_eq!(value, 5);
    // It is its guard in all else.
    assert_eq!(conn.id(), conn.into_guard().id());
    until_status(&pool, |now| now.idle == 1).await;
    let conn = Connection::from(pool.get().await.unwrap());
    assert_eq!(conn.into_guard().release(), Release::Reused);
    // And so is a share.
    let mut share = pool.share().await.unwrap();
    let value: i64 = cmd("GET").arg("key").query_async(&mut share).await.unwrap();
    assert_eq!(value, 3);
    drop(share);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_connection_keeps_every_protection_of_its_guard() {
    let redis = Redis::start();
    let (pool, events) = pool_of(&redis, one);
    // Given up in the middle: the next one reads its own answer.
    let mut conn = pool.connection().await.unwrap();
    let _: () = conn.set("key", "old").await.unwrap();
    let id = conn.id();
    {
        let mut command = cmd("GET");
        command.arg("key");
        let mut asked = Box::pin(command.query_async::<String>(&mut conn));
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
    }
    drop(conn);
    let mut conn = pool.connection().await.unwrap();
    let echo: String = cmd("ECHO").arg("mine").query_async(&mut conn).await.unwrap();
    assert_eq!((&*echo, conn.id()), ("mine", id));
    // What it changed is undone for the next one.
    let _: () = cmd("SELECT").arg(3).query_async(&mut conn).await.unwrap();
    let _: () = cmd("WATCH").arg("key").query_async(&mut conn).await.unwrap();
    drop(conn);
    let value: Option<String> = pool.query(cmd("GET").arg("key")).await.unwrap();
    assert_eq!(value.as_deref(), Some("old"), "database 0 again");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // Its deadline.
    let mut conn = pool.connection().await.unwrap();
    conn.deadline(Duration::from_millis(50));
    let late: RedisResult<Option<(String, String)>> = conn.blpop("nothing", 0.0).await;
    assert!(late.unwrap_err().is_io_error());
    drop(conn);
    // A command that waits and was given up: nobody gets its connection.
    let mut conn = pool.connection().await.unwrap();
    let id = conn.id();
    let asked = conn.blpop::<_, Option<(String, String)>>("nothing", 0.0);
    tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
    drop(conn);
    assert_ne!(pool.connection().await.unwrap().id(), id);
    assert_eq!(events.opened(), 3);
}

#[tokio::test]
async fn commands_straight_on_a_pool_are_one_checkout_each() {
    let redis = Redis::start();
    let (pool, events) = pool_of(&redis, one);
    let _: () = pool.query(cmd("SET").arg("key").arg("value")).await.unwrap();
    let value: String = pool.query(cmd("GET").arg("key")).await.unwrap();
    assert_eq!(value, "value");
    let mut both = pipe();
    both.atomic().set("a", 1).ignore().incr("a", 1);
    let (after,): (i64,) = pool.query_pipeline(&both).await.unwrap();
    assert_eq!(after, 2);
    let wrong: RedisResult<()> = pool.query(cmd("LPUSH").arg("key").arg(1)).await;
    assert!(wrong.unwrap_err().to_string().contains("WRONGTYPE"));
    let asked = pool.clone();
    let task = tokio::spawn(async move { asked.query::<String>(cmd("GET").arg("key")).await });
    assert_eq!(task.await.unwrap().unwrap(), "value");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // An idle connection that the server has ended costs nobody.
    let mut admin = pool.get().await.unwrap().detach();
    let _: () = pool.query(&cmd("PING")).await.unwrap();
    let _: i64 =
        cmd("CLIENT").arg("KILL").arg("SKIPME").arg("yes").query_async(&mut admin).await.unwrap();
    let value: String = pool.query(cmd("GET").arg("key")).await.unwrap();
    assert_eq!(value, "value");
}

#[tokio::test]
async fn a_command_without_a_connection_says_so_and_was_not_sent() {
    let redis = Redis::start();
    let timeouts = Timeouts::default().with_checkout(Duration::from_millis(50));
    let (pool, _) = pool_of(&redis, |config| one(config).with_timeouts(timeouts));
    // To make it may take longer.
    let held = pool.get_by(std::time::Instant::now() + Duration::from_secs(10)).await.unwrap();
    let error = pool.query::<()>(cmd("INCR").arg("count")).await.unwrap_err();
    assert!(checkout_error(&error).unwrap().is_timeout(), "{error}");
    assert!(error.to_string().contains("1 of 1 in use"), "{error}");
    drop(held);
    let count: Option<i64> = pool.query(cmd("GET").arg("count")).await.unwrap();
    assert_eq!(count, None);
    let error = pool.query::<()>(cmd("LPUSH").arg("count")).await.unwrap_err();
    assert!(checkout_error(&error).is_none(), "{error}");
}
