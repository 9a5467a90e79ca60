//! How long after its peer's close an idle connection is evicted, among thousands of others.
//!
//! Figures: `cargo test --release --test eviction_latency -- --nocapture`. Nothing is asserted about
//! absolute times; what has to hold is that every single close is noticed without a checkout, and
//! that ten times as many idle connections do not make it ten times as slow.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use livepool::{CloseReason, Config, ConnId, Event, PeerAddr, Pool};
use livepool_testkit::descriptors::may_have;
use livepool_testkit::listen;

/// For both tests at the same time: ten thousand connections, one thousand, and what else is open.
const DESCRIPTORS: u64 = 11_200;

/// Says to a re-run of this very test program that it is the upstream.
const ROLE: &str = "LIVEPOOL_TEST_UPSTREAM";

/// An upstream in a process of its own: both ends of ten thousand connections do not fit into the
/// descriptors of one. It closes the connections it is told, and says when.
struct Upstream {
    process: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
    addr: SocketAddr,
}

impl Upstream {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["the_upstream_in_a_process_of_its_own", "--exact", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (tell, answers) = mpsc::channel();
        std::thread::spawn(move || {
            // Among its lines is what the test harness prints.
            for line in output.lines().map_while(Result::ok) {
                if let Some(at) = line.find('@') {
                    let _ = tell.send(line[at + 1..].to_owned());
                }
            }
        });
        let addr = answers.recv_timeout(Duration::from_secs(10)).unwrap().parse().unwrap();
        Self { process, orders, answers, addr }
    }

    /// Ends the connection of this client; the time of it.
    fn end(&mut self, client: SocketAddr, reset: bool) -> SystemTime {
        writeln!(self.orders, "{client} {reset}").unwrap();
        let nanos = self.answers.recv_timeout(Duration::from_secs(10)).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.parse().unwrap())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test but the other process; on its own it does nothing.
#[test]
fn the_upstream_in_a_process_of_its_own() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let listener = listen("127.0.0.1:0".parse().unwrap());
    listener.set_nonblocking(false).unwrap();
    println!("@{}", listener.local_addr().unwrap());
    let sockets = Arc::new(Mutex::new(HashMap::new()));
    let accepted = Arc::clone(&sockets);
    std::thread::spawn(move || {
        loop {
            let (stream, client) = listener.accept().expect("there are descriptors");
            accepted.lock().unwrap().insert(client, stream);
        }
    });
    for order in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (client, reset) = order.split_once(' ').unwrap();
        let client: SocketAddr = client.parse().unwrap();
        let socket = loop {
            // Connected is not yet accepted.
            match sockets.lock().unwrap().remove(&client) {
                Some(socket) => break socket,
                None => std::thread::yield_now(),
            }
        };
        if reset == "true" {
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        drop(socket);
        println!("@{}", now.as_nanos());
    }
}

/// Computes for 100 µs, lets others run, and so on.
async fn be_busy() {
    loop {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
        tokio::task::yield_now().await;
    }
}

/// Has one after the other of `closes` out of `idle` connections ended, and measures each, while so
/// many tasks of the runtime are busy.
async fn measure(
    what: &str,
    idle: usize,
    closes: usize,
    reset: bool,
    busy: usize,
) -> Vec<Duration> {
    let mut upstream = Upstream::start();
    let (tell, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let observer = move |_: &str, event: &Event| {
        if let Event::Closed { conn, reason, .. } = event {
            let _ = tell.send((*conn, *reason, SystemTime::now()));
        }
    };
    let config = Config::new(upstream.addr.to_string()).with_max_size(idle);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    let mut guards = Vec::new();
    for _ in 0..idle {
        guards.push(pool.get().await.unwrap());
    }
    let victims: Vec<(ConnId, SocketAddr)> = guards
        .iter()
        .step_by(idle / closes)
        .map(|conn| match conn.local_addr() {
            PeerAddr::Tcp(addr) => (conn.id(), *addr),
            other => panic!("{other}"),
        })
        .collect();
    drop(guards);
    assert_eq!(pool.status().idle, idle);
    // Not before: a thousand dials among them would take minutes.
    let others: Vec<_> = (0..busy).map(|_| tokio::spawn(be_busy())).collect();
    let mut times = Vec::new();
    for (victim, client) in victims {
        // Off this runtime, which is to be quiet, or busy with something else, meanwhile.
        let order = move || (upstream.end(client, reset), upstream);
        let (time, back) = tokio::task::spawn_blocking(order).await.unwrap();
        upstream = back;
        let found = tokio::time::timeout(Duration::from_secs(10), closed.recv()).await;
        let (conn, reason, at) = found.expect("nobody noticed").unwrap();
        let expected = if reset { CloseReason::Reset } else { CloseReason::PeerClosed };
        assert_eq!((conn, reason), (victim, expected));
        times.push(at.duration_since(time).unwrap_or_default());
    }
    others.iter().for_each(tokio::task::JoinHandle::abort);
    times.sort();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let how = if reset { "RST" } else { "FIN" };
    println!("{what}, {idle} idle: {} × {how}, p50 {median:.0?}, p99 {p99:.0?}", times.len());
    times
}

#[tokio::test]
async fn a_single_close_among_ten_thousand_is_noticed_as_among_one_thousand() {
    if !may_have(DESCRIPTORS, "a_single_close_among_ten_thousand_is_noticed_as_among_one_thousand")
    {
        return;
    }
    let few = measure("quiet", 1_000, 200, false, 0).await;
    let many = measure("quiet", 10_000, 200, false, 0).await;
    assert_eq!(measure("quiet", 1_000, 200, true, 0).await.len(), 200);
    assert_eq!((few.len(), many.len()), (200, 200));
    // Independent of the number, in principle. Five, because other programs share the machine.
    let (few, many) = (few[100], many[100]);
    assert!(many <= 5 * few + Duration::from_millis(2), "median {few:?} became {many:?}");
}

#[tokio::test]
async fn every_close_is_noticed_while_the_runtime_is_busy() {
    if !may_have(DESCRIPTORS, "every_close_is_noticed_while_the_runtime_is_busy") {
        return;
    }
    let times = measure("200 tasks of 100 µs", 1_000, 50, false, 200).await;
    assert_eq!(times.len(), 50);
}
