//! The options of a pooled connection, read from the kernel by other means than livepool's own: the
//! socket is found among this process' descriptors by its addresses.
//!
//! Run with `--nocapture` to see the table.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use livepool::config::{SocketConfig, UserTimeout};
use livepool::net::PeerAddr;
use livepool::{Guard, Keepalive, Pool};
use livepool_testkit::alone::{alone_in_a_network, loopback_up};
use livepool_testkit::fault::option;
use livepool_testkit::not_run::not_run;
use livepool_testkit::{Upstream, ask};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

const SECOND: Duration = Duration::from_secs(1);

/// One of the addresses of whatever socket has this number now, if one has.
fn address(
    fd: RawFd,
    name: unsafe extern "C" fn(RawFd, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
) -> Option<SocketAddr> {
    // SAFETY: getsockname(2) and getpeername(2) write at most `length` bytes to the storage and the
    // length written to `length`. A descriptor that is not open or no socket is an error.
    let result = unsafe {
        SockAddr::try_init(|storage, length| match name(fd, storage.cast(), length) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    result.ok()?.1.as_socket()
}

/// The connection's socket. Its two addresses are no other socket's: the server's end has them the
/// other way round.
fn socket_of(conn: &Guard) -> BorrowedFd<'_> {
    let (PeerAddr::Tcp(local), PeerAddr::Tcp(peer)) = (conn.local_addr(), conn.peer_addr()) else {
        panic!("not TCP")
    };
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let fd = numbers
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .find(|fd| {
            address(*fd, libc::getsockname) == Some(*local)
                && address(*fd, libc::getpeername) == Some(*peer)
        });
    // SAFETY: the descriptor is the connection's own, and stays open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.expect("the socket is among our descriptors")) }
}

/// Takes a connection made with these options and shows it an answer.
async fn connection(upstream: &Upstream, socket: SocketConfig) -> Guard {
    let pool = Pool::new(upstream.config().with_socket(socket)).unwrap();
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO hello").await.unwrap(), "hello");
    conn
}

/// What the kernel has, as text, in the order of the table.
fn read_back(conn: &Guard) -> Vec<(&'static str, String)> {
    let fd = socket_of(conn);
    let socket = SockRef::from(&fd);
    let text = |name: Vec<u8>| String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned();
    let no_port = option(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    vec![
        ("SO_KEEPALIVE", socket.keepalive().unwrap().to_string()),
        ("TCP_KEEPIDLE", format!("{:?}", socket.tcp_keepalive_time().unwrap())),
        ("TCP_KEEPINTVL", format!("{:?}", socket.tcp_keepalive_interval().unwrap())),
        ("TCP_KEEPCNT", socket.tcp_keepalive_retries().unwrap().to_string()),
        ("TCP_USER_TIMEOUT", format!("{:?}", socket.tcp_user_timeout().unwrap())),
        ("TCP_NODELAY", socket.tcp_nodelay().unwrap().to_string()),
        ("SO_SNDBUF", socket.send_buffer_size().unwrap().to_string()),
        ("SO_RCVBUF", socket.recv_buffer_size().unwrap().to_string()),
        ("IP_TOS", format!("{:#04x}", socket.tos_v4().unwrap())),
        ("TCP_CONGESTION", text(socket.tcp_congestion().unwrap())),
        ("local address", socket.local_addr().unwrap().as_socket().unwrap().ip().to_string()),
        ("SO_REUSEADDR", socket.reuse_address().unwrap().to_string()),
        ("IP_BIND_ADDRESS_NO_PORT", (no_port.unwrap() == 1).to_string()),
        ("SO_BINDTODEVICE", socket.device().unwrap().map_or_else(|| "none".to_owned(), text)),
        ("SO_MARK", format!("{:#x}", socket.mark().unwrap())),
    ]
}

/// Whether this process may mark packets (`CAP_NET_ADMIN`).
fn may_mark() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().set_mark(1).is_ok()
}

/// The system's own value of a setting.
fn system(name: &str) -> u64 {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Prints what was asked for beside what the kernel has, then compares.
#[track_caller]
fn assert_table(conn: &Guard, expected: &[(&str, &str, String)]) {
    let actual = read_back(conn);
    println!("| option | asked for | the kernel has |\n|---|---|---|");
    for (name, asked, wanted) in expected {
        let (_, found) = actual.iter().find(|(option, _)| option == name).unwrap();
        println!("| `{name}` | {asked} | {found} |");
        assert_eq!(found, wanted, "{name}");
    }
}

#[tokio::test]
async fn every_option_of_a_pooled_connection_is_in_the_kernel() {
    let upstream = Upstream::start();
    let keepalive =
        Keepalive::default().with_idle(20 * SECOND).with_interval(7 * SECOND).with_retries(4);
    let mut socket = SocketConfig::default()
        .with_keepalive(keepalive)
        .with_user_timeout(UserTimeout::After(Duration::from_millis(45_500)))
        .with_nodelay(false)
        .with_send_buffer(49_152)
        .with_recv_buffer(65_536)
        .with_tos(0x28)
        .with_congestion("reno")
        .with_local_addr("127.0.0.2".parse::<IpAddr>().unwrap())
        .with_device("lo");
    let mark = if may_mark() {
        socket = socket.with_mark(0x2a);
        "0x2a"
    } else {
        eprintln!("NOT TESTED: SO_MARK needs CAP_NET_ADMIN");
        "0x0"
    };
    let conn = connection(&upstream, socket).await;
    assert_table(
        &conn,
        &[
            ("SO_KEEPALIVE", "on", "true".into()),
            ("TCP_KEEPIDLE", "20 s", "20s".into()),
            ("TCP_KEEPINTVL", "7 s", "7s".into()),
            ("TCP_KEEPCNT", "4", "4".into()),
            ("TCP_USER_TIMEOUT", "45.5 s", "Some(45.5s)".into()),
            ("TCP_NODELAY", "off", "false".into()),
            // Linux doubles both (socket(7)).
            ("SO_SNDBUF", "49152", "98304".into()),
            ("SO_RCVBUF", "65536", "131072".into()),
            ("IP_TOS", "0x28", "0x28".into()),
            ("TCP_CONGESTION", "reno", "reno".into()),
            ("local address", "127.0.0.2", "127.0.0.2".into()),
            ("SO_REUSEADDR", "set along", "true".into()),
            ("IP_BIND_ADDRESS_NO_PORT", "set along", "true".into()),
            ("SO_BINDTODEVICE", "lo", "lo".into()),
            ("SO_MARK", mark, mark.into()),
        ],
    );
}

#[tokio::test]
async fn the_defaults_of_a_pooled_connection_are_in_the_kernel() {
    let upstream = Upstream::start();
    let conn = connection(&upstream, SocketConfig::default()).await;
    assert_table(
        &conn,
        &[
            ("SO_KEEPALIVE", "default", "true".into()),
            ("TCP_KEEPIDLE", "default", "15s".into()),
            ("TCP_KEEPINTVL", "default", "5s".into()),
            ("TCP_KEEPCNT", "default", "3".into()),
            ("TCP_USER_TIMEOUT", "default", "Some(30s)".into()),
            ("TCP_NODELAY", "default", "true".into()),
            ("IP_TOS", "default", "0x00".into()),
            ("local address", "default", "127.0.0.1".into()),
            ("SO_REUSEADDR", "default", "false".into()),
            ("IP_BIND_ADDRESS_NO_PORT", "default", "false".into()),
            ("SO_BINDTODEVICE", "default", "none".into()),
            ("SO_MARK", "default", "0x0".into()),
        ],
    );
}

#[tokio::test]
async fn what_the_stream_reports_is_what_the_kernel_has() {
    let upstream = Upstream::start();
    let socket = SocketConfig::default().with_tos(0x10).with_device("lo");
    let conn = connection(&upstream, socket).await;
    let report = conn.socket_report().unwrap();
    let fd = socket_of(&conn);
    let kernel = SockRef::from(&fd);
    assert_eq!(report.keepalive, kernel.keepalive().unwrap());
    assert_eq!(report.keepalive_idle, kernel.tcp_keepalive_time().ok());
    assert_eq!(report.keepalive_interval, kernel.tcp_keepalive_interval().ok());
    assert_eq!(report.keepalive_retries, kernel.tcp_keepalive_retries().ok());
    assert_eq!(report.user_timeout, kernel.tcp_user_timeout().unwrap());
    assert_eq!(report.nodelay, kernel.tcp_nodelay().ok());
    assert_eq!(report.send_buffer, kernel.send_buffer_size().unwrap());
    assert_eq!(report.recv_buffer, kernel.recv_buffer_size().unwrap());
    assert_eq!(report.tos, kernel.tos_v4().ok());
    assert_eq!(report.mark, kernel.mark().ok());
    assert_eq!(report.device.as_deref(), Some("lo"));
    let name = kernel.tcp_congestion().unwrap();
    assert_eq!(report.congestion.unwrap(), String::from_utf8(name).unwrap().trim_end_matches('\0'));
}

#[tokio::test]
async fn a_connection_keeps_its_options_when_it_is_reused() {
    let upstream = Upstream::start();
    let socket = SocketConfig::default().with_tos(0x10);
    let pool = Pool::new(upstream.config().with_socket(socket)).unwrap();
    let mut conn = pool.get().await.unwrap();
    ask(&mut conn, "ECHO hello").await.unwrap();
    let (id, before) = (conn.id(), read_back(&conn));
    conn.release();
    let conn = pool.get().await.unwrap();
    assert_eq!(conn.id(), id);
    // Buffers are tuned by the kernel as bytes flow, unless they were given.
    let settled = |table: Vec<(&'static str, String)>| -> Vec<_> {
        table.into_iter().filter(|(name, _)| !name.ends_with("BUF")).collect()
    };
    assert_eq!(settled(read_back(&conn)), settled(before));
}

#[tokio::test]
async fn keepalive_system_switches_it_on_and_leaves_the_values_to_the_system() {
    let upstream = Upstream::start();
    let socket = SocketConfig::default().with_keepalive(Keepalive::system());
    let conn = connection(&upstream, socket).await;
    let seconds = |name| Duration::from_secs(system(name));
    let (idle, interval) = (seconds("tcp_keepalive_time"), seconds("tcp_keepalive_intvl"));
    let probes = u32::try_from(system("tcp_keepalive_probes")).unwrap();
    assert_table(
        &conn,
        &[
            ("SO_KEEPALIVE", "system", "true".into()),
            ("TCP_KEEPIDLE", "system", format!("{idle:?}")),
            ("TCP_KEEPINTVL", "system", format!("{interval:?}")),
            ("TCP_KEEPCNT", "system", probes.to_string()),
            // Nothing to derive it from.
            ("TCP_USER_TIMEOUT", "derived", "None".into()),
        ],
    );
    // What the configuration cannot know, the report does.
    assert_eq!(Keepalive::system().detection_time(), None);
    let report = conn.socket_report().unwrap();
    assert_eq!(report.detection_time(), Some(idle + interval * probes));
}

#[tokio::test]
async fn a_keepalive_value_that_is_left_out_stays_the_systems() {
    let upstream = Upstream::start();
    let keepalive = Keepalive::system().with_idle(20 * SECOND);
    let conn = connection(&upstream, SocketConfig::default().with_keepalive(keepalive)).await;
    let interval = Duration::from_secs(system("tcp_keepalive_intvl"));
    assert_table(
        &conn,
        &[
            ("SO_KEEPALIVE", "on", "true".into()),
            ("TCP_KEEPIDLE", "20 s", "20s".into()),
            ("TCP_KEEPINTVL", "system", format!("{interval:?}")),
            ("TCP_KEEPCNT", "system", system("tcp_keepalive_probes").to_string()),
        ],
    );
}

#[tokio::test]
async fn keepalive_off_is_off_and_takes_the_user_timeout_along() {
    let upstream = Upstream::start();
    let conn = connection(&upstream, SocketConfig::default().with_keepalive(None)).await;
    assert_table(
        &conn,
        &[("SO_KEEPALIVE", "off", "false".into()), ("TCP_USER_TIMEOUT", "derived", "None".into())],
    );
    assert_eq!(conn.socket_report().unwrap().detection_time(), None);
}

#[tokio::test]
async fn on_ipv6_the_options_are_those_of_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: this machine has no IPv6");
        return;
    }
    let upstream = Upstream::start_on("[::1]:0".parse().unwrap());
    let local: IpAddr = "::1".parse().unwrap();
    let socket = SocketConfig::default().with_tos(0x28).with_local_addr(local);
    let conn = connection(&upstream, socket).await;
    let fd = socket_of(&conn);
    let kernel = SockRef::from(&fd);
    assert_eq!(kernel.tclass_v6().unwrap(), 0x28);
    assert_eq!(kernel.local_addr().unwrap().as_socket().unwrap().ip(), local);
    assert_eq!(kernel.tcp_keepalive_time().unwrap(), 15 * SECOND);
    let no_port = option(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    assert_eq!(no_port.unwrap(), 1, "an IPv6 socket takes the IPv4 option");
}

/// Local ports that a namespace of its own may give out.
const PORTS: usize = 100;

#[test]
fn connections_from_one_local_address_share_ports_over_several_upstreams() {
    const NAME: &str = "connections_from_one_local_address_share_ports_over_several_upstreams";
    match alone_in_a_network(NAME) {
        None => {
            return not_run(NAME, "this machine allows no network namespace");
        }
        Some(false) => return,
        Some(true) => {}
    }
    loopback_up();
    let range = format!("32768 {}", 32768 + PORTS - 1);
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
    let upstreams = [Upstream::start(), Upstream::start()];
    let each = PORTS * 8 / 10;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guards = runtime.block_on(async {
        let local: IpAddr = "127.0.0.2".parse().unwrap();
        let socket = SocketConfig::default().with_local_addr(local);
        let mut guards = Vec::new();
        for upstream in &upstreams {
            let config = upstream.config().with_max_size(each).with_socket(socket.clone());
            let pool = Pool::new(config).unwrap();
            for _ in 0..each {
                guards.push(pool.get().await.unwrap());
            }
        }
        guards
    });

    // A socket that is bound the plain way has its port for itself, whatever it connects to.
    let mut plain = Vec::new();
    for upstream in upstreams.iter().cycle().take(2 * each) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let from: SocketAddr = "127.0.0.3:0".parse().unwrap();
        let bound = socket.bind(&from.into());
        if bound.and_then(|()| socket.connect(&upstream.addr().into())).is_err() {
            break;
        }
        plain.push(socket);
    }
    println!(
        "{PORTS} local ports, 2 upstreams: {} connections of pools, {} bound the plain way",
        guards.len(),
        plain.len()
    );
    assert!(guards.len() > PORTS && plain.len() <= PORTS);
}
