//! Ten thousand idle connections: what they cost in memory and at rest, how soon one that ends is
//! evicted, and what the death of all of them at once does to others.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench scale
//! ```
//!
//! The upstream is a process of its own, at ten loopback addresses. `LIVEPOOL_IDLE=n` asks for
//! another number of connections; each needs a descriptor.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use livepool::{Config, ConnId, Event, Guard, PeerAddr, Pool};
use serde_json::{Value, json};
use support::contenders::{self, ping};
use support::crowd::{Crowd, Ends};
use support::{proc, results, upstream};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Says to a re-run of this program that it is to measure bare streams.
const BARE: &str = "LIVEPOOL_BENCH_BARE";

fn main() {
    support::crowd::serve_if_asked();
    if let Ok(addrs) = std::env::var(BARE) {
        return bare_streams(&addrs);
    }
    let idle = match std::env::var("LIVEPOOL_IDLE") {
        Ok(idle) => idle.parse().expect("LIVEPOOL_IDLE is a number"),
        Err(_) if support::measures() => 10_000,
        Err(_) => 100,
    };
    let upkeep = support::install_recorder();
    let mut figures = json!({ "idle": idle });
    for (kind, runtime) in &support::runtimes() {
        println!("{idle} idle connections, {kind}:");
        figures[*kind] = measure(runtime, idle);
        upkeep.run_upkeep();
    }
    results::save("scale", &figures);
}

/// Connections that were closed, and when.
type Closed = tokio::sync::mpsc::UnboundedReceiver<(ConnId, SystemTime)>;

fn measure(runtime: &Runtime, idle: usize) -> Value {
    let bare = bare(idle);
    let crowd = Crowd::start(10);
    let (memory, kernel) = (proc::resident(), proc::slab());
    let (pool, mut closed) = runtime.block_on(full(&crowd, Config::default(), idle));
    let each = |after: u64, before: u64| after.saturating_sub(before) / idle as u64;
    let ours = each(proc::resident(), memory);
    // Both ends are on this machine.
    let kernel = each(proc::slab(), kernel) / 2;
    println!("  memory of each: {ours} B here ({bare} B without a pool), {kernel} B in the kernel");
    let rest = runtime.block_on(at_rest("with idle checks", Duration::from_secs(60)));
    let (crowd, eviction) = runtime.block_on(one_by_one(crowd, &pool, &mut closed));
    let death = runtime.block_on(all_at_once(crowd, &pool, &mut closed));
    let unchecked = {
        let crowd = Crowd::start(10);
        let config = Config::default().with_max_silence(None);
        let _pool = runtime.block_on(full(&crowd, config, idle));
        runtime.block_on(at_rest("without `max_silence`", Duration::from_secs(20)))
    };
    json!({
        "unchecked": unchecked,
        "memory": { "livepool": ours, "bare": bare, "kernel": kernel },
        "rest": rest,
        "eviction": eviction,
        "death": death,
    })
}

/// A pool with so many idle connections.
async fn full(crowd: &Crowd, config: Config, size: usize) -> (Pool, Closed) {
    let (tell, closed) = tokio::sync::mpsc::unbounded_channel();
    let config = config
        .with_name("crowd")
        .with_upstream(crowd.addrs.iter().map(ToString::to_string))
        .with_max_size(size)
        .with_max_connecting(16);
    let observer = move |_: &str, event: &Event| {
        if let Event::Closed { conn, .. } = event {
            let _ = tell.send((*conn, SystemTime::now()));
        }
    };
    let pool = Pool::builder(config).observer(observer).build().expect("valid");
    pool.warm_up(size).await.expect("an upstream");
    (pool, closed)
}

/// What a tokio stream takes without a pool, in a process of its own: memory that was used once
/// would be used again.
fn bare(idle: usize) -> u64 {
    let crowd = Crowd::start(10);
    let addrs: Vec<_> = crowd.addrs.iter().map(ToString::to_string).collect();
    let program = std::env::current_exe().expect("a program");
    let output = Command::new(program)
        .env(BARE, format!("{idle} {}", addrs.join(" ")))
        .output()
        .expect("the same program again");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().expect("a number")
}

fn bare_streams(order: &str) {
    let mut words = order.split(' ');
    let idle: usize = words.next().expect("a number").parse().expect("a number");
    let addrs: Vec<SocketAddr> = words.map(|addr| addr.parse().expect("an address")).collect();
    let (_, runtime) = &support::runtimes()[0];
    runtime.block_on(async {
        let before = proc::resident();
        let mut streams = Vec::with_capacity(idle);
        for at in 0..idle {
            streams.push(TcpStream::connect(addrs[at % addrs.len()]).await.expect("an upstream"));
        }
        println!("{}", proc::resident().saturating_sub(before) / idle as u64);
    });
}

