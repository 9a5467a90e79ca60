//! Whole requests a second, through livepool and through what its users would pick instead: real
//! servers, one process, contenders in turn.
//!
//! ```sh
//! cargo bench -p livepool-throughput
//! cargo bench -p livepool-throughput -- postgres "redis GET, shared"
//! ```

#![allow(missing_docs, unreachable_pub, missing_debug_implementations)]

mod http;
mod http2;
mod postgres;
mod redis;
mod rounds;

use std::time::Duration;

use rounds::{Contender, Plan, compare};
use serde_json::{Value, json};

/// Connections of every exclusive pool.
const CONNECTIONS: usize = 16;

/// What is measured, with the figures it is held to.
pub struct Group {
    pub name: String,
    pub callers: &'static [usize],
    pub contenders: Vec<Contender>,
}

/// A server, which ends when it is dropped, and what is measured with it.
type Server = fn(&tokio::runtime::Runtime) -> (Box<dyn std::any::Any>, Vec<Group>);

fn main() {
    // `cargo test --benches` only wants to see that everything runs.
    let measures = std::env::args().any(|arg| arg == "--bench");
    let plan = match measures {
        true => Plan { rounds: 9, slice: Duration::from_millis(700) },
        false => Plan { rounds: 0, slice: Duration::from_millis(5) },
    };
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut figures = Vec::new();
    let servers: [(&str, Server); 4] = [
        ("redis", redis::groups),
        ("postgres", postgres::groups),
        ("http GET", http::groups),
        ("http/2", http2::groups),
    ];
    for (server, groups) in servers {
        // By the beginning of their names: "postgres", "redis GET, shared".
        let wanted =
            |name: &str| only.is_empty() || only.iter().any(|only| name.starts_with(&**only));
        if !(wanted(server) || only.iter().any(|only| only.starts_with(server))) {
            continue;
        }
        let (_server, groups) = groups(&runtime);
        for group in groups.into_iter().filter(|group| wanted(&group.name)) {
            for &callers in group.callers {
                figures.push(runtime.block_on(measure(plan, &group, callers)));
            }
        }
    }
    if measures && only.is_empty() {
        save(&Value::Array(figures));
    }
}

async fn measure(plan: Plan, group: &Group, callers: usize) -> Value {
    println!("\n{}, {callers} callers", group.name);
    let found = compare(plan, callers, &group.contenders).await;
    for one in &found {
        println!("{one}");
    }
    let found = found.iter().map(|one| {
        json!({
            "name": one.name, "per_second": one.per_second, "cpu_micros": one.cpu_micros,
            "ratio": one.ratio, "cpu_ratio": one.cpu_ratio,
            "goal": one.goal.ratio, "cpu_goal": one.goal.cpu_ratio,
        })
    });
    json!({ "what": group.name, "callers": callers, "contenders": found.collect::<Vec<_>>() })
}

/// Where the other benches leave their figures, for the report.
fn save(figures: &Value) {
    let program = std::env::current_exe().expect("a program");
    // target/release/deps/program
    let folder = program.ancestors().nth(3).expect("in a target folder").join("livepool-bench");
    std::fs::create_dir_all(&folder).expect("a writable target folder");
    std::fs::write(folder.join("throughput.json"), format!("{figures:#}\n")).expect("writable");
}
