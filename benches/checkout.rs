//! What getting and returning a connection costs: alone and with others, beside plain deadpool, what
//! a careful user would write by hand on it, and bb8; and what counting costs.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench checkout
//! ```
//!
//! Criterion measures one after the other; for ratios within one run see `goals`.

mod support;

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use livepool::Pool;
use metrics_exporter_prometheus::PrometheusHandle;
use support::contenders::{self, BOUNDED, Check, UNBOUNDED, WAIT};
use support::load::Load;
use support::upstream;
use tokio::runtime::Runtime;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Callers, and connections for them.
const TASKS: [u64; 4] = [1, 8, 64, 512];
const SIZES: [usize; 3] = [1, 8, 64];

/// Before a recorder is installed: what a pool costs that nobody counts.
fn uncounted(c: &mut Criterion) {
    for (kind, runtime) in &support::runtimes() {
        let live = contenders::livepool(upstream::echo(), 16);
        let mut group = c.benchmark_group(format!("recorder/{kind}"));
        group.bench_function("none", |b| b.iter_custom(|n| Load::Alone.run(runtime, &live, n)));
        group.finish();
    }
}

fn counted(c: &mut Criterion) {
    let upkeep = support::install_recorder();
    for (kind, runtime) in &support::runtimes() {
        let live = contenders::livepool(upstream::echo(), 16);
        let mut group = c.benchmark_group(format!("recorder/{kind}"));
        group.bench_function("prometheus", |b| {
            b.iter_custom(|n| {
                let took = Load::Alone.run(runtime, &live, n);
                upkeep.run_upkeep();
                took
            });
        });
        group.finish();
    }
    for (kind, runtime) in &support::runtimes() {
        everybody(c, &format!("alone/{kind}"), runtime, &upkeep, 16, Load::Alone);
        for tasks in TASKS {
            for size in SIZES {
                let name = format!("together/{kind}/{tasks} on {size}");
                everybody(c, &name, runtime, &upkeep, size, Load::Together(tasks));
            }
        }
        let name = format!("cancelling/{kind}/64 on 8");
        everybody(c, &name, runtime, &upkeep, 8, Load::Impatient(64));
    }
}

/// The same load on every pool.
fn everybody(
    c: &mut Criterion,
    name: &str,
    runtime: &Runtime,
    upkeep: &PrometheusHandle,
    size: usize,
    load: Load,
) {
    let addr = upstream::echo();
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let live = |pool: Pool, name, group: &mut Group<'_>| {
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let took = load.run(runtime, &pool, n);
                upkeep.run_upkeep();
                took
            });
        });
    };
    live(contenders::livepool(addr, size), "livepool, peek", &mut group);
    live(contenders::livepool_pinging(addr, size), "livepool, ping", &mut group);
    let deadpools = [
        ("deadpool", Check::Nothing, UNBOUNDED),
        ("deadpool, wait timeout", Check::Nothing, WAIT),
        ("deadpool, hand-written peek, three timeouts", Check::Peek, BOUNDED),
        ("deadpool, ping", Check::Ping, BOUNDED),
    ];
    for (name, check, timeouts) in deadpools {
        let pool = contenders::deadpool(addr, size, check, timeouts);
        group.bench_function(name, |b| b.iter_custom(|n| load.run(runtime, &pool, n)));
    }
    for (name, check) in [("bb8", Check::Nothing), ("bb8, ping", Check::Ping)] {
        let pool = runtime.block_on(contenders::bb8(addr, size as u32, check));
        group.bench_function(name, |b| b.iter_custom(|n| load.run(runtime, &pool, n)));
    }
    group.finish();
}

fn criterion() -> Criterion {
    // There are many of them; see `goals` for those that count.
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
}

criterion_group!(name = benches; config = criterion(); targets = uncounted, counted);
criterion_main!(benches);
