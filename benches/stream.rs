//! What a deadline on every operation costs: a timed stream beside a raw one, tokio's `timeout`
//! around each operation, and tokio-io-timeout.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench stream
//! ```

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::streams::{self, Kind};

/// A byte there and back, over loopback.
fn ping_pong(c: &mut Criterion) {
    for (kind, runtime) in &support::runtimes() {
        let addr = support::upstream::echo_in(runtime);
        let mut group = c.benchmark_group(format!("ping-pong/{kind}"));
        for each in Kind::ALL {
            let mut stream = Some(runtime.block_on(streams::connect(each, addr)));
            group.bench_function(each.name(), |b| {
                b.iter_custom(|n| streams::ping_pong(runtime, &mut stream, n));
            });
        }
        group.finish();
    }
}

/// A read of one byte that is there, of many.
fn ready(c: &mut Criterion) {
    let (_, runtime) = &support::runtimes()[0];
    let mut group = c.benchmark_group("read/ready");
    for kind in Kind::ALL {
        group.bench_function(kind.name(), |b| {
            b.iter_custom(|n| streams::ready_reads(runtime, kind, n));
        });
    }
    group.finish();
}

/// A read that has to wait, asked again by the same task.
fn pending(c: &mut Criterion) {
    let (_, runtime) = &support::runtimes()[0];
    let addr = support::upstream::echo();
    let mut group = c.benchmark_group("read/pending");
    for kind in Kind::ALL {
        let mut stream = runtime.block_on(streams::connect(kind, addr));
        group.bench_function(kind.name(), |b| {
            b.iter_custom(|n| streams::pending_reads(runtime, &mut stream, n));
        });
    }
    group.finish();
}

criterion_group!(benches, ping_pong, ready, pending);
criterion_main!(benches);
