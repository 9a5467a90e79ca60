//! What a listener promises: it can be restarted, it goes on accepting whatever clients do, and it
//! keeps nobody who vanished.
//!
//! Addresses such as 127.77.0.1 are this machine's own on Linux, like all of 127.0.0.0/8: a test
//! that binds a port a second time takes one that no other test can be given.
#![cfg(target_os = "linux")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use livepool::CloseReason::{IdleTimeout, KeepaliveTimeout};
use livepool::config::{SocketConfig, UserTimeout};
use livepool::error::BindError;
use livepool::event::{Event, Operation};
use livepool::net::PeerAddr;
use livepool::{Interrupted, Keepalive, Listener, ListenerConfig, OpTimeout, Timeouts, is_timeout};
use livepool_testkit::alone::alone;
use livepool_testkit::descriptors::allow_only;
use livepool_testkit::fault::silence;
use livepool_testkit::pair::Scratch;
use livepool_testkit::port::until_refused;
use livepool_testkit::{Events, ends, loopback_delivered, open_fds, until_blocking, until_seen};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

async fn listen(address: &str, config: &ListenerConfig) -> Listener {
    Listener::bind(address, config).await.unwrap()
}

async fn watched(address: &str, config: &ListenerConfig) -> (Listener, Events) {
    let events = Events::default();
    let listener = Listener::bind_with_observer(address, config, events.observer()).await.unwrap();
    (listener, events)
}

fn tcp(listener: &Listener) -> SocketAddr {
    match listener.local_addr() {
        PeerAddr::Tcp(addr) => *addr,
        other => panic!("{other} is not a TCP address"),
    }
}

async fn client(listener: &Listener) -> TcpStream {
    TcpStream::connect(tcp(listener)).await.unwrap()
}

/// Ends a listener. A program that another test starts has its socket, too, for as long as it is a
/// fork of this one: until then its address is taken.
fn end(listener: Listener) {
    let addr = listener.local_addr().clone();
    drop(listener);
    match addr {
        PeerAddr::Tcp(addr) => until_refused(addr),
        PeerAddr::Unix(path) => until_left(&path),
        other => panic!("{other} is neither a TCP address nor a path"),
    }
}

/// Waits until nobody takes clients at this path any more, see [`end`].
fn until_left(path: &Path) {
    until_blocking(|| std::os::unix::net::UnixStream::connect(path).is_err());
}

/// Leaves the socket file of an earlier listener, which was not ours.
fn leave(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    until_left(path);
}

/// The refusal of a second listener: the system's error and the advice.
#[track_caller]
fn refused(result: Result<Listener, BindError>) -> (ErrorKind, String) {
    let error = result.expect_err("it must be refused");
    let text = error.to_string();
    (std::io::Error::from(error).kind(), text)
}

fn accept_failures(events: &Events) -> Vec<Duration> {
    let backoff = |event: Event| match event {
        Event::AcceptFailed { backoff, .. } => Some(backoff),
        _ => None,
    };
    events.all().into_iter().filter_map(backoff).collect()
}

// Accepting.

