//! The figures that livepool is held to, each within one run: contenders take turns, slice by slice,
//! in one process.
//!
//! ```sh
//! cargo bench -p livepool-benches --bench goals
//! cargo bench -p livepool-benches --bench goals -- alone streams
//! ```
//!
//! Those about ten thousand connections are in `scale`.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use support::contenders::{self, BOUNDED, Check, UNBOUNDED, WAIT};
use support::load::{Load, waits};
use support::paired::{Entry, Plan, Spread, Times};
use support::streams::{self, Bounded, Kind};
use support::{results, upstream};
use tokio::runtime::Runtime;

/// Connections, where nobody has to wait for one.
const SIZE: usize = 16;
/// What is not faster than this is not worth a comparison.
const MILLISECOND: Duration = Duration::from_millis(1);

fn main() {
    let plan = if support::measures() {
        Plan { turns: 101, slice: Duration::from_millis(10) }
    } else {
        Plan { turns: 1, slice: Duration::from_micros(100) }
    };
    let upkeep = support::install_recorder();
    let mut findings = Findings::default();
    let runtimes = support::runtimes();
    // Some of them by name, for whoever works on one; the report is of all.
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |group: &str| only.is_empty() || only.iter().any(|name| name == group);
    for (group, run) in GROUPS {
        for (kind, runtime) in runtimes.iter().filter(|_| is_wanted(group)) {
            run(&mut findings, plan, kind, runtime, &upkeep);
        }
    }
    if only.is_empty() {
        results::save("goals", &Value::Array(findings.groups));
    }
}

type Group = fn(&mut Findings, Plan, &str, &Runtime, &PrometheusHandle);

const GROUPS: &[(&str, Group)] =
    &[("alone", alone), ("together", together), ("far_away", far_away), ("streams", streams)];

fn alone(
    findings: &mut Findings,
    plan: Plan,
    kind: &str,
    runtime: &Runtime,
    upkeep: &PrometheusHandle,
) {
    let addr = upstream::echo();
    let live = contenders::livepool(addr, SIZE);
    let plain = contenders::deadpool(addr, SIZE, Check::Nothing, UNBOUNDED);
    let careful = contenders::deadpool(addr, SIZE, Check::Peek, BOUNDED);
    let asking = contenders::deadpool(addr, SIZE, Check::Ping, BOUNDED);
    let bb8 = runtime.block_on(contenders::bb8(addr, SIZE as u32, Check::Ping));
    let bare = runtime.block_on(tokio::net::TcpStream::connect(addr)).expect("an upstream");
    let times = plan.run(vec![
        Entry::new("livepool", |n| {
            let took = Load::Alone.run(runtime, &live, n);
            upkeep.run_upkeep();
            took
        }),
        Entry::new("hand-written", |n| Load::Alone.run(runtime, &careful, n)),
        Entry::new("deadpool", |n| Load::Alone.run(runtime, &plain, n)),
        Entry::new("deadpool, ping", |n| Load::Alone.run(runtime, &asking, n)),
        Entry::new("bb8, ping", |n| Load::Alone.run(runtime, &bb8, n)),
        Entry::new("the peek alone", |n| {
            let start = Instant::now();
            for _ in 0..n {
                contenders::peek(&bare).expect("alive");
            }
            start.elapsed()
        }),
    ]);
    let beside_peek = times.map(|of| (of("livepool") - of("the peek alone")) / of("deadpool"));
    let ratio = |theirs: &str| times.ratio("livepool", theirs);
    findings.add(
        &format!("get and return, alone, {kind}"),
        &times,
        &[
            ("livepool / hand-written", 0.85, ratio("hand-written")),
            ("(livepool - its peek) / deadpool", 1.5, beside_peek),
            ("livepool / deadpool with a ping", 0.1, ratio("deadpool, ping")),
            ("livepool / bb8 with a ping", 0.1, ratio("bb8, ping")),
        ],
    );
}

