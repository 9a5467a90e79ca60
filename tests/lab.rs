//! The lab proves itself: its delays are kept, its losses are counted, its faults are what they say,
//! and nothing of it is left behind.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use livepool::config::SocketConfig;
use livepool::{CloseReason, Keepalive};
use livepool_testkit::alone::alone;
use livepool_testkit::lab::{Host, Kind, Link, Verdict, Way, lab};
use livepool_testkit::not_run::not_run;
use livepool_testkit::tcp_info::tcp_info;
use livepool_testkit::{Upstream, exchange, fill, open_fds, until_blocking, watched};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const SECOND: Duration = Duration::from_secs(1);

/// `EHOSTUNREACH` at connect, `ECONNRESET` and so on are told from each other by kind.
fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Sends a line for the upstream's protocol and reads the answer.
fn ask(stream: &TcpStream, line: &str) -> std::io::Result<String> {
    let mut stream = stream;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8(answer).unwrap().trim_end().to_owned())
}

/// A connection that has been used once, so that both ends know it, and whose reads end.
fn connect(upstream: &Upstream) -> TcpStream {
    let stream = TcpStream::connect(upstream.addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(20 * SECOND)).unwrap();
    assert_eq!(ask(&stream, "ECHO hello").unwrap(), "hello");
    stream
}

/// Asks after a second of silence, then every second, and gives up after `retries` without answer.
fn keep_alive(stream: &TcpStream, retries: u32) {
    let keepalive = TcpKeepalive::new().with_time(SECOND).with_interval(SECOND);
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(retries)).unwrap();
}

#[test]
fn a_round_trip_takes_at_least_the_delay_of_every_link_both_ways() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    server.set_delay(Duration::from_millis(25));
    lab.client().set_delay(Duration::from_millis(5));
    let round_trip = Duration::from_millis(60);
    let start = Instant::now();
    let stream = TcpStream::connect(upstream.addr()).unwrap();
    assert!(start.elapsed() >= round_trip, "{:?}", start.elapsed());
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(ask(&stream, "ECHO far away").unwrap(), "far away");
        assert!(start.elapsed() >= round_trip, "{:?}", start.elapsed());
    }
    let known = Duration::from_micros(tcp_info(&stream).tcpi_rtt.into());
    assert!(known >= round_trip, "the kernel measured {known:?}");
}

/// Has the host count datagrams on this socket for as long as the process lives.
fn count_datagrams(host: &Host) -> (SocketAddr, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let addr = host.addr(0);
    let addr = host.run(move || {
        let socket = UdpSocket::bind(addr).unwrap();
        let addr = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            while socket.recv(&mut [0; 16]).is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        addr
    });
    (addr, count)
}

#[test]
fn packets_are_lost_at_the_set_rate_and_every_one_is_counted() {
    const PACKETS: u64 = 10_000;
    const BATCH: u64 = 50;
    let lab = lab!();
    let server = lab.host();
    let (addr, received) = count_datagrams(&server);
    let client = UdpSocket::bind("10.0.0.1:0").unwrap();
    for rate in [0.0, 0.02, 0.3] {
        server.set_loss(Way::In, rate);
        let (before, received_before) = (server.counts(Way::In), received.load(Ordering::SeqCst));
        for batch in 1..=PACKETS / BATCH {
            for _ in 0..BATCH {
                client.send_to(b"datagram", addr).unwrap();
            }
            // No more on the way than every queue holds: only the relay may lose any.
            until_blocking(|| {
                let now = server.counts(Way::In);
                now.seen() - before.seen() == batch * BATCH
                    && received.load(Ordering::SeqCst) - received_before
                        == now.passed - before.passed
            });
        }
        let lost = (server.counts(Way::In).lost - before.lost) as f64;
        // Binomial: five standard deviations are missed once in two million seeds, and the seed is
        // always the same.
        let (mean, deviation) =
            (PACKETS as f64 * rate, (PACKETS as f64 * rate * (1.0 - rate)).sqrt());
        println!("{lost} of {PACKETS} lost at a rate of {rate}");
        assert!((lost - mean).abs() <= 5.0 * deviation, "{lost} lost, not {mean} ± {deviation}");
    }
    assert_eq!(server.counts(Way::Out).lost, 0, "the other direction loses nothing");
}

