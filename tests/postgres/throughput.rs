//! `SELECT 1` through this pool and through deadpool-postgres, side by side. Not a test: run it with
//! `cargo test --release --features postgres --test postgres -- --ignored --nocapture throughput`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::*;

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// Uses per second by so many callers.
async fn rate<F: Future<Output = ()> + Send>(
    callers: usize,
    one_use: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    let count = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let callers = (0..callers).map(|_| {
        let (one_use, count) = (one_use.clone(), Arc::clone(&count));
        tokio::spawn(async move {
            while began.elapsed() < ROUND {
                one_use().await;
                count.fetch_add(1, Relaxed);
            }
        })
    });
    for caller in futures_util::future::join_all(callers.collect::<Vec<_>>()).await {
        caller.unwrap();
    }
    count.load(Relaxed) as f64 / began.elapsed().as_secs_f64()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let server = Server::start();
    let (ours, events) = pool(&server, |config| config.with_max_size(CONNECTIONS));
    let config: tokio_postgres::Config = server.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let theirs = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS).build().unwrap();
    for callers in [1, 8, 16, 64] {
        for kind in ["prepare_cached", "simple_query", "query(&str)"] {
            let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let pool = ours.clone();
                a.push(
                    rate(callers, move || {
                        let pool = pool.clone();
                        async move {
                            let conn = pool.get().await.unwrap();
                            match kind {
                                "prepare_cached" => {
                                    let statement = conn.prepare_cached("SELECT 1").await.unwrap();
                                    drop(conn.query_one(&statement, &[]).await.unwrap());
                                }
                                "simple_query" => {
                                    drop(conn.simple_query("SELECT 1").await.unwrap());
                                }
                                _ => drop(conn.query_one("SELECT 1", &[]).await.unwrap()),
                            }
                        }
                    })
                    .await,
                );
                let pool = theirs.clone();
                b.push(
                    rate(callers, move || {
                        let pool = pool.clone();
                        async move {
                            let conn = pool.get().await.unwrap();
                            match kind {
                                "prepare_cached" => {
                                    let statement = conn.prepare_cached("SELECT 1").await.unwrap();
                                    drop(conn.query_one(&statement, &[]).await.unwrap());
                                }
                                "simple_query" => {
                                    drop(conn.simple_query("SELECT 1").await.unwrap());
                                }
                                _ => drop(conn.query_one("SELECT 1", &[]).await.unwrap()),
                            }
                        }
                    })
                    .await,
                );
                ratios.push(a[a.len() - 1] / b[b.len() - 1]);
            }
            println!(
                "{callers:>2} callers, {kind:<14}: livepool {:>7.0}/s, deadpool-postgres {:>7.0}/s, \
                 ratio {:.3}",
                median(a),
                median(b),
                median(ratios)
            );
        }
    }
    println!("{} connections, closed {:?}", events.opened(), events.closed());
}