fn together(
    findings: &mut Findings,
    plan: Plan,
    kind: &str,
    runtime: &Runtime,
    upkeep: &PrometheusHandle,
) {
    const TASKS: u64 = 64;
    let addr = upstream::echo();
    let live = contenders::livepool(addr, 8);
    let careful = contenders::deadpool(addr, 8, Check::Peek, BOUNDED);
    let waiting = contenders::deadpool(addr, 8, Check::Nothing, WAIT);
    let plain = contenders::deadpool(addr, 8, Check::Nothing, UNBOUNDED);
    let load = Load::Together(TASKS);
    let times = plan.run(vec![
        Entry::new("livepool", |n| {
            let took = load.run(runtime, &live, n);
            upkeep.run_upkeep();
            took
        }),
        Entry::new("hand-written", |n| load.run(runtime, &careful, n)),
        Entry::new("deadpool, wait timeout", |n| load.run(runtime, &waiting, n)),
        Entry::new("deadpool", |n| load.run(runtime, &plain, n)),
    ]);
    let mut goals = vec![("livepool / hand-written", 1.0, times.ratio("livepool", "hand-written"))];
    if kind == "multi_thread" {
        let ratio = times.ratio("livepool", "deadpool, wait timeout");
        goals.push(("livepool / deadpool with a wait timeout", 0.8, ratio));
    }
    // Nobody starves: of each turn, the longest wait beside the median.
    let unfair = (0..plan.turns.min(11)).map(|_| {
        let waits = waits(runtime, &live, TASKS, plan.slice * 5);
        waits[waits.len() - 1].as_secs_f64() / waits[waits.len() / 2].as_secs_f64()
    });
    goals.push(("the longest wait / the median", 10.0, Spread::of(unfair.collect())));
    findings.add(&format!("get and return, 64 tasks on 8, {kind}"), &times, &goals);
}

/// Where a round trip takes a millisecond.
fn far_away(
    findings: &mut Findings,
    plan: Plan,
    kind: &str,
    runtime: &Runtime,
    upkeep: &PrometheusHandle,
) {
    let addr: SocketAddr = upstream::echo_after(MILLISECOND);
    let live = contenders::livepool(addr, SIZE);
    let asking = contenders::deadpool(addr, SIZE, Check::Ping, BOUNDED);
    let bb8 = runtime.block_on(contenders::bb8(addr, SIZE as u32, Check::Ping));
    let plan = Plan { turns: plan.turns.min(31), ..plan };
    let times = plan.run(vec![
        Entry::new("livepool", |n| {
            let took = Load::Alone.run(runtime, &live, n);
            upkeep.run_upkeep();
            took
        }),
        Entry::new("deadpool, ping", |n| Load::Alone.run(runtime, &asking, n)),
        Entry::new("bb8, ping", |n| Load::Alone.run(runtime, &bb8, n)),
    ]);
    let microseconds = times.map(|of| of("livepool") / 1000.0);
    findings.add(
        &format!("get and return, the upstream 1 ms away, {kind}"),
        &times,
        &[("livepool, in µs", 1.0, microseconds)],
    );
}

fn streams(
    findings: &mut Findings,
    plan: Plan,
    kind: &str,
    runtime: &Runtime,
    _: &PrometheusHandle,
) {
    let addr = upstream::echo_in(runtime);
    let compare = |what: &str, run: &dyn Fn(Kind, &mut Option<Bounded>, u64) -> Duration| {
        let entries = Kind::ALL.map(|each| {
            let mut stream = Some(runtime.block_on(streams::connect(each, addr)));
            Entry::new(each.name(), move |n| run(each, &mut stream, n))
        });
        (format!("{what}, {kind}"), plan.run(entries.into()))
    };
    let over_raw = |times: &Times| times.map(|of| of("livepool") - of("raw"));
    let (title, times) =
        compare("a read that is ready", &|kind, _, n| streams::ready_reads(runtime, kind, n));
    findings.add(&title, &times, &[("livepool - raw, in ns", 2.0, over_raw(&times))]);
    let (title, times) = compare("a read that waits", &|_, stream, n| {
        streams::pending_reads(runtime, stream.as_mut().expect("there"), n)
    });
    findings.add(&title, &times, &[("livepool - raw, in ns", 30.0, over_raw(&times))]);
    let (title, times) =
        compare("a byte there and back", &|_, stream, n| streams::ping_pong(runtime, stream, n));
    findings.add(&title, &times, &[("livepool / raw", 1.01, times.ratio("livepool", "raw"))]);
}

/// What was found, group by group.
#[derive(Default)]
struct Findings {
    groups: Vec<Value>,
}

impl Findings {
    fn add(&mut self, title: &str, times: &Times, goals: &[(&str, f64, Spread)]) {
        println!("{title}:");
        for name in times.names() {
            let Spread { low, median, high } = times.of(name);
            println!("  {name:<24} {median:>10.1} ns  [{low:.1} .. {high:.1}]");
        }
        for (what, goal, Spread { low, median, high }) in goals {
            let met = if median <= goal { "met" } else { "NOT met" };
            println!("  {what}: {median:.3} [{low:.3} .. {high:.3}], goal {goal}: {met}");
        }
        let spread = |Spread { low, median, high }: Spread| json!([low, median, high]);
        let all: Vec<Value> = times
            .names()
            .iter()
            .map(|name| json!({ "name": name, "nanos": spread(times.of(name)) }))
            .collect();
        let goals: Vec<Value> = goals
            .iter()
            .map(|(what, goal, found)| json!({ "what": what, "goal": goal, "found": spread(*found) }))
            .collect();
        self.groups.push(json!({ "title": title, "times": all, "goals": goals }));
    }
}
