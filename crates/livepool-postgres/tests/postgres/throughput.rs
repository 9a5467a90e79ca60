//! `SELECT 1` through this pool and through deadpool-postgres, side by side.
//!
//! `LIVEPOOL_ROUNDS=7 cargo test --release -p livepool-postgres --all-features --test postgres -- --nocapture beside`

use livepool_testkit::rates::{Rates, beside};

use super::*;

const CONNECTIONS: usize = 16;

/// The same through either: their clients have methods of the same names.
macro_rules! select {
    ($pool:expr, $how:expr) => {{
        let client = $pool.get().await.unwrap();
        match $how {
            "prepare_cached" => {
                let statement = client.prepare_cached("SELECT 1").await.unwrap();
                drop(client.query_one(&statement, &[]).await.unwrap());
            }
            "simple_query" => drop(client.simple_query("SELECT 1").await.unwrap()),
            _ => drop(client.query_one("SELECT 1", &[]).await.unwrap()),
        }
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_per_second_beside_those_of_deadpool_postgres() {
    let server = Server::start();
    let (ours, _) = pool(&server, |config| config.with_max_size(CONNECTIONS));
    let config: tokio_postgres::Config = server.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let theirs = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS).build().unwrap();
    let rates = Rates::asked_for();
    for callers in [1, 16, 64] {
        for how in ["prepare_cached", "simple_query", "query(&str)"] {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            // In turn, so that what else this machine does falls on both.
            for _ in 0..rates.rounds {
                let (ours, theirs) = (ours.clone(), theirs.clone());
                let once = move || {
                    let pool = ours.clone();
                    async move { select!(pool, how) }
                };
                a.push(rates.of(callers, once).await);
                let once = move || {
                    let pool = theirs.clone();
                    async move { select!(pool, how) }
                };
                b.push(rates.of(callers, once).await);
            }
            let figures = beside(&a, &b);
            println!("{callers:2} callers, {how:14}: livepool {figures} of deadpool-postgres");
        }
    }
}
