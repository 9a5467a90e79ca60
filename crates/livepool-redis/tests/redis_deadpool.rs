//! Redis in a plain deadpool with our manager: what users of deadpool-redis get.
#![cfg(target_os = "linux")]

use std::time::Duration;

use deadpool::managed;
use livepool::{CloseReason, Connection, Manager, Pool, Release};
use livepool_redis::Redis as Adapter;
use livepool_redis::redis::{AsyncCommands, cmd};
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, until_seen};

type Plain = managed::Pool<Manager<Adapter>>;

fn plain(redis: &Redis, size: usize) -> (Plain, Events) {
    let events = Events::default();
    let adapter = Adapter::from_url(redis.url()).unwrap();
    let builder = Pool::builder(adapter.config()).observer(events.observer());
    let manager = builder.protocol(adapter).build_manager().unwrap();
    (Plain::builder(manager).max_size(size).build().unwrap(), events)
}

#[tokio::test]
async fn a_transaction_and_a_database_that_a_user_of_a_plain_deadpool_left_are_not_the_next_ones() {
    let redis = Redis::start();
    let (pool, events) = plain(&redis, 1);
    Manager::watch(&pool);
    for is_watched in [false, true] {
        let mut conn = pool.get().await.unwrap();
        let _: () = conn.set("key", 1).await.unwrap();
        let _: () = cmd("SELECT").arg(3).query_async(&mut **conn).await.unwrap();
        let _: () = cmd("MULTI").query_async(&mut **conn).await.unwrap();
        drop(conn);
        if is_watched {
            until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
        }
        let mut conn = pool.get().await.unwrap();
        let found: Option<u64> = conn.get("key").await.unwrap();
        assert_eq!(found, Some(1), "watched: {is_watched}");
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_command_that_a_user_of_a_plain_deadpool_gave_up_takes_nothing_from_the_queue() {
    let redis = Redis::start();
    let (pool, events) = plain(&redis, 1);
    let mut conn = pool.get().await.unwrap();
    let mut blpop = cmd("BLPOP");
    let asked = blpop.arg("jobs").arg(0).query_async::<(String, String)>(&mut **conn);
    tokio::time::timeout(Duration::from_millis(100), asked).await.unwrap_err();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    let _: () = conn.rpush("jobs", "one").await.unwrap();
    let left: u64 = conn.llen("jobs").await.unwrap();
    assert_eq!(left, 1, "nobody popped it for one who is gone");
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

#[tokio::test]
async fn a_connection_that_redis_kills_is_out_of_a_watched_deadpool_before_anybody_asks() {
    let redis = Redis::start();
    let (pool, events) = plain(&redis, 2);
    Manager::watch(&pool);
    let (mut one, other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(Connection::release(other), Release::Reused);
    let kill = "CLIENT KILL TYPE normal SKIPME yes";
    let mut words = kill.split(' ');
    let mut kill = cmd(words.next().unwrap());
    words.for_each(|word| {
        kill.arg(word);
    });
    let killed: u64 = kill.query_async(&mut **one).await.unwrap();
    assert_eq!(killed, 1);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    until_seen(|| pool.status().size, |size| *size == 1).await;
}
