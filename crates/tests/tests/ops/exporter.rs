//! An exporter as a program has it: `examples/metrics_server.rs`, on a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// Installs the recorder of this process, with the buckets that `docs/metrics.md` proposes, and serves
/// what it has until the process ends.
pub fn start() -> SocketAddr {
    let ages = [1.0, 10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
    let times = [0.0001, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let ages_of = |name: &str| Matcher::Full(name.to_owned());
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(ages_of("livepool_connection_age_seconds"), &ages)
        .and_then(|all| {
            all.set_buckets_for_metric(ages_of("livepool_listener_connection_age_seconds"), &ages)
        })
        .and_then(|all| all.set_buckets_for_metric(Matcher::Prefix("livepool_".into()), &times))
        .unwrap()
        .install_recorder()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        loop {
            // It fails while the process is out of descriptors, which a test wants.
            let Ok((mut client, _)) = listener.accept() else {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            };
            // Its head fits into one read, and nothing in it matters.
            let _ = client.read(&mut [0; 4096]);
            metrics.run_upkeep();
            let page = metrics.render();
            let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            let _ = client.write_all(format!("{head}{page}").as_bytes());
        }
    });
    addr
}
