//! What a pool does by itself: the cost of looking after idle connections, and of evicting all of
//! them.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench maintenance
//! ```

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group};
use livepool::{Config, Pool};
use support::crowd::Crowd;
use tokio::runtime::Runtime;

const IDLE: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    support::crowd::serve_if_asked();
    benches();
    Criterion::default().configure_from_args().final_summary();
}

fn idle() -> &'static [usize] {
    // Without a need for figures it is enough to see that it runs.
    if support::measures() { &IDLE } else { &IDLE[..1] }
}

/// So many idle connections, and everything else that a second costs.
fn pool(runtime: &Runtime, crowd: &Crowd, size: usize) -> Pool {
    let config = Config::default()
        .with_upstream(crowd.addrs.iter().map(ToString::to_string))
        .with_max_size(size)
        .with_max_connecting(16);
    let pool = Pool::new(config).expect("valid");
    runtime.block_on(pool.warm_up(size)).expect("an upstream");
    pool
}

/// CPU time of a second of rest, of this thread: the runtime is in it.
fn rest(c: &mut Criterion) {
    let (_, runtime) = &support::runtimes()[0];
    let mut group = c.benchmark_group("maintenance/CPU time for each second of rest");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for &size in idle() {
        let crowd = Crowd::start(10);
        let pool = pool(runtime, &crowd, size);
        group.bench_function(size.to_string(), |b| {
            b.iter_custom(|n| {
                let before = on_cpu();
                let seconds =
                    if support::measures() { Duration::from_secs(n) } else { Duration::ZERO };
                runtime.block_on(async { tokio::time::sleep(seconds).await });
                on_cpu() - before
            });
        });
        drop(pool);
    }
    group.finish();
}

/// See proc(5): `schedstat` of a thread.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("proc");
    let nanos = stat.split_whitespace().next().expect("a number");
    Duration::from_nanos(nanos.parse().expect("a number"))
}

/// From the order to the last socket closed.
fn evict_all(c: &mut Criterion) {
    let (_, runtime) = &support::runtimes()[0];
    let mut group = c.benchmark_group("maintenance/evict all");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(10));
    for &size in idle() {
        group.bench_function(size.to_string(), |b| {
            b.iter_custom(|n| {
                let mut took = Duration::ZERO;
                for _ in 0..n {
                    // It keeps its end of every connection: there is room for those of one pool.
                    let crowd = Crowd::start(10);
                    let pool = pool(runtime, &crowd, size);
                    let start = Instant::now();
                    runtime.block_on(async {
                        pool.invalidate();
                        while pool.status().idle > 0 {
                            // Asking costs as much as many closes. This is in the figures.
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                    took += start.elapsed();
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rest, evict_all);
