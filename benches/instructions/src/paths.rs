//! The hot paths.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use livepool::{Config, Connector, Pool};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::by_hand::{ByHand, pool};
use crate::measured;

/// Name, and what does it so many times.
type Path = (&'static str, fn(usize));

pub(crate) const ALL: &[Path] = &[
    ("checkout/deadpool", |rounds| alone(by_hand_pool(false), rounds)),
    ("checkout/hand-written", |rounds| alone(by_hand_pool(true), rounds)),
    ("checkout/livepool", |rounds| alone(live_pool, rounds)),
    ("checkout/livepool-counted", |rounds| {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::set_global_recorder(recorder).expect("the only recorder");
        alone(live_pool, rounds);
    }),
    ("contended/deadpool", |rounds| contended(by_hand_pool(false), rounds)),
    ("contended/hand-written", |rounds| contended(by_hand_pool(true), rounds)),
    ("contended/livepool", |rounds| contended(live_pool, rounds)),
    ("read-ready/raw", |rounds| {
        let (runtime, listener) = upstream();
        let _entered = runtime.enter();
        let stream = runtime.block_on(TcpStream::connect(listener.local_addr().expect("bound")));
        ready(&runtime, &listener, stream.expect("an upstream"), rounds);
    }),
    ("read-ready/timed", |rounds| {
        let (runtime, listener) = upstream();
        let _entered = runtime.enter();
        let config = Config::new(listener.local_addr().expect("bound").to_string());
        let connector = Connector::new(&config).expect("valid");
        let stream = runtime.block_on(connector.connect()).expect("an upstream");
        ready(&runtime, &listener, stream, rounds);
    }),
    ("read-pending/raw", |rounds| {
        let (runtime, listener) = upstream();
        let _entered = runtime.enter();
        let stream = runtime.block_on(TcpStream::connect(listener.local_addr().expect("bound")));
        pending(stream.expect("an upstream"), rounds);
    }),
    ("read-pending/timed", |rounds| {
        let (runtime, listener) = upstream();
        let _entered = runtime.enter();
        let config = Config::new(listener.local_addr().expect("bound").to_string());
        let connector = Connector::new(&config).expect("valid");
        pending(runtime.block_on(connector.connect()).expect("an upstream"), rounds);
    }),
];

/// Its listener's backlog is all the upstream there is.
fn upstream() -> (Runtime, TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    (runtime.expect("a runtime"), TcpListener::bind("127.0.0.1:0").expect("loopback"))
}

/// What every pool can do.
trait Take: Clone + 'static {
    async fn take(&self) -> impl Sized + 'static;
}

impl Take for deadpool::managed::Pool<ByHand> {
    async fn take(&self) -> impl Sized + 'static {
        self.get().await.expect("a connection")
    }
}

impl Take for Pool {
    async fn take(&self) -> impl Sized + 'static {
        self.get().await.expect("a connection")
    }
}

/// Whoever waits for one of them waits for others.
const SIZE: usize = 8;
const TASKS: usize = 64;

fn by_hand_pool(peeks: bool) -> impl Fn(SocketAddr) -> deadpool::managed::Pool<ByHand> {
    move |addr| pool(ByHand { addr, peeks }, SIZE)
}

fn live_pool(addr: SocketAddr) -> Pool {
    Pool::new(Config::new(addr.to_string()).with_max_size(SIZE)).expect("valid")
}

/// One caller: a connection is idle whenever it asks.
fn alone<P: Take>(pool: impl Fn(SocketAddr) -> P, rounds: usize) {
    let (runtime, listener) = upstream();
    let pool = pool(listener.local_addr().expect("bound"));
    let some = |rounds| {
        runtime.block_on(async {
            for _ in 0..rounds {
                drop(pool.take().await);
            }
        });
    };
    some(100);
    measured(&mut || some(rounds));
}

/// Many callers, who let each other run while they have a connection.
fn contended<P: Take>(pool: impl Fn(SocketAddr) -> P, rounds: usize) {
    let (runtime, listener) = upstream();
    let pool = pool(listener.local_addr().expect("bound"));
    let some = |rounds| {
        let tasks = tokio::task::LocalSet::new();
        for _ in 0..TASKS {
            let pool = pool.clone();
            tasks.spawn_local(async move {
                for _ in 0..rounds / TASKS {
                    let _held = pool.take().await;
                    tokio::task::yield_now().await;
                }
            });
        }
        runtime.block_on(tasks);
    };
    some(10 * TASKS);
    measured(&mut || some(rounds));
}

/// Everything is there before it is asked for.
fn ready(
    runtime: &Runtime,
    listener: &TcpListener,
    mut stream: impl AsyncRead + Unpin,
    rounds: usize,
) {
    let (mut writer, _) = listener.accept().expect("a client");
    writer.write_all(&vec![7; rounds + 101]).expect("alive");
    let mut buf = [0];
    runtime
        .block_on(std::future::poll_fn(|cx| {
            Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut buf))
        }))
        .expect("alive");
    let mut cx = Context::from_waker(Waker::noop());
    let mut some = |rounds| {
        for _ in 0..rounds {
            let polled = Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut buf));
            assert!(polled.is_ready(), "it is there");
        }
    };
    some(100);
    measured(&mut || some(rounds));
}

/// Nothing is ever sent. A read that has to wait, and is asked again.
fn pending(mut stream: impl AsyncRead + Unpin, rounds: usize) {
    let mut buf = [0; 64];
    let mut cx = Context::from_waker(Waker::noop());
    let mut some = |rounds| {
        for _ in 0..rounds {
            let mut buf = ReadBuf::new(&mut buf);
            let polled = Pin::new(&mut stream).poll_read(&mut cx, &mut buf);
            assert!(matches!(polled, Poll::Pending), "nothing was sent");
        }
    };
    some(100);
    measured(&mut || some(rounds));
}
