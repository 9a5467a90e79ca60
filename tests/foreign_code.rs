//! Observers and recorders are called in the middle of everything; whatever they do, nothing breaks.

mod support;

use futures_util::FutureExt;
use livepool::{Event, Pool};
use support::{Upstream, exchange, fill};

#[tokio::test]
async fn an_observer_may_use_another_pool() {
    let upstream = Upstream::start();
    let other = Pool::new(upstream.config().with_max_size(2)).unwrap();
    let used = other.clone();
    let observer = move |_: &str, event: &Event| {
        if matches!(event, Event::Checked { .. } | Event::Closed { .. }) {
            let _ = used.get().now_or_never();
        }
    };
    let config = upstream.config().with_max_size(2);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    fill(&pool, 1).await;
    let held = pool.get().await.unwrap();
    let dialing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert_eq!(pool.status().connecting, 1);
    // Idle again before the dial is over: the new connection enters a store that is not empty.
    drop(held);
    drop(dialing.await.unwrap());
    assert_eq!(pool.status().idle, 2);
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(exchange(&other, "ECHO y").await, "y");
}

#[tokio::test]
async fn an_observer_that_panics_costs_nobody_a_connection() {
    let upstream = Upstream::start();
    let observer = |_: &str, _: &Event| panic!("on purpose");
    let config = upstream.config().with_max_size(1);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    for _ in 0..3 {
        assert_eq!(exchange(&pool, "ECHO x").await, "x");
        pool.get().await.unwrap().discard();
    }
    let status = pool.status();
    assert_eq!((status.idle, status.in_use, status.connecting), (0, 0, 0));
}
