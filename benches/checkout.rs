//! What one checkout and return costs, beside plain deadpool and what a careful user would write
//! by hand on it, in the same process. Read ratios, not digits.
//!
//! ```sh
//! cargo bench --bench checkout
//! ```

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult, Timeouts};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const SIZE: usize = 16;

/// What people write first: connect, and believe that idle connections stay alive.
struct Plain(SocketAddr);

impl Manager for Plain {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }

    async fn recycle(&self, _: &mut TcpStream, _: &Metrics) -> RecycleResult<io::Error> {
        Ok(())
    }
}

/// What a careful user writes: the same peek as livepool's, in recycle.
struct Peeking(SocketAddr);

impl Manager for Peeking {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }

    async fn recycle(&self, stream: &mut TcpStream, _: &Metrics) -> RecycleResult<io::Error> {
        let mut buf = [std::mem::MaybeUninit::uninit(); 1];
        match socket2::SockRef::from(&*stream).peek(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(RecycleError::Backend(error)),
            Ok(_) => Err(RecycleError::message("closed or dirty")),
        }
    }
}

fn deadpool<M: Manager<Type = TcpStream>>(manager: M, timeouts: Timeouts) -> Pool<M> {
    Pool::builder(manager)
        .max_size(SIZE)
        .timeouts(timeouts)
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a runtime is given")
}

/// An upstream that only accepts.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    addr
}

/// Times `rounds` of `once`, in the runtime.
fn timed<F: Future>(runtime: &Runtime, rounds: u64, mut once: impl FnMut() -> F) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..rounds {
            once().await;
        }
        start.elapsed()
    })
}

fn get_and_return(c: &mut Criterion) {
    // A recorder is installed: counting is part of the price.
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let upkeep = recorder.handle();
    let _ = metrics::set_global_recorder(recorder);
    let runtimes = [
        ("current_thread", Builder::new_current_thread().enable_all().build().expect("runtime")),
        (
            "multi_thread",
            Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime"),
        ),
    ];
    let second = Some(Duration::from_secs(1));
    let bounded = Timeouts { wait: second, create: second, recycle: second };
    for (name, runtime) in &runtimes {
        let addr = runtime.block_on(upstream());
        let mut group = c.benchmark_group(format!("get_and_return/{name}"));

        let plain = deadpool(Plain(addr), Timeouts::new());
        group.bench_function("deadpool, plain", |b| {
            b.iter_custom(|n| timed(runtime, n, || async { drop(plain.get().await) }));
        });

        let peeking = deadpool(Peeking(addr), Timeouts::new());
        group.bench_function("deadpool, hand-written peek", |b| {
            b.iter_custom(|n| timed(runtime, n, || async { drop(peeking.get().await) }));
        });

        let careful = deadpool(Peeking(addr), bounded);
        group.bench_function("deadpool, hand-written peek and three timeouts", |b| {
            b.iter_custom(|n| timed(runtime, n, || async { drop(careful.get().await) }));
        });

        let config = livepool::Config::new(addr.to_string()).with_max_size(SIZE);
        let live = livepool::Pool::new(config).expect("valid");
        group.bench_function("livepool, peek, deadline, counted", |b| {
            b.iter_custom(|n| {
                let took = timed(runtime, n, || async { drop(live.get().await) });
                // Histograms keep their samples until upkeep; a server's exporter does this.
                upkeep.run_upkeep();
                took
            });
        });
        group.finish();
    }
}

criterion_group!(benches, get_and_return);
criterion_main!(benches);