#[tokio::test]
async fn an_accept_that_waits_too_long_times_out_and_the_listener_goes_on() {
    let limit = 7 * SECOND;
    let config = ListenerConfig::default().with_timeouts(Timeouts::default().with_accept(limit));
    let (listener, events) = watched("127.0.0.1:0", &config).await;
    tokio::time::pause();
    for round in 1..=2 {
        let start = Instant::now();
        let error = ends(listener.accept()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(is_timeout(&error));
        let timeout = OpTimeout::of(&error).expect("an OpTimeout is inside");
        assert_eq!((timeout.operation, timeout.after), (Operation::Accept, limit));
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!(events.timed_out(), vec![Operation::Accept; round], "each counted once");
    }
    tokio::time::resume();
    let _client = client(&listener).await;
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn without_a_timeout_an_accept_waits() {
    let config = ListenerConfig::default().with_timeouts(Timeouts::never());
    let (listener, events) = watched("127.0.0.1:0", &config).await;
    tokio::time::pause();
    assert!(tokio::time::timeout(3600 * SECOND, listener.accept()).await.is_err());
    assert!(events.timed_out().is_empty());
}

#[tokio::test]
async fn a_dropped_accept_loses_no_client() {
    let listener = listen("127.0.0.1:0", &ListenerConfig::default()).await;
    let mut accepted = 0;
    for _ in 0..50 {
        let client = client(&listener).await;
        // Dropped at its first poll, whether that was ready or not; then waited for.
        let first = tokio::select! {
            biased;
            stream = listener.accept() => Some(stream.unwrap()),
            () = std::future::ready(()) => None,
        };
        let stream = match first {
            Some(stream) => stream,
            None => listener.accept().await.unwrap(),
        };
        assert_eq!(*stream.peer_addr(), PeerAddr::Tcp(client.local_addr().unwrap()));
        accepted += 1;
    }
    assert_eq!(accepted, 50);
}

#[tokio::test]
async fn clients_that_reset_before_they_are_accepted_are_skipped_without_a_word() {
    let (listener, events) = watched("127.0.0.1:0", &ListenerConfig::default()).await;
    for _ in 0..100 {
        let gone = client(&listener).await;
        SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
    }
    loopback_delivered();
    let here = client(&listener).await;
    let stream = listener.accept().await.unwrap();
    assert_eq!(*stream.peer_addr(), PeerAddr::Tcp(here.local_addr().unwrap()));
    // A line in the log for each would let clients decide how fast it grows.
    assert!(accept_failures(&events).is_empty());
}

#[test]
fn being_out_of_descriptors_backs_off_and_accept_goes_on_when_some_are_free_again() {
    if !alone("being_out_of_descriptors_backs_off_and_accept_goes_on_when_some_are_free_again") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (listener, events) = watched("127.0.0.1:0", &ListenerConfig::default()).await;
        // Needs a descriptor itself, so it has to come first.
        let client = client(&listener).await;
        allow_only(64);
        let mut hogs = Vec::new();
        while let Ok(hog) = std::fs::File::open("/dev/null") {
            hogs.push(hog);
        }
        let accepting = tokio::spawn(async move { listener.accept().await });
        until_seen(|| accept_failures(&events).len(), |seen| *seen >= 4).await;
        assert!(!accepting.is_finished());
        drop(hogs);
        let stream = accepting.await.unwrap().unwrap();
        assert_eq!(*stream.peer_addr(), PeerAddr::Tcp(client.local_addr().unwrap()));
        let backoffs = accept_failures(&events);
        assert_eq!(backoffs[0], Duration::from_millis(10));
        assert!(
            backoffs.windows(2).all(|pair| pair[1] == (2 * pair[0]).min(SECOND)),
            "{backoffs:?}"
        );
    });
}

#[tokio::test]
async fn accepted_sockets_have_the_defaults_read_back() {
    let listener = listen("127.0.0.1:0", &ListenerConfig::default()).await;
    let _client = client(&listener).await;
    let report = listener.accept().await.unwrap().socket_report().unwrap();
    assert!(report.keepalive);
    assert_eq!(report.keepalive_idle, Some(15 * SECOND));
    assert_eq!(report.keepalive_interval, Some(5 * SECOND));
    assert_eq!(report.keepalive_retries, Some(3));
    assert_eq!(report.user_timeout, Some(30 * SECOND));
    assert_eq!(report.nodelay, Some(true));
    assert_eq!(report.detection_time(), Some(30 * SECOND));
}

#[tokio::test]
async fn accepted_sockets_have_the_configured_options_read_back() {
    let keepalive =
        Keepalive::default().with_idle(60 * SECOND).with_interval(10 * SECOND).with_retries(4);
    let socket = SocketConfig::default()
        .with_keepalive(keepalive)
        .with_user_timeout(UserTimeout::After(95 * SECOND))
        .with_nodelay(false)
        .with_recv_buffer(40_000)
        .with_send_buffer(30_000)
        .with_tos(0x28)
        .with_congestion("reno");
    let listener = listen("127.0.0.1:0", &ListenerConfig::default().with_socket(socket)).await;
    let _client = client(&listener).await;
    let report = listener.accept().await.unwrap().socket_report().unwrap();
    assert_eq!(report.keepalive_idle, Some(60 * SECOND));
    assert_eq!(report.keepalive_interval, Some(10 * SECOND));
    assert_eq!(report.keepalive_retries, Some(4));
    assert_eq!(report.user_timeout, Some(95 * SECOND));
    assert_eq!(report.nodelay, Some(false));
    // Linux doubles them (socket(7)).
    assert_eq!((report.recv_buffer, report.send_buffer), (80_000, 60_000));
    assert_eq!(report.tos, Some(0x28));
    assert_eq!(report.congestion.as_deref(), Some("reno"));
}

