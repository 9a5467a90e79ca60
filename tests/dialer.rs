//! Connections that are made for nobody in particular, and dials that go wrong in odd ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::{BoxFuture, Config, Pool, Resolve};
use livepool_testkit::{Upstream, exchange, until_status, watched};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

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