/// What it costs to do nothing.
async fn at_rest(how: &str, time: Duration) -> Value {
    let time = if support::measures() { time } else { Duration::from_millis(100) };
    let (user, system) = proc::cpu();
    let (_, interrupts) = proc::machine();
    tokio::time::sleep(time).await;
    let percent = |used: Duration| 100.0 * used.as_secs_f64() / time.as_secs_f64();
    let (user, system) = (percent(proc::cpu().0 - user), percent(proc::cpu().1 - system));
    let interrupts = percent(proc::machine().1 - interrupts);
    println!(
        "  at rest {how}, {time:?}: {:.2} % of a core ({user:.2} % its own, {system:.2} % in system \
         calls); the machine's interrupts {interrupts:.2} %",
        user + system
    );
    json!({ "user": user, "system": system, "interrupts": interrupts })
}

/// One FIN at a time, until the event of its eviction.
async fn one_by_one(mut crowd: Crowd, pool: &Pool, closed: &mut Closed) -> (Crowd, Value) {
    let mut guards = Vec::new();
    while let Some(guard) = pool.try_get() {
        guards.push(guard);
    }
    let many = if support::measures() { 500 } else { 5 };
    let step = (guards.len() / many).max(1);
    let victims: Vec<Ends> = guards.iter().step_by(step).map(ends).collect();
    drop(guards);
    let mut times = Vec::new();
    for victim in victims {
        // In a thread of its own: this runtime is to be as quiet as it can be.
        let order = move || (crowd.end(victim), crowd);
        let (time, back) = tokio::task::spawn_blocking(order).await.expect("no panic");
        crowd = back;
        let (_, seen) = closed.recv().await.expect("the pool lives");
        times.push(seen.duration_since(time).unwrap_or_default());
    }
    let spread = percentiles(times);
    println!("  a FIN to its eviction: {}", show(&spread));
    (crowd, spread)
}

fn ends(guard: &Guard) -> Ends {
    match (guard.local_addr(), guard.peer_addr()) {
        (PeerAddr::Tcp(client), PeerAddr::Tcp(server)) => (*client, *server),
        other => panic!("{other:?} are no TCP addresses"),
    }
}

/// The end of the upstream's process, and what it does to a program that goes on with another one.
async fn all_at_once(mut crowd: Crowd, pool: &Pool, closed: &mut Closed) -> Value {
    let other = contenders::livepool(upstream::echo(), 4);
    let normal = exchanges(&other, tokio::time::sleep(Duration::from_secs(2))).await;
    println!("  an exchange with another upstream: {}", show(&normal["exchange"]));
    println!("    its checkout: {}", show(&normal["checkout"]));
    let all = pool.status().idle;
    let start = Instant::now();
    let dying = tokio::task::spawn_blocking(move || {
        crowd.kill();
        crowd
    });
    let during = exchanges(&other, async {
        for _ in 0..all {
            closed.recv().await.expect("the pool lives");
        }
    })
    .await;
    let took = start.elapsed();
    drop(dying.await);
    println!("  the same while all {all} die: {}", show(&during["exchange"]));
    println!("    its checkout: {}", show(&during["checkout"]));
    println!("  all {all} evicted {took:.0?} after the order to kill their process");
    let p99 = |of: &Value| of["exchange"]["p99"].as_f64().expect("a number");
    let ratio = p99(&during) / p99(&normal);
    println!("  p99 of the exchange while all die / normal: {ratio:.1}");
    json!({ "evicted": took.as_secs_f64(), "normal": normal, "during": during, "ratio": ratio })
}

/// One after the other, until something has happened: how long each took, and its checkout alone.
async fn exchanges(pool: &Pool, until: impl Future<Output = ()>) -> Value {
    let over = Arc::new(AtomicBool::new(false));
    let task = tokio::spawn({
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        async move {
            let (mut checkouts, mut times) = (Vec::new(), Vec::new());
            // Once at least, however busy the machine is.
            loop {
                let start = Instant::now();
                let mut conn = pool.get().await.expect("a connection");
                checkouts.push(start.elapsed());
                ping(&mut *conn).await.expect("an echo");
                conn.release();
                times.push(start.elapsed());
                if over.load(Ordering::Acquire) {
                    break (checkouts, times);
                }
            }
        }
    });
    until.await;
    over.store(true, Ordering::Release);
    let (checkouts, times) = task.await.expect("no panic");
    json!({ "checkout": percentiles(checkouts), "exchange": percentiles(times) })
}

/// In seconds.
fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64();
    json!({ "count": times.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

fn show(spread: &Value) -> String {
    let at = |name: &str| Duration::from_secs_f64(spread[name].as_f64().expect("a number"));
    let (p50, p99, max) = (at("p50"), at("p99"), at("max"));
    format!("p50 {p50:.0?}, p99 {p99:.0?}, longest {max:.0?}, of {}", spread["count"])
}