#[tokio::test]
async fn accepted_streams_have_the_configured_timeouts() {
    let timeouts = Timeouts::default().with_read(2 * SECOND).with_write(3 * SECOND);
    let config = ListenerConfig::default().with_timeouts(timeouts);
    let listener = listen("127.0.0.1:0", &config).await;
    let _client = client(&listener).await;
    assert_eq!(listener.accept().await.unwrap().timeouts(), timeouts);
}

// Binding again.

/// Whether a connection of this local port is in TIME_WAIT.
fn in_time_wait(port: u16) -> bool {
    const TIME_WAIT: &str = "06";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap(), words.nth(1).unwrap());
        local.ends_with(&format!(":{port:04X}")) && state == TIME_WAIT
    })
}

/// A listener on this address comes and goes and leaves a connection in TIME_WAIT. Returns its
/// address.
async fn leave_time_wait(address: &str, config: &ListenerConfig) -> String {
    let listener = listen(address, config).await;
    let addr = tcp(&listener);
    // While the machine has as many as it may have (`tcp_max_tw_buckets`) the kernel keeps no other.
    for _ in 0..90 {
        let mut client = client(&listener).await;
        // Who closes first has the TIME_WAIT.
        drop(listener.accept().await.unwrap());
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        drop(client);
        let comes = async {
            while !in_time_wait(addr.port()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(SECOND, comes).await.is_ok() {
            end(listener);
            return addr.to_string();
        }
    }
    panic!("no connection of {addr} is in TIME_WAIT");
}

fn without_reuse() -> ListenerConfig {
    ListenerConfig::default().with_reuse_address(false)
}

#[tokio::test]
async fn a_restart_succeeds_while_old_connections_are_in_time_wait() {
    let config = ListenerConfig::default();
    let address = leave_time_wait("127.77.0.1:0", &config).await;
    let restarted = listen(&address, &config).await;
    let _client = client(&restarted).await;
    restarted.accept().await.unwrap();
    assert!(in_time_wait(tcp(&restarted).port()), "it still is");
}

#[tokio::test]
async fn a_restart_succeeds_while_old_connections_are_open() {
    let config = ListenerConfig::default();
    let listener = listen("127.77.0.2:0", &config).await;
    let address = listener.local_addr().to_string();
    let mut old_client = client(&listener).await;
    let mut old = listener.accept().await.unwrap();
    end(listener);
    let restarted = listen(&address, &config).await;
    let _client = client(&restarted).await;
    restarted.accept().await.unwrap();
    // The old connection is not disturbed.
    old.write_all(b"x").await.unwrap();
    assert_eq!(old_client.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn without_reuse_a_restart_is_refused_and_told_that_time_wait_is_why() {
    let address = leave_time_wait("127.77.0.3:0", &ListenerConfig::default()).await;
    let (kind, text) = refused(Listener::bind(&address, &without_reuse()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    assert!(text.contains("TIME_WAIT or open"), "{text}");
    assert!(text.contains("set reuse_address = true"), "{text}");
    // The advice is good.
    listen(&address, &ListenerConfig::default()).await;
}

#[tokio::test]
async fn without_reuse_a_restart_is_refused_and_told_that_open_connections_are_why() {
    let listener = listen("127.77.0.4:0", &ListenerConfig::default()).await;
    let address = listener.local_addr().to_string();
    let _client = client(&listener).await;
    let _old = listener.accept().await.unwrap();
    end(listener);
    let (kind, text) = refused(Listener::bind(&address, &without_reuse()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("TIME_WAIT or open"), "{text}");
}

#[tokio::test]
async fn reuse_does_not_help_after_a_listener_that_did_not_have_it() {
    let address = leave_time_wait("127.77.0.5:0", &without_reuse()).await;
    let (kind, text) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("connections of one that was bound without reuse_address"), "{text}");
}

#[tokio::test]
async fn two_live_listeners_on_one_port_are_refused_with_reuse_and_without() {
    let live = listen("127.77.0.6:0", &ListenerConfig::default()).await;
    let address = live.local_addr().to_string();
    for config in [ListenerConfig::default(), without_reuse()] {
        let (kind, text) = refused(Listener::bind(&address, &config).await);
        assert_eq!(kind, ErrorKind::AddrInUse);
        assert!(text.contains("a live listener holds it"), "{text}");
        assert!(text.contains("stop it or choose another port"), "{text}");
    }
    // It was not disturbed.
    let _client = client(&live).await;
    live.accept().await.unwrap();
}

#[tokio::test]
async fn a_listener_on_every_address_keeps_one_on_a_single_address_out() {
    let everywhere = listen("0.0.0.0:0", &ListenerConfig::default()).await;
    let address = format!("127.77.0.7:{}", tcp(&everywhere).port());
    let (kind, _) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
}

#[tokio::test]
async fn reuse_port_lets_listeners_share_a_port_if_both_ask_for_it() {
    let shared = ListenerConfig::default().with_reuse_port(true);
    let first = listen("127.77.0.8:0", &shared).await;
    let address = first.local_addr().to_string();
    let (kind, _) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse, "the second one did not ask");
    let second = listen(&address, &shared).await;
    // The kernel spreads clients: none is lost, whoever gets it.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(client(&first).await);
        tokio::select! {
            stream = first.accept() => stream.unwrap(),
            stream = second.accept() => stream.unwrap(),
        };
    }
}

// Unix sockets.

#[tokio::test]
async fn a_socket_file_that_an_earlier_listener_left_is_replaced() {
    let scratch = Scratch::new();
    let address = format!("unix:{}", scratch.path("socket").display());
    end(listen(&address, &ListenerConfig::default()).await);
    assert!(scratch.path("socket").exists(), "nobody removes it");
    let listener = listen(&address, &ListenerConfig::default()).await;
    let mut client = UnixStream::connect(scratch.path("socket")).await.unwrap();
    listener.accept().await.unwrap().write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn without_reuse_a_socket_file_that_was_left_is_refused_and_explained() {
    let scratch = Scratch::new();
    let address = format!("unix:{}", scratch.path("socket").display());
    end(listen(&address, &ListenerConfig::default()).await);
    let (kind, text) = refused(Listener::bind(&address, &without_reuse()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("left by an earlier listener"), "{text}");
    assert!(scratch.path("socket").exists());
}

#[tokio::test]
async fn the_socket_file_of_a_live_listener_is_refused() {
    let scratch = Scratch::new();
    let address = format!("unix:{}", scratch.path("socket").display());
    let live = listen(&address, &ListenerConfig::default()).await;
    for config in [ListenerConfig::default(), without_reuse()] {
        let (kind, text) = refused(Listener::bind(&address, &config).await);
        assert_eq!(kind, ErrorKind::AddrInUse);
        assert!(text.contains("a live listener holds it"), "{text}");
    }
    let client = UnixStream::connect(scratch.path("socket")).await.unwrap();
    drop(client);
    live.accept().await.unwrap();
}

#[test]
fn the_socket_file_of_a_live_listener_that_is_too_busy_to_answer_is_refused_at_once() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let socket = || {
        let unix = socket2::Domain::UNIX;
        socket2::Socket::new(unix, socket2::Type::STREAM, None).unwrap()
    };
    let address = socket2::SockAddr::unix(&path).unwrap();
    let busy = socket();
    busy.bind(&address).unwrap();
    busy.listen(1).unwrap();
    // Nobody accepts: the queue fills up, and a blocking connect would now wait.
    let mut queue = Vec::new();
    loop {
        let client = socket();
        client.set_nonblocking(true).unwrap();
        match client.connect(&address) {
            Ok(()) => queue.push(client),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = format!("unix:{}", path.display());
        let bound = runtime.block_on(Listener::bind(&address, &ListenerConfig::default()));
        tell.send(refused(bound)).unwrap();
    });
    let (kind, text) = told.recv_timeout(10 * SECOND).expect("it waits for the busy listener");
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("a live listener holds it"), "{text}");
}

/// Both find a socket file that nobody has any more.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_listeners_that_start_at_once_on_a_path_one_and_only_one_gets_it() {
    const ROUNDS: usize = 3_000;
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let address = format!("unix:{}", path.display());
    for round in 0..ROUNDS {
        let _ = std::fs::remove_file(&path);
        // And what they find when nothing was left.
        if round % 4 > 0 {
            leave(&path);
        }
        let barrier = Arc::new(Barrier::new(2));
        let bind = || {
            let (barrier, address) = (Arc::clone(&barrier), address.clone());
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                barrier.wait();
                runtime.block_on(Listener::bind(&address, &ListenerConfig::default()))
            })
        };
        let both = [bind(), bind()].map(|thread| thread.join().unwrap());
        let bound: Vec<_> = both.iter().flatten().collect();
        assert_eq!(bound.len(), 1, "round {round}: {both:?}");
        let _client = UnixStream::connect(&path).await.expect("it is the one that is found");
        bound[0].accept().await.unwrap();
    }
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "nothing else is left behind: {names:?}");
}

