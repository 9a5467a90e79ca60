//! The figures that livepool promises, each as a ratio in one run: contenders take turns, slice by
//! slice, in one process.
//!
//! ```sh
//! cargo bench --bench goals
//! ```
//!
//! The figures also go to `target/livepool-bench/goals.json`, from which `scripts/bench` makes the
//! report.

mod support;

use std::time::Duration;

use support::contenders::{self, BOUNDED, Check, UNBOUNDED, WAIT};
use support::paired::{Entry, Plan, Spread, Times};
use support::{load, upstream};

/// As in the engine's first prototype: enough that nobody waits.
const SIZE: usize = 16;

fn main() {
    let plan = if support::measures() {
        Plan { turns: 101, slice: Duration::from_millis(10) }
    } else {
        Plan { turns: 1, slice: Duration::from_micros(100) }
    };
    let upkeep = support::install_recorder();
    for (kind, runtime) in support::runtimes() {
        let addr = upstream::echo();
        let live = runtime.block_on(async { contenders::livepool(addr, SIZE) });
        let plain = contenders::deadpool(addr, SIZE, Check::Nothing, UNBOUNDED);
        let careful = contenders::deadpool(addr, SIZE, Check::Peek, BOUNDED);
        let asking = contenders::deadpool(addr, SIZE, Check::Ping, BOUNDED);
        let bb8 = runtime.block_on(contenders::bb8(addr, SIZE as u32, Check::Ping));
        let bare = runtime.block_on(tokio::net::TcpStream::connect(addr)).expect("an upstream");
        let times = plan.run(vec![
            Entry::new("livepool", |n| {
                let took = load::alone(&runtime, &live, n);
                upkeep.run_upkeep();
                took
            }),
            Entry::new("hand-written", |n| load::alone(&runtime, &careful, n)),
            Entry::new("deadpool", |n| load::alone(&runtime, &plain, n)),
            Entry::new("deadpool, ping", |n| load::alone(&runtime, &asking, n)),
            Entry::new("bb8, ping", |n| load::alone(&runtime, &bb8, n)),
            Entry::new("peek", |n| {
                let start = std::time::Instant::now();
                for _ in 0..n {
                    contenders::peek(&bare).expect("alive");
                }
                start.elapsed()
            }),
        ]);
        print_all(kind, "alone", &times);
        print("livepool / hand-written", 0.85, times.ratio("livepool", "hand-written"));
        let rest =
            |time: &dyn Fn(&str) -> f64| (time("livepool") - time("peek")) / time("deadpool");
        print("(livepool - peek) / deadpool", 1.5, times.map(rest));
        print("livepool / deadpool with ping", 0.1, times.ratio("livepool", "deadpool, ping"));
        print("livepool / bb8 with ping", 0.1, times.ratio("livepool", "bb8, ping"));
    }
    for (kind, runtime) in support::runtimes() {
        let addr = upstream::echo();
        let live = runtime.block_on(async { contenders::livepool(addr, 8) });
        let careful = contenders::deadpool(addr, 8, Check::Peek, BOUNDED);
        let waiting = contenders::deadpool(addr, 8, Check::Nothing, WAIT);
        let plain = contenders::deadpool(addr, 8, Check::Nothing, UNBOUNDED);
        let times = plan.run(vec![
            Entry::new("livepool", |n| {
                let took = load::together(&runtime, &live, 64, n);
                upkeep.run_upkeep();
                took
            }),
            Entry::new("hand-written", |n| load::together(&runtime, &careful, 64, n)),
            Entry::new("deadpool, wait", |n| load::together(&runtime, &waiting, 64, n)),
            Entry::new("deadpool", |n| load::together(&runtime, &plain, 64, n)),
        ]);
        print_all(kind, "64 tasks on 8", &times);
        print("livepool / hand-written", 0.8, times.ratio("livepool", "hand-written"));
        print("livepool / deadpool, wait", 0.8, times.ratio("livepool", "deadpool, wait"));
        let waits = load::waits(&runtime, &live, 64, plan.slice * 20);
        let (middle, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        let p999 = waits[(waits.len() - 1) * 999 / 1000];
        println!("  waits: median {middle:?}, p99.9 {p999:?}, longest {longest:?}");
    }
}

fn print_all(kind: &str, what: &str, times: &Times) {
    println!("{what}, {kind}:");
    for name in times.names() {
        let Spread { low, median, high } = times.of(name);
        println!("  {name:<20} {median:>9.1} ns  [{low:.1} .. {high:.1}]");
    }
}

fn print(what: &str, goal: f64, Spread { low, median, high }: Spread) {
    let met = if median <= goal { "met" } else { "NOT met" };
    println!("  {what:<32} {median:.2} [{low:.2} .. {high:.2}], goal {goal}: {met}");
}
