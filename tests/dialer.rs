//! Connections that are made for nobody in particular, and dials that go wrong in odd ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::{Backoff, BoxFuture, Config, Pool, Resolve, Timeouts};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::lines::Lines;
use livepool_testkit::{Order, Upstream, exchange, until_status, watched};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn quiet_idle_connections_that_are_asked_for_a_sign_of_life_are_not_replaced() {
    // With and without room for more.
    // Where there is room, two are made while the first one is in use.
    for (max_size, idle) in [(2, 2), (10, 3)] {
        let upstream = Upstream::start();
        let config = upstream.config().with_max_size(max_size).with_min_idle(2);
        let (pool, events) = watched(config.with_max_silence(Some(SECOND)));
        assert_eq!(exchange(&pool, "ECHO x").await, "x");
        until_status(&pool, |now| now.idle == idle).await;
        // Asked at least once.
        sleep(SECOND * 5 / 2).await;
        assert_eq!((events.opened(), events.closed()), (idle, vec![]), "max_size {max_size}");
    }
}

#[tokio::test]
async fn an_upstream_that_accepts_and_closes_is_not_hammered_to_have_idle_connections() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let config = Config::new(addr.to_string()).with_max_size(2).with_min_idle(1);
    let pool = Pool::new(config).unwrap();
    drop(pool.get().await.map(livepool::Guard::discard));
    sleep(2 * SECOND).await;
    // 50 ms, doubling to 5 s, half of it on average: some ten. Without a pause it was thousands.
    let accepted = accepted.load(Ordering::SeqCst);
    assert!(accepted < 100, "{accepted} in 2 s");
}

struct Panics(Arc<AtomicUsize>);

impl Resolve for Panics {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        // Without the message that a panic prints.
        Box::pin(async { std::panic::resume_unwind(Box::new("on purpose")) })
    }
}

#[tokio::test]
async fn a_resolver_that_panics_is_not_asked_without_pause() {
    let asked = Arc::new(AtomicUsize::new(0));
    let config = Config::new("db.internal:1");
    let pool = Pool::builder(config).resolver(Panics(Arc::clone(&asked))).build().unwrap();
    assert!(pool.get_by(Instant::now() + SECOND).await.is_err());
    let asked = asked.load(Ordering::SeqCst);
    assert!((2..100).contains(&asked), "{asked} in 1 s");
    assert_eq!(pool.status().connecting, 0);
}

#[tokio::test]
async fn a_dial_that_began_before_a_caller_asked_fails_nobody_but_those_who_were_there() {
    let hole = Blackhole::start();
    let timeouts = Timeouts::default().with_connect(500 * MS);
    let config = Config::new(hole.addr().to_string()).with_max_size(1).with_timeouts(timeouts);
    for warms_up in [false, true] {
        let pool = Pool::builder(config.clone()).build().unwrap();
        // Whoever gives up leaves the dial to the next one.
        let given_up = pool.get_by(Instant::now() + 50 * MS).await.map(drop).unwrap_err();
        assert!(given_up.is_timeout() && pool.status().connecting == 1, "{given_up}");
        let error = match warms_up {
            false => pool.get().await.map(drop).unwrap_err(),
            true => pool.warm_up_or_fail(1).await.unwrap_err(),
        };
        let dial = error.connect_error().expect("a dial has failed").took();
        assert!(error.waited() >= dial, "by a dial of {dial:?}, after {:?}", error.waited());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_caller_waits_for_the_connection_that_is_asked_though_no_other_can_be_made() {
    let upstream = Upstream::start();
    let lines = Lines { let_in: Arc::new(AtomicUsize::new(1)), ..Lines::default() };
    // The next dial is far away.
    let backoff = Backoff::default().with_first(3600 * SECOND).with_most(3600 * SECOND);
    let config = upstream.config().with_max_size(2).with_backoff(backoff);
    let config = config.with_max_silence(Some(SECOND));
    let pool = Pool::builder(config).protocol(lines).build().unwrap();
    let first = pool.get().await.unwrap();
    let refused = pool.get().await.unwrap_err();
    assert_eq!(refused.failure(), livepool::error::CheckoutFailure::Connect);
    drop(first);
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 1).await;
    let (client, ()) = tokio::join!(pool.get(), async {
        sleep(100 * MS).await;
        upstream.order_all(&Order::Heal);
    });
    assert_eq!(client.unwrap().ask("ECHO x").await.unwrap(), "x");
    drop(pool);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_caller_who_hoped_for_a_connection_that_dies_is_told_why_no_other_is_made() {
    let upstream = Upstream::start();
    let lines = Lines { let_in: Arc::new(AtomicUsize::new(1)), ..Lines::default() };
    let backoff = Backoff::default().with_first(3600 * SECOND).with_most(3600 * SECOND);
    let timeouts = Timeouts::default().with_checkout(60 * SECOND);
    let config = upstream.config().with_max_size(2).with_backoff(backoff).with_timeouts(timeouts);
    let config = config.with_max_silence(Some(SECOND));
    let pool = Pool::builder(config).protocol(lines).build().unwrap();
    let first = pool.get().await.unwrap();
    drop(pool.get().await.unwrap_err());
    drop(first);
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 1).await;
    let error =
        tokio::time::timeout(20 * SECOND, pool.get()).await.expect("it is told").unwrap_err();
    assert_eq!(error.failure(), livepool::error::CheckoutFailure::Connect, "{error}");
}