#[tokio::test]
async fn a_socket_that_is_bound_and_does_not_listen_yet_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let starting =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    starting.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    let address = format!("unix:{}", path.display());
    let (kind, text) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("a live listener holds it"), "{text}");
    starting.listen(1).unwrap();
    UnixStream::connect(&path).await.expect("it was left alone");
}

#[tokio::test]
async fn the_socket_file_of_a_live_datagram_socket_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let live = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let (kind, text) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("a live listener holds it"), "{text}");
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    client.send_to(b"x", &path).unwrap();
    assert_eq!(live.recv(&mut [0; 8]).unwrap(), 1);
}

#[tokio::test]
async fn a_link_to_a_socket_that_was_left_is_replaced_and_its_target_stays() {
    let scratch = Scratch::new();
    let (target, link) = (scratch.path("target"), scratch.path("link"));
    leave(&target);
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let listener = listen(&format!("unix:{}", link.display()), &ListenerConfig::default()).await;
    assert!(!link.is_symlink() && target.exists());
    let _client = UnixStream::connect(&link).await.unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_refused_and_stays() {
    let scratch = Scratch::new();
    let link = scratch.path("link");
    std::os::unix::fs::symlink(scratch.path("nothing"), &link).unwrap();
    let address = format!("unix:{}", link.display());
    let (kind, _) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(link.is_symlink() && !scratch.path("nothing").exists());
}

#[tokio::test]
async fn while_another_program_replaces_a_socket_file_a_listener_waits_for_its_end() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    leave(&path);
    let address = format!("unix:{}", path.display());
    let directory = std::fs::File::open(path.parent().unwrap()).unwrap();
    lock(&directory);
    let timeouts = Timeouts::default().with_connect(SECOND / 5);
    let config = ListenerConfig::default().with_timeouts(timeouts);
    let (kind, text) = refused(Listener::bind(&address, &config).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("locked its directory"), "{text}");
    let config = ListenerConfig::default();
    let (bound, ()) = tokio::join!(Listener::bind(&address, &config), async {
        tokio::time::sleep(SECOND / 10).await;
        drop(directory);
    });
    bound.unwrap();
}

