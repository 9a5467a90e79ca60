//! Checkout: order of arrival, the bounded queue, the one deadline, and errors that say why.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::config::Order;
use livepool::error::{CheckoutFailure, Phase};
use livepool::{Config, Pool, Timeouts};
#[cfg(target_os = "linux")]
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Upstream, ask, exchange, fill, port, watched};
#[cfg(target_os = "linux")]
use livepool_testkit::{alone::alone, descriptors::allow_only, pair::Scratch};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn one_connection_serves_many_checkouts() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    for i in 0..100 {
        assert_eq!(exchange(&pool, &format!("ECHO {i}")).await, i.to_string());
    }
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn lifo_hands_out_the_last_returned_and_fifo_the_first() {
    let upstream = Upstream::start();
    for (order, expected) in [(Order::Lifo, 2), (Order::Fifo, 0)] {
        let pool = Pool::new(upstream.config().with_order(order)).unwrap();
        let mut ids = Vec::new();
        let mut guards = Vec::new();
        for _ in 0..3 {
            let guard = pool.get().await.unwrap();
            ids.push(guard.id());
            guards.push(guard);
        }
        for guard in guards {
            guard.release();
        }
        assert_eq!(pool.get().await.unwrap().id(), ids[expected], "{order:?}");
    }
}

#[tokio::test]
async fn callers_are_served_in_order_of_arrival() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1)).unwrap();
    let held = pool.get().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for caller in 0..20 {
        let (pool2, served) = (pool.clone(), Arc::clone(&served));
        tasks.push(tokio::spawn(async move {
            let mut conn = pool2.get().await.unwrap();
            served.lock().unwrap().push(caller);
            ask(&mut conn, "ECHO x").await.unwrap();
            conn.release();
        }));
        livepool_testkit::until_status(&pool, |now| now.waiting >= caller).await;
        tokio::task::yield_now().await;
    }
    livepool_testkit::until_status(&pool, |now| now.waiting == 20).await;
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_full_pool_makes_the_caller_wait_until_the_one_deadline() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_checkout(3 * SECOND);
    let config = upstream.config().with_name("orders").with_max_size(1).with_timeouts(timeouts);
    let (pool, events) = watched(config);
    let _held = pool.get().await.unwrap();
    tokio::time::pause();
    let start = Instant::now();
    let error = pool.get().await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Queue));
    assert!(error.is_timeout() && error.is_retryable());
    assert_eq!((error.status().in_use, error.status().max_size), (1, 1));
    let text = error.to_string();
    for part in ["pool orders", "1 of 1 in use", "3.0s", "max_size"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert!(livepool::is_timeout(&std::io::Error::from(error)));
    let counted = |event: &livepool::Event| {
        use livepool::event::Operation::Checkout;
        matches!(event, livepool::Event::TimedOut { operation: Checkout, .. })
    };
    assert_eq!(events.all().iter().filter(|event| counted(event)).count(), 1);
    assert_eq!(pool.status().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn callers_wait_on_when_a_dial_fails_and_their_error_tells_why_it_did() {
    // The backlog of this listener is full: every further connect hangs.
    let (listener, _fill) = full_backlog();
    let timeouts = Timeouts::default().with_checkout(5 * SECOND).with_connect(4 * SECOND);
    let config = Config::new(listener.to_string()).with_max_size(1).with_timeouts(timeouts);
    let config = config.with_first_connect(livepool::config::FirstConnect::Wait);
    let pool = Pool::new(config).unwrap();
    let start = Instant::now();
    let (first, second) = tokio::join!(pool.get(), pool.get());
    assert_eq!(start.elapsed().as_secs(), 5);
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Connect));
        let connect = error.connect_error().expect("says what became of the dial");
        assert_eq!(connect.took().as_secs(), 4);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1).with_max_waiting(Some(1))).unwrap();
    let held = pool.get().await.unwrap();
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(drop) }
    });
    livepool_testkit::until_status(&pool, |now| now.waiting == 1).await;
    let error = pool.get().await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::QueueFull);
    assert!(error.to_string().contains("max_waiting"), "{error}");
    drop(held);
    waiter.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_waits_when_the_queue_has_no_place_but_a_free_connection_is_given() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1).with_max_waiting(Some(0))).unwrap();
    let held = pool.get().await.unwrap();
    assert_eq!(pool.get().await.unwrap_err().failure(), CheckoutFailure::QueueFull);
    drop(held);
    assert!(pool.get().await.is_ok());
}

#[tokio::test]
async fn a_connect_error_names_every_address_and_keeps_its_cause() {
    let addr = port::nobody();
    let config = Config::new(addr.to_string());
    let config = config.with_first_connect(livepool::config::FirstConnect::Wait);
    let pool = Pool::new(config).unwrap();
    let deadline = tokio::time::Instant::now() + 2 * SECOND;
    let error = pool.get_by(deadline).await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Connect));
    assert!(error.is_retryable() && error.is_timeout());
    let text = error.to_string();
    assert!(text.contains(&format!("could not connect to {addr}: connection refused")), "{text}");
    assert!(!text.contains("raise timeouts.checkout"), "that never helps: {text}");
    let cause = error.find::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_limit_holds_while_many_callers_dial() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(4)).unwrap();
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let pool = pool.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                exchange(&pool, "ECHO x").await;
                let status = pool.status();
                assert!(status.idle + status.in_use + status.connecting <= 4, "{status}");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(upstream.accepted() <= 4);
}

