//! What a connection costs: socket options, a deadline, an event and its counts, beside a bare
//! `TcpStream::connect`; and what the first checkout of an empty pool costs.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench connect
//! ```

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use livepool::{Config, Connector};
use support::contenders::{self, Check, Contender, UNBOUNDED};
use support::streams;
use tokio::net::TcpStream;

fn connect(c: &mut Criterion) {
    support::install_recorder();
    for (kind, runtime) in &support::runtimes() {
        let addr = support::upstream::echo();
        let mut group = c.benchmark_group(format!("connect/{kind}"));
        // Every one leaves a socket in TIME_WAIT: there must not be too many of them.
        group.sample_size(10).measurement_time(Duration::from_millis(500));
        group.bench_function("TcpStream::connect", |b| {
            b.to_async(runtime).iter(|| TcpStream::connect(addr));
        });
        group.bench_function("TcpStream::connect and the same options", |b| {
            b.to_async(runtime).iter(|| async {
                let stream = TcpStream::connect(addr).await.expect("an upstream");
                streams::same_options(&stream);
                stream
            });
        });
        let connector = Connector::new(&Config::new(addr.to_string())).expect("valid");
        group.bench_function("livepool's Connector", |b| {
            b.to_async(runtime).iter(|| async { connector.connect().await.expect("an upstream") });
        });
        group.bench_function("livepool, the first checkout of a pool", |b| {
            b.iter_custom(|n| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..n {
                        let pool = contenders::livepool(addr, 1);
                        let start = Instant::now();
                        drop(Contender::get(&pool).await);
                        took += start.elapsed();
                        pool.close();
                    }
                    took
                })
            });
        });
        group.bench_function("deadpool, the first checkout of a pool", |b| {
            b.iter_custom(|n| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..n {
                        let pool = contenders::deadpool(addr, 1, Check::Nothing, UNBOUNDED);
                        let start = Instant::now();
                        drop(Contender::get(&pool).await);
                        took += start.elapsed();
                    }
                    took
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, connect);
criterion_main!(benches);