/// As a listener does that replaces a file in it.
#[allow(unsafe_code)]
fn lock(directory: &std::fs::File) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(directory);
    // SAFETY: flock(2) takes two numbers, and the descriptor is open.
    assert_eq!(unsafe { libc::flock(fd, libc::LOCK_EX) }, 0);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_never_replaced() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("precious"), "data").unwrap();
    let address = format!("unix:{}", scratch.path("precious").display());
    let (kind, text) = refused(Listener::bind(&address, &ListenerConfig::default()).await);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(scratch.path("precious")).unwrap(), "data");
}

// Addresses.

#[tokio::test]
async fn port_0_asks_the_system_for_a_free_one() {
    let first = listen("127.0.0.1:0", &ListenerConfig::default()).await;
    let second = listen("127.0.0.1:0", &ListenerConfig::default()).await;
    assert!(tcp(&first).port() != 0 && tcp(&second).port() != 0);
    assert_ne!(tcp(&first), tcp(&second));
}

#[tokio::test]
async fn a_dual_stack_listener_takes_ipv4_clients_and_the_other_one_does_not() {
    let dual = ListenerConfig::default();
    let Ok(listener) = Listener::bind("[::]:0", &dual).await else {
        eprintln!("NOT TESTED: this machine has no IPv6");
        return;
    };
    let v4 = |listener: &Listener| SocketAddr::from(([127, 77, 0, 9], tcp(listener).port()));
    let _client = TcpStream::connect(v4(&listener)).await.unwrap();
    let stream = listener.accept().await.unwrap();
    assert!(stream.socket_report().unwrap().keepalive);

    let only = listen("[::]:0", &dual.with_dual_stack(false)).await;
    let error = TcpStream::connect(v4(&only)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let addr = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, tcp(&only).port()));
    let _client = TcpStream::connect(addr).await.unwrap();
    only.accept().await.unwrap();
}