#[test]
fn a_relay_without_cpu_loses_nothing() {
    const PACKETS: u64 = 5_000;
    let lab = lab!();
    let server = lab.host();
    let (release, released) = channel::<()>();
    server.filter(move |_| {
        let _ = released.recv();
        Verdict::Drop
    });
    let client = UdpSocket::bind("10.0.0.1:0").unwrap();
    for _ in 0..PACKETS {
        client.send_to(b"datagram", server.addr(7)).unwrap();
    }
    drop(release);
    until_blocking(|| server.counts(Way::In).seen() == PACKETS);
}

#[tokio::test]
async fn tcp_delivers_every_byte_over_a_link_that_loses_and_reorders() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    server.set_delay(Duration::from_millis(2));
    server.set_jitter(Duration::from_millis(2));
    server.set_loss(Way::In, 0.02);
    server.set_loss(Way::Out, 0.02);
    let streams: Vec<_> = (0..20)
        .map(|_| {
            let addr = upstream.addr();
            tokio::task::spawn_blocking(move || {
                let stream = TcpStream::connect(addr).unwrap();
                assert_eq!(ask(&stream, "BULK 100000").unwrap(), "x".repeat(100_000));
                tcp_info(&stream).tcpi_rcv_ooopack
            })
        })
        .collect();
    let mut out_of_order = 0;
    for stream in streams {
        out_of_order += stream.await.unwrap();
    }
    println!("out: {:?}, {out_of_order} came out of order", server.counts(Way::Out));
    assert!(server.counts(Way::Out).lost > 0);
    assert!(out_of_order > 0);
}

#[tokio::test]
async fn hundreds_of_connections_talk_at_the_same_time() {
    const CONNECTIONS: usize = 400;
    const EXCHANGES: usize = 20;
    let lab = lab!();
    let server = lab.host();
    server.set_delay(Duration::from_millis(5));
    let upstream = server.upstream();
    let start = Instant::now();
    let users = (0..CONNECTIONS).map(|user| {
        let addr = upstream.addr();
        async move {
            let mut stream = BufReader::new(tokio::net::TcpStream::connect(addr).await.unwrap());
            for _ in 0..EXCHANGES {
                let (line, mut answer) = (format!("ECHO {user}\n"), String::new());
                stream.write_all(line.as_bytes()).await.unwrap();
                stream.read_line(&mut answer).await.unwrap();
                assert_eq!(answer, format!("{user}\n"));
            }
        }
    });
    futures_util::future::join_all(users).await;
    let packets = server.counts(Way::In).seen();
    println!("{packets} packets each way in {:?}", start.elapsed());
    assert_eq!(upstream.accepted(), CONNECTIONS);
    assert!(packets >= (CONNECTIONS * EXCHANGES) as u64);
    assert!(start.elapsed() >= Duration::from_millis(10) * EXCHANGES as u32);
}

#[test]
fn a_connection_survives_a_cut_that_is_healed() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    for cut in [
        |link: &Link| link.unplug(),
        |link: &Link| link.cut(Way::In),
        |link: &Link| link.cut(Way::Out),
    ] {
        let stream = connect(&upstream);
        cut(&server);
        let before = server.counts(Way::In);
        (&stream).write_all(b"ECHO through\n").unwrap();
        // Sent, and sent again.
        until_blocking(|| server.counts(Way::In).data - before.data >= 3);
        until_blocking(|| tcp_info(&stream).tcpi_retransmits > 0);
        server.heal();
        let mut answer = [0; 8];
        (&stream).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"through\n");
    }
}

#[test]
fn an_unplugged_host_is_silent_and_keepalive_finds_it_dead() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    keep_alive(&stream, 3);
    server.unplug();
    until_blocking(|| tcp_info(&stream).tcpi_probes > 0);
    // Nobody has told us anything: the first probe is on its way, and that is all.
    stream.set_nonblocking(true).unwrap();
    assert_eq!(kind(stream.peek(&mut [0])), ErrorKind::WouldBlock);
    until_blocking(|| kind(stream.peek(&mut [0])) == ErrorKind::TimedOut);
    assert_eq!(server.counts(Way::In).probes, 3, "{:?}", server.counts(Way::In));
    assert_eq!(upstream.open(), 1, "the host knows nothing of it");
}

