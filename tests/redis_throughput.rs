//! How many GETs a second go through a pool of ours, and through deadpool-redis, in one run. For
//! people to read: `cargo test --release --features redis --test redis_throughput -- --ignored
//! --nocapture`.
#![cfg(all(target_os = "linux", feature = "redis"))]

mod support;

use std::time::{Duration, Instant};

use livepool::config::Validation;
use livepool::redis::Redis as Adapter;
use livepool::redis::redis::{AsyncCommands, RedisResult};
use support::servers::Redis;

const CONNECTIONS: usize = 16;
const CALLERS: usize = 64;
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 10;

/// GETs per second of all callers together.
async fn rate<F>(get: impl Fn() -> F + Send + Sync + Clone + 'static) -> f64
where
    F: Future<Output = RedisResult<String>> + Send,
{
    let began = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let get = get.clone();
            tokio::spawn(async move {
                let mut count = 0;
                while began.elapsed() < ROUND {
                    assert_eq!(get().await.unwrap(), "value");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for caller in callers {
        total += caller.await.unwrap();
    }
    f64::from(total) / began.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn gets_per_second_beside_deadpool_redis() {
    let redis = Redis::start();
    redis.cli(&["SET", "key", "value"]);

    let adapter = Adapter::from_url(redis.url()).unwrap();
    let config = adapter.config().with_max_size(CONNECTIONS);
    let ours = livepool::Pool::builder(config.clone()).protocol(adapter.clone()).build().unwrap();
    let config = config.with_validation(Validation::Ping);
    let pinging = livepool::Pool::builder(config).protocol(adapter).build().unwrap();
    let theirs = deadpool_redis::Config::from_url(redis.url())
        .builder()
        .unwrap()
        .max_size(CONNECTIONS)
        .runtime(deadpool_redis::Runtime::Tokio1)
        .build()
        .unwrap();

    let get_ours = move || {
        let pool = ours.clone();
        async move { pool.get().await.unwrap().get("key").await }
    };
    let get_pinging = move || {
        let pool = pinging.clone();
        async move { pool.get().await.unwrap().get("key").await }
    };
    let get_theirs = move || {
        let pool = theirs.clone();
        async move { pool.get().await.unwrap().get("key").await }
    };
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    // In turn, so that what else this machine does falls on all.
    for _ in 0..ROUNDS {
        a.push(rate(get_ours.clone()).await);
        b.push(rate(get_theirs.clone()).await);
        c.push(rate(get_pinging.clone()).await);
    }
    let (ours, theirs, pinging) = (median(a), median(b), median(c));
    println!("{CALLERS} callers on {CONNECTIONS} connections, median of {ROUNDS} rounds:");
    println!("livepool                   {ours:>9.0} GET/s");
    println!("livepool, pings as well    {pinging:>9.0} GET/s");
    println!("deadpool-redis             {theirs:>9.0} GET/s, which pings at every checkout");
    println!("ratios {:.2} and {:.2}", ours / theirs, pinging / theirs);
}