#[tokio::test]
async fn a_name_is_resolved() {
    let listener = listen("localhost:0", &ListenerConfig::default()).await;
    assert!(tcp(&listener).ip().is_loopback());
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_refused_with_the_reason() {
    let table = [
        ("", "end with a port"),
        ("127.0.0.1", "end with a port"),
        ("127.0.0.1:70000", "port from 1 to 65535"),
        ("::1:80", "in brackets"),
        ("http://127.0.0.1:80", "leave \"http://\" out"),
        ("unix:", "a path after"),
        ("unix:/does/not/exist/socket", "its directory does not exist"),
        // TEST-NET-1 (RFC 5737): nobody's address.
        ("192.0.2.1:0", "this machine does not have that address"),
    ];
    for (address, reason) in table {
        let error = Listener::bind(address, &ListenerConfig::default()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot listen on {address}")), "{text}");
        assert!(text.contains(reason), "{address}: {text}");
    }
}

#[tokio::test]
async fn a_bad_configuration_is_refused_before_anything_is_bound() {
    let config = ListenerConfig::default().with_backlog(0).with_idle_timeout(Duration::ZERO);
    let error = Listener::bind("127.0.0.1:0", &config).await.unwrap_err();
    let BindError::Config(problems) = &error else { panic!("{error}") };
    let text = problems.to_string();
    assert!(text.contains("backlog") && text.contains("idle_timeout"), "all at once: {text}");
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::InvalidInput);
}

// Clients that are quiet, and clients that are gone.

fn idle_after(limit: Duration) -> ListenerConfig {
    // No other limit, so that nothing else can end them.
    ListenerConfig::default().with_idle_timeout(limit).with_timeouts(Timeouts::never())
}

#[tokio::test]
async fn an_idle_client_is_reaped_and_its_handler_told_why() {
    let (listener, events) = watched("127.0.0.1:0", &idle_after(10 * SECOND)).await;
    let mut client = client(&listener).await;
    let mut stream = listener.accept().await.unwrap();
    tokio::time::pause();
    let start = Instant::now();
    let handler = tokio::spawn(async move { stream.read_u8().await.unwrap_err() });
    let error = ends(handler).await.unwrap();
    assert_eq!(Interrupted::of(&error).expect("an Interrupted is inside").reason, IdleTimeout);
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert!(!is_timeout(&error));
    // Not early; and late by two beats of the reaper's at most, which are a second here.
    let waited = start.elapsed();
    assert!(waited >= 10 * SECOND && waited <= 12 * SECOND, "{waited:?}");
    assert_eq!(events.closed(), [IdleTimeout]);
    assert!(events.timed_out().is_empty(), "nobody was slow");
    tokio::time::resume();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "its connection is closed");
}

#[tokio::test]
async fn an_idle_client_is_reaped_after_the_listener_is_gone_too() {
    let (listener, events) = watched("127.0.0.1:0", &idle_after(10 * SECOND)).await;
    let _client = client(&listener).await;
    let mut stream = listener.accept().await.unwrap();
    drop(listener);
    tokio::time::pause();
    let error = ends(stream.read_u8()).await.unwrap_err();
    assert_eq!(Interrupted::of(&error).unwrap().reason, IdleTimeout);
    drop(stream);
    assert_eq!(events.closed(), [IdleTimeout]);
}

/// A Unix client: what it sends is there when the call returns, on a paused clock too.
async fn unix_client(config: &ListenerConfig) -> (livepool::Stream, UnixStream, Events) {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let (listener, events) = watched(&format!("unix:{}", path.display()), config).await;
    let client = UnixStream::connect(path).await.unwrap();
    (listener.accept().await.unwrap(), client, events)
}