#[test]
fn probes_are_answered_by_a_host_that_lives() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    let before = server.counts(Way::Out);
    keep_alive(&stream, 2);
    until_blocking(|| server.counts(Way::In).probes >= 2);
    until_blocking(|| server.counts(Way::Out).acks >= before.acks + 2);
    assert_eq!(server.counts(Way::Out).data, before.data, "and nothing else is sent");
    assert_eq!(ask(&stream, "ECHO alive").unwrap(), "alive");
}

#[test]
fn a_filter_loses_exactly_what_it_names() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    keep_alive(&stream, 9);
    let lose_acks = || {
        server.filter(|packet| match (packet.way, packet.kind) {
            (Way::Out, Kind::Ack) => Verdict::Drop,
            _ => Verdict::Pass,
        });
    };
    lose_acks();
    until_blocking(|| tcp_info(&stream).tcpi_probes >= 2);
    assert!(server.counts(Way::Out).refused >= 1);
    server.heal();
    until_blocking(|| tcp_info(&stream).tcpi_probes == 0);
    lose_acks();
    assert_eq!(ask(&stream, "ECHO data").unwrap(), "data");
}

#[test]
fn a_held_packet_comes_later_than_the_others() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    server.filter(|packet| match (packet.way, packet.kind) {
        (Way::Out, Kind::Data) => Verdict::Hold(Duration::from_millis(150)),
        _ => Verdict::Pass,
    });
    let start = Instant::now();
    assert_eq!(ask(&stream, "ECHO at last").unwrap(), "at last");
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[test]
fn a_host_that_rejects_with_resets_ends_connections_and_refuses_new_ones() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    server.reject(Verdict::Reset);
    assert_eq!(kind(ask(&stream, "ECHO hello")), ErrorKind::ConnectionReset);
    assert_eq!(kind(TcpStream::connect(upstream.addr())), ErrorKind::ConnectionRefused);
    server.heal();
    connect(&upstream);
}

#[test]
fn an_unreachable_host_fails_a_connect_at_once_and_keeps_connections_waiting() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let stream = connect(&upstream);
    for verdict in [Verdict::Unreachable, Verdict::Prohibited] {
        server.reject(verdict);
        assert_eq!(kind(TcpStream::connect(upstream.addr())), ErrorKind::HostUnreachable);
        let before = server.counts(Way::In);
        (&stream).write_all(b"ECHO later\n").unwrap();
        until_blocking(|| server.counts(Way::In).refused >= before.refused + 3);
        server.heal();
        let mut answer = [0; 6];
        (&stream).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"later\n");
    }
}

#[test]
fn an_address_that_has_moved_answers_old_connections_with_rst() {
    let lab = lab!();
    let (server, spare) = (lab.host(), lab.host());
    let upstream = server.upstream();
    let addr = upstream.addr();
    let stream = connect(&upstream);
    spare.take_over(server.ip());
    // Nobody listens there yet.
    assert_eq!(kind(TcpStream::connect(addr)), ErrorKind::ConnectionRefused);
    let successor = spare.run(move || Upstream::start_on(addr));
    assert_eq!(kind(ask(&stream, "ECHO hello")), ErrorKind::ConnectionReset);
    connect(&successor);
    assert_eq!((upstream.accepted(), successor.accepted()), (1, 1));
    // And back again.
    server.take_over(server.ip());
    connect(&upstream);
    assert_eq!((upstream.accepted(), successor.accepted()), (2, 1));
}

#[test]
fn a_network_that_forgets_connections_lets_new_ones_through() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let old = connect(&upstream);
    server.forget_connections(Verdict::Drop);
    let before = server.counts(Way::In);
    (&old).write_all(b"ECHO hello\n").unwrap();
    until_blocking(|| server.counts(Way::In).refused >= before.refused + 3);
    let new = connect(&upstream);
    // Another kind of middlebox tells.
    server.forget_connections(Verdict::Reset);
    assert_eq!(kind(ask(&new, "ECHO hello")), ErrorKind::ConnectionReset);
    connect(&upstream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_finds_out_about_a_host_that_lost_its_power() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    let keepalive = Keepalive::default().with_idle(SECOND).with_interval(SECOND).with_retries(2);
    let socket = SocketConfig::default().with_keepalive(Some(keepalive));
    // The kernel alone: else the others would be asked as soon as it gives the first one up.
    let (pool, events) = watched(upstream.config().with_socket(socket).with_max_silence(None));
    fill(&pool, 3).await;
    server.unplug();
    assert_eq!(events.until_closed(3).await, [CloseReason::KeepaliveTimeout; 3]);
    server.heal();
    assert_eq!(pool.status().idle, 0);
    assert_eq!(exchange(&pool, "ECHO back").await, "back");
}

