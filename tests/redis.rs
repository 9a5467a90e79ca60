//! The quickstart against a real Redis, started here on a private port.
#![cfg(unix)]

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livepool_testkit::port;

/// A `redis-server` of our own; killed when dropped.
struct Redis {
    process: Child,
    addr: SocketAddr,
}

impl Redis {
    fn start() -> Self {
        let addr = port::local(port::free_port());
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing; ./scripts/test installs it or says how to");
        let redis = Self { process, addr };
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "redis-server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_quickstart_talks_to_a_real_redis() {
    let redis = Redis::start();
    // Examples are built beside the tests, by `cargo test` without a selection and by scripts/test.
    let tests = std::env::current_exe().unwrap();
    let quickstart = tests.ancestors().nth(2).unwrap().join("examples/quickstart");
    let output = Command::new(&quickstart)
        .args(["--upstream", &redis.addr.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("{error}; run `cargo build --examples` first"));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for shown in [
        "keepalive 15s + 5s * 3",
        "1000 PINGs over 1 connection(s)",
        "the pool evicted 4 (peer_closed)",
        "read timed out after 300.0ms",
        "Discarded(OpTimeout)",
        "each read its own +PONG",
        "livepool_evictions_total{pool=\"quickstart\",reason=\"peer_closed\"} 4",
        "livepool_timeouts_total{pool=\"quickstart\",operation=\"read\"} 1",
        "livepool_closed_total{pool=\"quickstart\",reason=\"unfinished\"} 1",
    ] {
        assert!(text.contains(shown), "{shown:?} is missing in:\n{text}");
    }
}