#[tokio::test]
async fn a_client_that_talks_is_not_reaped_until_it_falls_silent() {
    let (mut stream, mut client, events) = unix_client(&idle_after(10 * SECOND)).await;
    tokio::time::pause();
    let talk = async {
        for _ in 0..20 {
            tokio::time::sleep(8 * SECOND).await;
            client.write_all(b"x").await.unwrap();
        }
    };
    let mut heard = 0;
    let listen = async {
        loop {
            match stream.read_u8().await {
                Ok(_) => heard += 1,
                Err(error) => break error,
            }
        }
    };
    let ((), error) = ends(async { tokio::join!(talk, listen) }).await;
    assert_eq!(heard, 20);
    assert_eq!(Interrupted::of(&error).unwrap().reason, IdleTimeout);
    drop(stream);
    assert_eq!(events.closed(), [IdleTimeout]);
}

#[tokio::test]
async fn a_client_that_only_listens_is_not_reaped() {
    let (mut stream, mut client, _events) = unix_client(&idle_after(10 * SECOND)).await;
    tokio::time::pause();
    for _ in 0..20 {
        tokio::time::sleep(8 * SECOND).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    }
    assert_eq!(stream.tainted(), None);
}

#[tokio::test]
async fn without_an_idle_timeout_nobody_is_reaped() {
    let config = ListenerConfig::default().with_timeouts(Timeouts::never()).with_idle_timeout(None);
    let (mut stream, _client, _events) = unix_client(&config).await;
    tokio::time::pause();
    assert!(tokio::time::timeout(3600 * SECOND, stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_client_that_vanished_is_found_by_keepalive() {
    // Real time: only the kernel can tell.
    let keepalive = Keepalive::default().with_idle(SECOND).with_interval(SECOND).with_retries(2);
    let socket = SocketConfig::default().with_keepalive(keepalive);
    let (listener, events) =
        watched("127.0.0.1:0", &ListenerConfig::default().with_socket(socket)).await;
    let client = client(&listener).await;
    let mut stream = listener.accept().await.unwrap();
    silence(&client);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(!is_timeout(&error));
    drop(stream);
    assert_eq!(events.closed(), [KeepaliveTimeout]);
    assert!(events.timed_out().is_empty());
}

#[tokio::test]
async fn the_reaper_ends_with_the_listener_and_its_last_client() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    let listener = listen("127.0.0.1:0", &ListenerConfig::default()).await;
    assert_eq!(tasks(), 1, "one task for all clients");
    let clients = [client(&listener).await, client(&listener).await];
    let streams = [listener.accept().await.unwrap(), listener.accept().await.unwrap()];
    assert_eq!(tasks(), 1);
    tokio::time::pause();
    drop(listener);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(tasks(), 1, "its clients are still watched");
    let [first, second] = streams;
    drop(first);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(tasks(), 1);
    drop(second);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(tasks(), 0);
    drop(clients);
}

#[test]
fn a_listener_and_its_clients_leave_no_descriptor_behind() {
    if !alone("a_listener_and_its_clients_leave_no_descriptor_behind") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scratch = Scratch::new();
        let unix = format!("unix:{}", scratch.path("socket").display());
        let before = open_fds();
        for round in 0..3 {
            let tcp = listen("127.0.0.1:0", &ListenerConfig::default()).await;
            let unix = listen(&unix, &ListenerConfig::default()).await;
            let mut streams = Vec::new();
            let mut clients = Vec::new();
            for _ in 0..5 {
                clients.push(client(&tcp).await);
                streams.push(tcp.accept().await.unwrap());
                UnixStream::connect(scratch.path("socket")).await.unwrap();
                streams.push(unix.accept().await.unwrap());
            }
            // One that was never accepted, one that reset before, one address in use.
            clients.push(client(&tcp).await);
            let gone = client(&tcp).await;
            SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            let second = Listener::bind(&tcp.local_addr().to_string(), &without_reuse()).await;
            assert!(second.is_err());
            assert!(open_fds() > before);
            drop((tcp, unix, streams, clients));
            assert_eq!(open_fds(), before, "round {round}");
        }
    });
}
