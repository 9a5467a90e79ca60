use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::config::{Config, Keepalive, SocketConfig, SocketOption, UserTimeout};
use crate::event::DialOutcome;
use crate::net::{MAX_ATTEMPTS, NoDirectory, SocketReport};

/// Far above what loopback needs, so that only a real hang meets it.
const AMPLE: Option<Duration> = Some(Duration::from_secs(20));

fn settings(change: impl FnOnce(SocketConfig) -> SocketConfig) -> SocketSettings {
    let config = Config::new("x:1").with_socket(change(SocketConfig::default()));
    config.to_settings().unwrap().socket
}

fn endpoint(addr: impl ToString) -> Endpoint {
    addr.to_string().parse().unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address that refuses: held by a socket that does not listen, so that nobody else gets it.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// An address that neither accepts nor refuses: a listener whose backlog is full drops every SYN.
struct Hanging {
    addr: SocketAddr,
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
}

async fn hanging() -> Hanging {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    // The queue holds one more than the backlog; what comes after hangs.
    while let Ok(stream) =
        Deadline::after(Some(Duration::from_millis(200))).run(TcpStream::connect(addr)).await
    {
        filling.push(stream.unwrap());
    }
    Hanging { addr, _listener: listener, _filling: filling }
}

async fn connect_to(
    endpoints: &[Endpoint],
    socket: &SocketSettings,
    limit: Option<Duration>,
) -> Result<Dialed, ConnectError> {
    let resolver = Resolver::default();
    let (except, left) = (HashSet::new(), AtomicUsize::new(MAX_ATTEMPTS));
    let target = DialTarget {
        endpoints,
        only: None,
        except: &except,
        attempts_left: &left,
        resolver: &resolver,
        directory: &NoDirectory,
    };
    let dialed = dial(target, socket, limit).await;
    dialed.map(|(dialed, attempt)| {
        attempt.end(DialOutcome::Ok);
        dialed
    })
}

async fn dial_all(endpoints: &[Endpoint]) -> Result<Dialed, ConnectError> {
    connect_to(endpoints, &SocketSettings::default(), AMPLE).await
}

#[tokio::test]
async fn a_dial_knows_both_ends() {
    let (listener, addr) = listen().await;
    let dialed = dial_all(&[endpoint(addr)]).await.unwrap();
    let (_, client) = listener.accept().await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
    assert_eq!(dialed.local, PeerAddr::Tcp(client));
    assert_eq!(dialed.io.peer_addr().unwrap(), dialed.peer);
}

#[tokio::test]
async fn a_refused_port_says_so() {
    let (_held, addr) = refusing();
    let error = dial_all(&[endpoint(addr)]).await.unwrap_err();
    assert_eq!(error.kind(), DialOutcome::Refused);
    assert_eq!(error.attempts().len(), 1);
    assert!(!error.is_timeout() && error.is_retryable());
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("could not connect to {addr}: connection refused")),
        "{text}"
    );
    assert!(text.contains("listening"), "{text}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_an_attempt_with_its_cause() {
    let error = dial_all(&[endpoint("name.invalid:80")]).await.unwrap_err();
    assert_eq!(error.kind(), DialOutcome::Resolve, "{error}");
    assert_eq!(error.attempts()[0].target(), "name.invalid:80");
    // Or the resolver, where no name server is to be had.
    assert!(error.to_string().contains("check the "), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_does_not_keep_the_next_endpoint_from_working() {
    let (_listener, addr) = listen().await;
    let dialed = dial_all(&[endpoint("name.invalid:80"), endpoint(addr)]).await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let (_listener, addr) = listen().await;
    let dialed = dial_all(&[endpoint(format!("localhost:{}", addr.port()))]).await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
}

#[tokio::test]
async fn a_dial_that_hangs_ends_at_the_deadline_and_lists_what_it_tried() {
    let hanging = hanging().await;
    let (_held, refusing) = refusing();
    let endpoints = [endpoint(refusing), endpoint(hanging.addr)];
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    let error = connect_to(&endpoints, &SocketSettings::default(), Some(limit)).await.unwrap_err();
    assert!(start.elapsed() >= limit);
    assert!(error.is_timeout());
    let targets: Vec<_> = error.attempts().iter().map(ConnectAttempt::target).collect();
    assert_eq!(targets, [refusing.to_string(), hanging.addr.to_string()]);
    let text = error.to_string();
    assert!(text.contains("within 300.0ms"), "{text}");
    assert!(text.contains(&format!("{}: still connecting", hanging.addr)), "{text}");
}

#[tokio::test]
async fn a_deadline_that_has_passed_opens_no_socket() {
    let (_listener, addr) = listen().await;
    let error = connect_to(&[endpoint(addr)], &SocketSettings::default(), Some(Duration::ZERO))
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    assert!(error.attempts().is_empty());
}

#[tokio::test]
async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
    let (_held, refusing) = refusing();
    let (_listener, addr) = listen().await;
    let dialed = dial_all(&[endpoint(refusing), endpoint(addr)]).await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
}

#[tokio::test]
async fn an_address_that_hangs_is_overtaken_after_the_stagger() {
    let hanging = hanging().await;
    let (_listener, addr) = listen().await;
    let start = Instant::now();
    let dialed = dial_all(&[endpoint(hanging.addr), endpoint(addr)]).await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
    assert!(start.elapsed() >= crate::net::race::ATTEMPT_DELAY);
}

#[cfg(target_os = "linux")]
mod linux {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn every_option_is_what_the_kernel_reads_back() {
        let (_listener, addr) = listen().await;
        let keepalive = Keepalive::default()
            .with_idle(Duration::from_secs(11))
            .with_interval(Duration::from_secs(3))
            .with_retries(4);
        let socket = settings(|socket| {
            socket
                .with_keepalive(keepalive)
                .with_send_buffer(16_384)
                .with_recv_buffer(32_768)
                .with_tos(0x10)
                .with_congestion("reno")
                .with_device("lo")
                .with_local_addr(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)))
        });
        let dialed = connect_to(&[endpoint(addr)], &socket, AMPLE).await.unwrap();
        assert!(dialed.unavailable.is_empty(), "{:?}", dialed.unavailable);
        let report = SocketReport::read(&dialed.io.sock_ref()).unwrap();
        let expected = SocketReport {
            keepalive: true,
            keepalive_idle: Some(Duration::from_secs(11)),
            keepalive_interval: Some(Duration::from_secs(3)),
            keepalive_retries: Some(4),
            user_timeout: Some(Duration::from_secs(23)),
            nodelay: Some(true),
            send_buffer: 2 * 16_384,
            recv_buffer: 2 * 32_768,
            tos: Some(0x10),
            mark: Some(0),
            congestion: Some("reno".to_owned()),
            device: Some("lo".to_owned()),
        };
        assert_eq!(report, expected);
        assert_eq!(report.detection_time(), Some(Duration::from_secs(23)));
        let PeerAddr::Tcp(local) = dialed.local else { panic!("{:?}", dialed.local) };
        assert_eq!(local.ip(), Ipv4Addr::new(127, 0, 0, 2));
    }

    #[tokio::test]
    async fn what_is_switched_off_stays_off() {
        let (_listener, addr) = listen().await;
        let socket = settings(|socket| {
            let off = socket.with_keepalive(None).with_user_timeout(UserTimeout::Off);
            off.with_nodelay(false)
        });
        let dialed = connect_to(&[endpoint(addr)], &socket, AMPLE).await.unwrap();
        let report = SocketReport::read(&dialed.io.sock_ref()).unwrap();
        assert!(!report.keepalive);
        assert_eq!((report.user_timeout, report.nodelay), (None, Some(false)));
        assert_eq!(report.detection_time(), None);
    }

    #[tokio::test]
    async fn the_traffic_class_of_ipv6_is_set_too() {
        let Ok(listener) = TcpListener::bind("[::1]:0").await else {
            eprintln!("NOT TESTED: this machine has no IPv6 loopback");
            return;
        };
        let socket = settings(|socket| socket.with_tos(0x20));
        let endpoints = [endpoint(listener.local_addr().unwrap())];
        let dialed = connect_to(&endpoints, &socket, AMPLE).await.unwrap();
        assert_eq!(SocketReport::read(&dialed.io.sock_ref()).unwrap().tos, Some(0x20));
    }

    #[tokio::test]
    async fn an_option_that_fails_fails_the_attempt_by_its_name() {
        let (_listener, addr) = listen().await;
        let socket = settings(|socket| socket.with_congestion("nonexistent"));
        let error = connect_to(&[endpoint(addr)], &socket, AMPLE).await.unwrap_err();
        assert_eq!(error.kind(), DialOutcome::Error);
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("socket option congestion"), "{error}");
        assert!(error.to_string().contains("best_effort"), "{error}");
    }

    #[tokio::test]
    async fn a_best_effort_option_that_fails_is_reported_and_the_connection_made() {
        let (_listener, addr) = listen().await;
        let socket = settings(|socket| {
            let named = socket.with_congestion("nonexistent");
            named.with_best_effort([SocketOption::Congestion])
        });
        let dialed = connect_to(&[endpoint(addr)], &socket, AMPLE).await.unwrap();
        assert_eq!(dialed.unavailable.len(), 1);
        assert_eq!(dialed.unavailable[0].0, "congestion");
    }

    #[tokio::test]
    async fn a_refused_keepalive_value_leaves_keepalive_off() {
        use crate::sys::{keepalive, sockopt::OptionError};
        let socket = TcpSocket::new_v4().unwrap();
        let socket = socket2::SockRef::from(&socket);
        let half = Some(Duration::from_millis(500));
        let outcome = keepalive::set(&socket, half, None, None);
        assert!(matches!(outcome, Err(OptionError::Failed(_))), "{outcome:?}");
        assert!(!socket.keepalive().unwrap());
    }

    #[test]
    fn a_bound_socket_takes_no_port_before_it_knows_its_destination() {
        use socket2::{Domain, Socket, Type};
        for (local, target) in [("127.0.0.1", "127.0.0.1:9"), ("::1", "[::1]:9")] {
            let target: SocketAddr = target.parse().unwrap();
            let settings =
                settings(|socket| socket.with_local_addr(local.parse::<IpAddr>().unwrap()));
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
            let socket = socket2::SockRef::from(&socket);
            if let Err(error) = crate::net::options::apply_connecting(&socket, target, &settings) {
                assert!(target.is_ipv6(), "{error}");
                eprintln!("NOT TESTED: no IPv6 loopback here ({error})");
                continue;
            }
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(bound.to_string(), SocketAddr::new(local.parse().unwrap(), 0).to_string());
            assert!(socket.reuse_address().unwrap());
        }
    }

    #[tokio::test]
    async fn a_cancelled_dial_closes_its_sockets() {
        let hanging = hanging().await;
        let more = super::hanging().await;
        let endpoints = [endpoint(hanging.addr), endpoint(more.addr)];
        let socket = SocketSettings::default();
        // The second one begins after 250 ms.
        let long_enough_for_both = Duration::from_millis(400);
        let dial = connect_to(&endpoints, &socket, AMPLE);
        let (mut dial, began) = (Box::pin(dial), Instant::now());
        let cut = Deadline::after(Some(long_enough_for_both)).run(dial.as_mut()).await;
        assert!(cut.is_err());
        let to = |addr| sockets_to(addr).len();
        // Each with one socket, and with one more after each 250 ms.
        let both = [to(hanging.addr), to(more.addr)];
        let most = 1 + usize::try_from(began.elapsed().as_millis() / 250).unwrap();
        assert!(both.iter().all(|sockets| (1..=most).contains(sockets)), "under way: {both:?}");
        drop(dial);
        assert_eq!((to(hanging.addr), to(more.addr)), (0, 0));
    }

    #[tokio::test]
    async fn the_losers_are_closed_when_the_winner_is_returned() {
        let hanging = hanging().await;
        let (_listener, addr) = listen().await;
        let _winner = dial_all(&[endpoint(hanging.addr), endpoint(addr)]).await.unwrap();
        assert!(sockets_to(hanging.addr).is_empty());
    }

    /// The lines of this machine's connections to `addr` in state SYN_SENT (02): other tests of
    /// this process come and go, so counting descriptors would count theirs.
    fn sockets_to(addr: SocketAddr) -> Vec<String> {
        let remote = format!(" 0100007F:{:04X} 02 ", addr.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().filter(|line| line.contains(&remote)).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_local_address_of_the_other_family_fails_only_that_attempt() {
    let (_listener, addr) = listen().await;
    let socket = settings(|socket| socket.with_local_addr(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let endpoints = [endpoint("[::1]:9"), endpoint(addr)];
    let dialed = connect_to(&endpoints, &socket, AMPLE).await.unwrap();
    assert_eq!(dialed.peer, PeerAddr::Tcp(addr));
    let error = connect_to(&endpoints[..1], &socket, AMPLE).await.unwrap_err();
    assert!(error.to_string().contains("not of the same family"), "{error}");
}

#[tokio::test]
async fn a_socket_that_connected_to_itself_counts_as_refused() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    let stream = socket.connect(addr).await.unwrap();
    assert_eq!(stream.local_addr().unwrap(), addr, "it really happens");
    let error = attempt::refuse_self_connect(stream, addr).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    TcpListener::bind(addr).await.expect("the port is free again at once");
}

#[cfg(unix)]
mod unix {
    use super::*;

    /// A path of its own, removed at the end.
    struct Path(PathBuf);

    impl Path {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("livepool-{}-{name}.sock", std::process::id())))
        }
    }

    impl Drop for Path {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[tokio::test]
    async fn a_unix_socket_is_dialed_like_any_other() {
        let path = Path::new("dialed");
        let _listener = tokio::net::UnixListener::bind(&path.0).unwrap();
        let socket = settings(|socket| socket.with_send_buffer(16_384));
        let endpoints = [endpoint(format!("unix:{}", path.0.display()))];
        let dialed = connect_to(&endpoints, &socket, AMPLE).await.unwrap();
        assert_eq!(dialed.peer, PeerAddr::Unix(path.0.clone()));
        assert_eq!(dialed.local, PeerAddr::Unix(PathBuf::new()));
        assert!(dialed.unavailable.is_empty());
        let report = SocketReport::read(&dialed.io.sock_ref()).unwrap();
        assert!(report.send_buffer >= 16_384);
        assert_eq!((report.nodelay, report.keepalive_idle), (None, None));
    }

    #[tokio::test]
    async fn a_unix_socket_that_is_not_there_counts_as_refused() {
        let path = Path::new("absent");
        let error = dial_all(&[endpoint(format!("unix:{}", path.0.display()))]).await.unwrap_err();
        assert_eq!(error.kind(), DialOutcome::Refused);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_unix_backlog_is_waited_for() {
        let path = Path::new("full");
        let listener =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path.0).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let endpoints = [endpoint(format!("unix:{}", path.0.display()))];
        let _fills_the_queue = dial_all(&endpoints).await.unwrap();
        let socket = SocketSettings::default();
        let limit = Some(Duration::from_millis(100));
        let error = connect_to(&endpoints, &socket, limit).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let waiting = tokio::spawn(async move { dial_all(&endpoints).await.map(drop) });
        listener.accept().unwrap();
        waiting.await.unwrap().unwrap();
    }
}

/// Knows that every address is the second endpoint's.
struct TheSecond;

impl Directory for TheSecond {
    fn resolved(&self, _: usize, _: &[PeerAddr]) {}

    fn endpoint_of(&self, _: &PeerAddr) -> Option<usize> {
        Some(1)
    }

    fn order(&self, _: &mut Vec<PeerAddr>) {}

    fn began(&self, addr: &PeerAddr) -> Box<dyn PendingAttempt + '_> {
        NoDirectory.began(addr)
    }
}

#[tokio::test]
async fn a_dial_to_one_address_knows_the_name_that_leads_to_it() {
    let (_listener, addr) = listen().await;
    let (resolver, peer) = (Resolver::default(), PeerAddr::Tcp(addr));
    let endpoints = [endpoint("other:1"), endpoint("db.internal:1")];
    let (except, left) = (HashSet::new(), AtomicUsize::new(MAX_ATTEMPTS));
    let target = DialTarget {
        endpoints: &endpoints,
        only: Some(&peer),
        except: &except,
        attempts_left: &left,
        resolver: &resolver,
        directory: &TheSecond,
    };
    let socket = SocketSettings::default();
    let dialed = dial(target, &socket, AMPLE).await;
    assert_eq!(dialed.unwrap().0.host.as_deref(), Some("db.internal"));
}
