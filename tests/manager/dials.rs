//! What create does: how a connection is made, and what happens while there can be none.

use std::net::SocketAddr;

use livepool::config::FirstConnect;
use livepool::error::CheckoutFailure;
use livepool::{BoxFuture, Resolve};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::port;

use super::*;

#[tokio::test]
async fn a_handshake_of_a_plain_deadpool_has_the_time_of_a_dial() {
    let upstream = Upstream::start();
    let lines = Lines { hello: "HOLD".to_owned(), ..Lines::default() };
    let timeouts = Timeouts::default().with_connect(500 * MS).with_checkout(20 * SECOND);
    let (pool, events) = plain(upstream.config().with_timeouts(timeouts), &lines, 1);
    let error = pool.get().await.unwrap_err();
    let PoolError::Backend(error) = error else { panic!("{error}") };
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("handshake"), "{error}");
    assert!(events.timed_out().contains(&Operation::Handshake));
    assert_eq!((pool.status().size, events.opened()), (0, 0));
}

struct Fixed(SocketAddr, Arc<AtomicUsize>);

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        // The first one refuses: it is the second that counts.
        Box::pin(async { Ok(vec![([127, 0, 0, 1], 1).into(), self.0]) })
    }
}

#[tokio::test]
async fn a_plain_deadpool_dials_every_address_that_its_resolver_finds() {
    let upstream = Upstream::start();
    let asked = Arc::<AtomicUsize>::default();
    let builder = Pool::builder(Config::new("db.example:5432"));
    let builder = builder.resolver(Fixed(upstream.addr(), Arc::clone(&asked)));
    let manager = builder.protocol(Lines::default()).build_manager().unwrap();
    let pool = Plain::builder(manager).max_size(1).build().unwrap();
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let peers = pool.manager().peers();
    assert_eq!(peers.len(), 2);
    assert_eq!(peers.iter().map(|peer| peer.connections).sum::<usize>(), 1);
}

#[tokio::test]
async fn the_connections_of_a_plain_deadpool_are_spread_over_the_addresses_of_its_upstream() {
    let upstreams = [Upstream::start(), Upstream::start()];
    let config = Config::new("").with_upstream(upstreams.iter().map(|up| up.addr().to_string()));
    let (pool, _) = plain(config, &Lines::default(), 4);
    let all = futures_util::future::try_join_all((0..4).map(|_| pool.get())).await.unwrap();
    assert_eq!(upstreams.each_ref().map(Upstream::accepted), [2, 2]);
    drop(all);
}

#[tokio::test]
async fn the_first_dial_of_a_plain_deadpool_that_is_refused_says_so_at_once() {
    let nobody = port::nobody();
    let (pool, _) = plain(Config::new(nobody.to_string()), &Lines::default(), 1);
    let began = Instant::now();
    let PoolError::Backend(error) = pool.get().await.unwrap_err() else { panic!() };
    assert_eq!(error.failure(), CheckoutFailure::Connect);
    assert!(error.connect_error().is_some() && error.to_string().contains("refused"), "{error}");
    assert!(began.elapsed() < 5 * SECOND, "not after timeouts.checkout");
}

#[tokio::test]
async fn callers_of_a_plain_deadpool_wait_for_an_upstream_that_restarts_and_do_not_hammer_it() {
    let mut upstream = Upstream::start();
    let addr = upstream.addr();
    let config = Config::new(addr.to_string()).with_first_connect(FirstConnect::Wait);
    let (pool, events) = plain(config, &Lines::default(), 8);
    ask(&pool, "ECHO a").await.unwrap();
    upstream.stop();
    drop(upstream);
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move { ask(&pool, &format!("ECHO {number}")).await.unwrap() })
        })
        .collect();
    sleep(SECOND).await;
    let failed = events.all().iter().filter(|e| matches!(e, Event::DialFailed { .. })).count();
    // Ten in a second on average, one at a time; eight callers for themselves would make thousands.
    assert!((1..60).contains(&failed), "{failed} dials in a second");
    let _upstream = Upstream::start_on(addr);
    for (number, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.await.unwrap(), number.to_string());
    }
}

#[tokio::test]
async fn a_dial_whose_caller_went_away_serves_the_next_caller_of_a_plain_deadpool() {
    let upstream = Upstream::start();
    let lines = Lines { hello: "SLOW 1000 hello".to_owned(), ..Lines::default() };
    let (pool, events) = plain(upstream.config(), &lines, 1);
    tokio::time::timeout(20 * MS, pool.get()).await.unwrap_err();
    assert_eq!(pool.status().size, 0);
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    assert_eq!((upstream.accepted(), events.opened()), (1, 1));
}

#[tokio::test]
async fn no_more_dials_are_under_way_than_max_connecting_in_a_plain_deadpool() {
    let blackhole = Blackhole::start();
    let timeouts = Timeouts::default().with_checkout(2 * SECOND);
    let config = Config::new(blackhole.addr().to_string()).with_timeouts(timeouts);
    let config = config.with_max_connecting(1).with_first_connect(FirstConnect::Wait);
    let (pool, _) = plain(config, &Lines::default(), 8);
    let all = futures_util::future::join_all((0..8).map(|_| pool.get()));
    let mut all = std::pin::pin!(all);
    tokio::time::timeout(100 * MS, all.as_mut()).await.unwrap_err();
    assert_eq!(pool.manager().status().connecting, 1);
    assert!(all.await.iter().all(Result::is_err));
}
