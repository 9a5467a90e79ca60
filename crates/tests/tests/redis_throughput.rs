//! How many GETs a second go through a pool of ours, and through deadpool-redis, in one run.
//!
//! `LIVEPOOL_ROUNDS=7 cargo test --release -p livepool-tests --test redis_throughput -- --nocapture`
#![cfg(target_os = "linux")]

use livepool::config::Validation;
use livepool_redis::Redis as Adapter;
use livepool_redis::redis::AsyncCommands;
use livepool_testkit::rates::{Rates, beside};
use livepool_testkit::servers::Redis;

const CONNECTIONS: usize = 16;
const CALLERS: usize = 64;

async fn ask_ours(pool: livepool::Pool<Adapter>) {
    let value: String = pool.get().await.unwrap().get("key").await.unwrap();
    assert_eq!(value, "value");
}

async fn ask_theirs(pool: deadpool_redis::Pool) {
    let value: String = pool.get().await.unwrap().get("key").await.unwrap();
    assert_eq!(value, "value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gets_per_second_beside_those_of_deadpool_redis() {
    let redis = Redis::start();
    redis.cli(&["SET", "key", "value"]);

    let adapter = Adapter::from_url(redis.url()).unwrap();
    let config = adapter.config().with_max_size(CONNECTIONS);
    let plain = livepool::Pool::builder(config.clone()).protocol(adapter.clone()).build().unwrap();
    let config = config.with_validation(Validation::Ping);
    let pinging = livepool::Pool::builder(config).protocol(adapter).build().unwrap();
    let builder = deadpool_redis::Config::from_url(redis.url()).builder().unwrap();
    let deadpool =
        builder.max_size(CONNECTIONS).runtime(deadpool_redis::Runtime::Tokio1).build().unwrap();

    let rates = Rates::asked_for();
    let (mut ours, mut with_ping, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    // In turn, so that what else this machine does falls on all.
    for _ in 0..rates.rounds {
        let (a, b, c) = (plain.clone(), pinging.clone(), deadpool.clone());
        ours.push(rates.of(CALLERS, move || ask_ours(a.clone())).await);
        with_ping.push(rates.of(CALLERS, move || ask_ours(b.clone())).await);
        theirs.push(rates.of(CALLERS, move || ask_theirs(c.clone())).await);
    }
    println!("{CALLERS} callers on {CONNECTIONS} connections; deadpool-redis pings every time:");
    println!("livepool           {} of deadpool-redis", beside(&ours, &theirs));
    println!("livepool with ping {} of deadpool-redis", beside(&with_ping, &theirs));
}
