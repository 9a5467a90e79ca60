//! The same load under faults, through livepool and through what its users would pick instead: errors, and
//! the longest wait of anybody.
//!
//! ```sh
//! cargo bench -p livepool-throughput --bench faults
//! cargo bench -p livepool-throughput --bench faults -- redis
//! ```
//!
//! Each contender as it comes, without settings of its own but the size. 32 callers ask without a pause; each
//! asks for something else, so that an answer to somebody else shows.

#![allow(missing_docs, unreachable_pub, missing_debug_implementations)]

#[path = "faults/contenders.rs"]
mod contenders;
#[path = "faults/relay.rs"]
mod relay;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use contenders::{Contender, Server};
use relay::Relay;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CALLERS: u64 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// All connections there are fall silent, in both directions; new ones work.
    Silence,
    /// The server is killed, and is back after a second.
    Restart,
    /// One caller in ten gives up, within a millisecond.
    GivenUp,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Silence, Self::Restart, Self::GivenUp];

    fn name(self) -> &'static str {
        match self {
            Self::Silence => "connections fall silent",
            Self::Restart => "server killed, back after 1 s",
            Self::GivenUp => "10 % of callers give up",
        }
    }
}

/// What became of the requests.
#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    errors: AtomicUsize,
    crossed: AtomicUsize,
    /// Without an answer or an error when it was over.
    unanswered: AtomicUsize,
    longest: Mutex<Duration>,
}

/// A request that is under way.
struct Asked<'a> {
    tally: &'a Tally,
    began: Instant,
    is_over: bool,
    gives_up: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.gives_up {
            return;
        }
        let mut longest = self.tally.longest.lock().expect("not poisoned");
        *longest = longest.max(self.began.elapsed());
        if !self.is_over {
            self.tally.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn main() {
    // `cargo test --benches` only wants to see that everything runs.
    let measures = std::env::args().any(|arg| arg == "--bench");
    let (before, after) = match measures {
        true => (Duration::from_secs(1), Duration::from_secs(12)),
        false => (Duration::from_millis(20), Duration::from_millis(60)),
    };
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut figures = Vec::new();
    for (name, start) in contenders::SERVERS {
        if !(only.is_empty() || only.iter().any(|only| name.starts_with(&**only))) {
            continue;
        }
        let mut server = start();
        for fault in Fault::ALL {
            for make in server.contenders() {
                let found = runtime.block_on(run(&mut *server, make, fault, before, after));
                println!("{name:<10} {:<30} {found}", fault.name());
                figures.push(json!({ "server": name, "fault": fault.name(), "found": found }));
            }
        }
    }
    if measures && only.is_empty() {
        save(&Value::Array(figures));
    }
}

async fn run(
    server: &mut dyn Server,
    make: contenders::Make,
    fault: Fault,
    before: Duration,
    after: Duration,
) -> Value {
    let relay = Relay::start(server.addr()).await;
    let addr = if fault == Fault::Silence { relay.addr() } else { server.addr() };
    let contender = make(server.url(addr)).await;
    let (tally, is_over) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (contender, tally) = (contender.clone(), Arc::clone(&tally));
        let is_over = Arc::clone(&is_over);
        callers.spawn(async move { ask(caller, &contender, &tally, &is_over, fault).await });
    }
    tokio::time::sleep(before).await;
    match fault {
        Fault::Silence => relay.silence(),
        Fault::Restart => {
            tokio::task::block_in_place(|| server.kill());
            tokio::time::sleep(before.min(Duration::from_secs(1))).await;
            tokio::task::block_in_place(|| server.start_again());
        }
        Fault::GivenUp => {}
    }
    tokio::time::sleep(after).await;
    is_over.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(20)).await;
    callers.shutdown().await;
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    json!({
        "contender": contender.name,
        "answered": count(&tally.answered),
        "errors": count(&tally.errors),
        "unanswered": count(&tally.unanswered),
        "crossed": count(&tally.crossed),
        "longest": tally.longest.lock().expect("not poisoned").as_secs_f64(),
    })
}

async fn ask(
    caller: u64,
    contender: &Contender,
    tally: &Tally,
    is_over: &AtomicBool,
    fault: Fault,
) {
    let mut number = caller;
    while !is_over.load(Ordering::Relaxed) {
        number += CALLERS;
        let gives_up = fault == Fault::GivenUp && number.is_multiple_of(10);
        let mut asked = Asked { tally, began: Instant::now(), is_over: false, gives_up };
        let request = (contender.ask)(number % contenders::TAGS);
        if gives_up {
            let limit = Duration::from_micros(number.wrapping_mul(7919) % 1000);
            let _given_up = tokio::time::timeout(limit, request).await;
            continue;
        }
        let counter = match request.await {
            Ok(answer) if answer == (number % contenders::TAGS).to_string() => &tally.answered,
            Ok(_) => &tally.crossed,
            Err(_) => &tally.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        asked.is_over = true;
        if std::ptr::eq(counter, &tally.errors) {
            // As a caller would who means well.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Where the other benches leave their figures, for the report.
fn save(figures: &Value) {
    let program = std::env::current_exe().expect("a program");
    // target/release/deps/program
    let folder = program.ancestors().nth(3).expect("in a target folder").join("livepool-bench");
    std::fs::create_dir_all(&folder).expect("a writable target folder");
    std::fs::write(folder.join("faults.json"), format!("{figures:#}\n")).expect("writable");
}
