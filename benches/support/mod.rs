//! What the benches share: whom livepool is measured beside, what they connect to, and how.

#![allow(dead_code, unreachable_pub, missing_debug_implementations)]

pub mod contenders;
pub mod crowd;
pub mod load;
pub mod paired;
pub mod proc;
pub mod results;
pub mod streams;
pub mod upstream;

use tokio::runtime::{Builder, Runtime};

/// Both kinds of runtime that programs have. `multi_thread` with two workers, as many as the
/// machine of the report has cores.
pub fn runtimes() -> [(&'static str, Runtime); 2] {
    let current = Builder::new_current_thread().enable_all().build();
    let multi = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    [("current_thread", current.expect("a runtime")), ("multi_thread", multi.expect("a runtime"))]
}

/// Installs a recorder, since counting is part of the price. A server's exporter runs the upkeep;
/// here whoever measures does, outside what is measured.
pub fn install_recorder() -> metrics_exporter_prometheus::PrometheusHandle {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).expect("the only recorder");
    handle
}

/// Whether figures are wanted. `cargo test --benches` only wants to see that everything runs.
pub fn measures() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}