#[tokio::test]
async fn a_connection_that_died_while_the_runtime_was_busy_is_found_by_the_peek() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 3).await;
    upstream.order_all(&livepool_testkit::Order::Close);
    // Without a yield the reactor cannot tell anybody, and tokio's cached readiness is wrong.
    livepool_testkit::until_blocking(|| upstream.open() == 0);
    assert!(events.closed().is_empty());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(events.closed(), [livepool::CloseReason::PeerClosed; 3]);
}

#[tokio::test]
async fn run_releases_on_success_and_discards_on_failure() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    let answer = pool.run(async |conn| ask(conn, "ECHO one").await).await.unwrap();
    assert_eq!(answer, "one");
    assert_eq!(pool.status().idle, 1);
    let failed: std::io::Result<()> = pool
        .run(async |conn| {
            ask(conn, "ECHO two").await?;
            Err(std::io::Error::other("the caller's own"))
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(pool.status().idle, 0);
    // It can be spawned, which needs its future to be Send.
    let spawned = pool.clone();
    let answer =
        tokio::spawn(async move { spawned.run(async |conn| ask(conn, "ECHO three").await).await });
    assert_eq!(answer.await.unwrap().unwrap(), "three");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_pooled_like_any_other() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = std::env::temp_dir().join(format!("livepool-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let address = format!("unix:{}", dir.join("upstream.sock").display());
    let listener = livepool::Listener::bind(&address, &Default::default()).await.unwrap();
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let mut client = listener.accept().await.unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).await.unwrap();
            client.write_all(&byte).await.unwrap();
        }
    });
    let (pool, events) = watched(Config::new(address));
    for (round, byte) in [b'a', b'b'].into_iter().enumerate() {
        let mut conn = pool.get().await.unwrap();
        conn.write_all(&[byte]).await.unwrap();
        assert_eq!(conn.read_u8().await.unwrap(), byte);
        conn.release();
        // The server closes after one answer; the pool notices, on Unix sockets too.
        events.until_closed(round + 1).await;
    }
    assert_eq!(events.closed(), [livepool::CloseReason::PeerClosed; 2]);
    server.await.unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// An address whose accept queue is full, so that a connect to it hangs.
fn full_backlog() -> (std::net::SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&addr);
        kept.push(client);
    }
    kept.push(listener);
    (addr.as_socket().unwrap(), kept)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dial_that_cannot_succeed_fails_its_callers_at_once_and_those_who_come_meanwhile() {
    let upstream = Upstream::start();
    let socket = livepool::config::SocketConfig::default().with_congestion("no-such-one");
    let config = upstream.config().with_socket(socket);
    // A pause so long that whoever waits for the next dial runs into the deadline.
    let backoff =
        livepool::config::Backoff::default().with_first(60 * SECOND).with_most(60 * SECOND);
    let pool = Pool::new(config.with_backoff(backoff)).unwrap();
    let stalls = Stalls::watch();
    let callers = futures_util::future::join_all((0..5).map(|_| pool.get())).await;
    let later = pool.get().await;
    let stall = stalls.lost().await;
    for error in callers.into_iter().chain([later]).map(Result::unwrap_err) {
        assert_eq!(error.failure(), CheckoutFailure::Connect);
        assert!(
            !error.is_retryable() && error.waited() < SECOND + stall,
            "{error}, stall {stall:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_pool_whose_process_is_out_of_descriptors_says_so_and_blames_nobody_else() {
    if !alone("a_pool_whose_process_is_out_of_descriptors_says_so_and_blames_nobody_else") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let upstream = Upstream::start();
        let path = Scratch::new().path("nobody");
        let limits = Timeouts::default().with_checkout(SECOND);
        for address in [upstream.addr().to_string(), format!("unix:{}", path.display())] {
            let pool = Pool::new(Config::new(address).with_timeouts(limits)).unwrap();
            let hogs = take_all_descriptors();
            let error = pool.get().await.unwrap_err();
            let why = error.connect_error().expect("a dial has failed");
            drop(hogs);
            let advice = "this process has no file descriptors left: raise its limit (ulimit -n) \
                          or lower max_size";
            for text in [error.to_string(), why.to_string()] {
                assert!(text.contains(advice), "{text}");
                assert!(!text.contains("reachable") && !text.contains("is the upstream"), "{text}");
            }
            // Somebody may close something at any time.
            assert!(error.is_retryable() && why.is_retryable(), "{error}");
        }
        let pool = Pool::new(upstream.config()).unwrap();
        let hogs = take_all_descriptors();
        let (got, ()) = tokio::join!(pool.get(), async {
            tokio::time::sleep(SECOND / 10).await;
            drop(hogs);
        });
        assert_eq!(ask(&mut got.unwrap(), "ECHO served").await.unwrap(), "served");
    });
}

/// The peer is too far away to answer before a second socket asks it.
#[cfg(target_os = "linux")]
#[test]
fn a_connect_goes_on_though_there_is_no_descriptor_to_try_it_again_beside() {
    if !alone("a_connect_goes_on_though_there_is_no_descriptor_to_try_it_again_beside") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let nobody = livepool_testkit::blackhole::Blackhole::start();
        let limits = Timeouts::default().with_connect(SECOND);
        let config = Config::new(nobody.addr().to_string()).with_timeouts(limits);
        let connector = livepool::Connector::new(&config).unwrap();
        let mut hogs = take_all_descriptors();
        // For the first socket.
        hogs.pop();
        let error = connector.connect().await.unwrap_err();
        drop(hogs);
        assert!(error.is_timeout(), "{error}");
    });
}

/// Every descriptor this process may have.
#[cfg(target_os = "linux")]
fn take_all_descriptors() -> Vec<std::fs::File> {
    allow_only(64);
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}