/// Threads of this process, and the network namespaces they live in.
fn threads() -> (usize, HashSet<PathBuf>) {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // A thread may end while we look.
    let lives: Vec<_> =
        tasks.filter_map(|task| std::fs::read_link(task.join("ns/net")).ok()).collect();
    (lives.len(), lives.into_iter().collect())
}

fn interfaces() -> usize {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2).count()
}

#[test]
fn nothing_is_left_of_a_lab() {
    let lab = lab!();
    drop(lab);
    // A thread that was joined may still be listed for a moment.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let (before, fds) = (threads(), open_fds());
    assert_eq!(interfaces(), 1, "only loopback");
    for _ in 0..3 {
        let lab = lab!();
        let hosts = [lab.host(), lab.host(), lab.host()];
        let upstreams = hosts.each_ref().map(Host::upstream);
        let streams = upstreams.each_ref().map(connect);
        hosts[0].unplug();
        assert_eq!(threads().1.len(), 4, "the client and three hosts");
        assert_eq!(interfaces(), 2);
        // In this order nothing waits for the unplugged host.
        drop((streams, upstreams, hosts, lab));
        until_blocking(|| threads() == before);
        assert_eq!(open_fds(), fds);
        assert_eq!(interfaces(), 1);
    }
}

#[test]
fn a_host_that_is_dropped_is_gone_from_the_network() {
    let lab = lab!();
    let (server, other) = (lab.host(), lab.host());
    let upstream = server.upstream();
    let others = other.upstream();
    let stream = connect(&upstream);
    keep_alive(&stream, 1);
    let addr = upstream.addr();
    drop((upstream, server));
    // The upstream's FIN may still have come through.
    let mut byte = [0];
    match (&stream).read(&mut byte) {
        Ok(0) => {}
        error => assert_eq!(kind(error), ErrorKind::TimedOut),
    }
    connect(&others);
    let timeout = Duration::from_millis(300);
    assert_eq!(kind(TcpStream::connect_timeout(&addr, timeout)), ErrorKind::TimedOut);
}

#[test]
fn a_filter_that_panics_fails_the_test() {
    let lab = lab!();
    let server = lab.host();
    let (tell, told) = channel();
    server.filter(move |_| {
        tell.send(()).unwrap();
        panic!("this panic is part of a test")
    });
    let client = UdpSocket::bind("10.0.0.1:0").unwrap();
    client.send_to(b"datagram", server.addr(7)).unwrap();
    told.recv().unwrap();
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| drop(lab))).is_err());
}

#[test]
#[allow(unsafe_code)]
fn a_test_that_cannot_run_fails_where_nothing_may_be_left_out() {
    if !alone("a_test_that_cannot_run_fails_where_nothing_may_be_left_out") {
        return;
    }
    // SAFETY: this process runs this test only, in one thread.
    unsafe { std::env::set_var("LIVEPOOL_NO_SKIP", "1") };
    assert!(std::panic::catch_unwind(|| not_run("a test", "a reason")).is_err());
    // SAFETY: as above.
    unsafe { std::env::remove_var("LIVEPOOL_NO_SKIP") };
    not_run("nothing", "this line is part of a test");
}

#[tokio::test]
async fn a_caller_waits_for_a_far_peer_as_long_as_its_answer_needs_before_another_is_made() {
    let lab = lab!();
    let server = lab.host();
    let upstream = server.upstream();
    // The answer to a probe takes longer than the caller's patience.
    server.set_delay(Duration::from_millis(200));
    let config = upstream.config().with_patience(Duration::from_millis(50));
    // Where the machine stands still for a second of the first dial, there is no other one beside it.
    let config = config.with_max_connecting(1);
    let (pool, events) = watched(config.with_max_silence(Some(SECOND)));
    fill(&pool, 1).await;
    // Nothing runs meanwhile: it is the checkout that finds the peer silent.
    std::thread::sleep(2 * SECOND);
    assert_eq!(exchange(&pool, "ECHO far").await, "far");
    assert_eq!(events.opened(), 1, "it lives, and was waited for");
}
