//! What each rung of the liveness ladder costs a checkout.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench ladder
//! ```
//!
//! A peek is made at every checkout; the kernel is asked when the peer was last heard only where the
//! last proof of life is older than `max_silence`, which is what takes this bench its time: it waits
//! until that is so.

mod support;

use std::time::{Duration, Instant};

use livepool::config::Order;
use livepool::{Config, Guard, Pool};
use serde_json::json;
use support::contenders::{self, Check, UNBOUNDED};
use support::load::Load;
use support::paired::{Entry, Plan, Spread};
use support::{results, upstream};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

/// The shortest `max_silence` there is.
const SILENCE: Duration = Duration::from_secs(1);

fn main() {
    let plan = if support::measures() {
        Plan { turns: 31, slice: Duration::from_millis(10) }
    } else {
        Plan { turns: 1, slice: Duration::from_micros(100) }
    };
    let (_, runtime) = &support::runtimes()[0];
    let (near, far) = (upstream::echo(), upstream::echo_after(Duration::from_millis(1)));
    let bare = runtime.block_on(tokio::net::TcpStream::connect(near)).expect("an upstream");
    let unchecked = contenders::deadpool(near, 16, Check::Nothing, UNBOUNDED);
    let live = contenders::livepool(near, 16);
    let (pinging, pinging_far) =
        (contenders::livepool_pinging(near, 16), contenders::livepool_pinging(far, 16));
    let times = plan.run(vec![
        Entry::new("nothing (plain deadpool)", |n| Load::Alone.run(runtime, &unchecked, n)),
        Entry::new("the peek alone", |n| {
            let start = Instant::now();
            for _ in 0..n {
                contenders::peek(&bare).expect("alive");
            }
            start.elapsed()
        }),
        Entry::new("peek", |n| Load::Alone.run(runtime, &live, n)),
        Entry::new("peek and ping, loopback", |n| Load::Alone.run(runtime, &pinging, n)),
        Entry::new("peek and ping, 1 ms away", |n| Load::Alone.run(runtime, &pinging_far, n)),
    ]);
    let mut figures = serde_json::Map::new();
    let mut tell = |name: &str, Spread { low, median, high }: Spread| {
        println!("{name:<30} {median:>12.1} ns  [{low:.1} .. {high:.1}]");
        figures.insert(name.to_owned(), json!({ "low": low, "median": median, "high": high }));
    };
    for name in times.names() {
        tell(name, times.of(name));
    }
    let (fresh, stale) = silence(runtime, upstream::sink());
    tell("peek, of one in turn", fresh);
    tell("peek and TCP_INFO, of one in turn", stale);
    tell("a probe and its answer", probe(runtime, near));
    results::save("ladder", &figures.into());
}

/// A checkout that meets a connection whose peer is silent, and waits for a sign of life.
fn probe(runtime: &Runtime, addr: std::net::SocketAddr) -> Spread {
    let turns = if support::measures() { 11 } else { 1 };
    let pool = Pool::new(Config::new(addr.to_string()).with_max_size(1).with_max_silence(SILENCE));
    let pool = pool.expect("valid");
    let times = (0..turns).map(|_| {
        drop(runtime.block_on(pool.get()).expect("an upstream"));
        // Nobody looks after it meanwhile: the runtime does not run.
        std::thread::sleep(SILENCE + Duration::from_millis(200));
        let start = Instant::now();
        drop(runtime.block_on(pool.get()).expect("an answer"));
        start.elapsed().as_nanos() as f64
    });
    Spread::of(times.collect())
}

/// A checkout where the peer was heard lately, and one where the kernel has to be asked, of many
/// connections in turn.
fn silence(runtime: &Runtime, addr: std::net::SocketAddr) -> (Spread, Spread) {
    let (many, turns) = if support::measures() { (1000, 7) } else { (4, 1) };
    let config = Config::new(addr.to_string())
        .with_max_size(many)
        .with_max_connecting(16)
        .with_order(Order::Fifo)
        .with_max_silence(SILENCE);
    let pool = Pool::new(config).expect("valid");
    let all = |pool: &Pool| -> (Vec<Guard>, f64) {
        let start = Instant::now();
        let guards = (0..many).map(|_| pool.try_get().expect("idle")).collect();
        (guards, start.elapsed().as_nanos() as f64 / many as f64)
    };
    runtime.block_on(async {
        pool.warm_up(many).await.expect("an upstream");
        let (mut fresh, mut stale) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            let (mut guards, _) = all(&pool);
            // Nothing is read: as far as the pool knows the peer is silent from here on.
            std::thread::sleep(SILENCE + Duration::from_millis(200));
            for guard in &mut guards {
                guard.write_all(b"!").await.expect("alive");
            }
            // The kernel hears the acknowledgement, the pool does not.
            std::thread::sleep(Duration::from_millis(100));
            for guard in guards {
                guard.release_unanswered();
            }
            let (guards, took) = all(&pool);
            stale.push(took);
            drop(guards);
            fresh.push(all(&pool).1);
        }
        (Spread::of(fresh), Spread::of(stale))
    })
}
