//! The end of a pool: nothing is left behind, on either side.

use std::time::Duration;

use livepool::CloseReason::PoolClosed;
use livepool::error::CheckoutFailure;
use livepool::{Event, Pool, Release};
use livepool_testkit::{Upstream, ask, fill, until, until_seen, until_status, watched};

#[tokio::test]
async fn dropping_the_last_handle_closes_every_idle_socket() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 5).await;
    let other = pool.clone();
    drop(pool);
    assert!(events.closed().is_empty(), "another handle is left");
    drop(other);
    assert_eq!(events.closed(), [PoolClosed; 5]);
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn of_very_many_connections_most_are_closed_between_other_work() {
    for closes in [true, false] {
        let upstream = Upstream::start();
        let (pool, events) = watched(upstream.config().with_max_size(300));
        fill(&pool, 300).await;
        if closes {
            pool.close();
        }
        drop(pool);
        // In the time of whoever closes it.
        assert_eq!(events.closed().len(), 64);
        assert_eq!(events.until_closed(300).await, [PoolClosed; 300]);
        until(|| upstream.open() == 0).await;
    }
}

#[test]
fn of_very_many_connections_none_is_left_when_the_runtime_ends() {
    let upstream = Upstream::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (pool, events) = runtime.block_on(async {
        let (pool, events) = watched(upstream.config().with_max_size(200));
        fill(&pool, 200).await;
        (pool, events)
    });
    // Nobody runs the task that would close them.
    drop(pool);
    assert_eq!(events.closed().len(), 64);
    drop(runtime);
    assert_eq!(events.closed().len(), 200);
}

#[tokio::test]
async fn no_task_survives_the_pool() {
    let upstream = Upstream::start();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let pool = Pool::new(upstream.config()).unwrap();
    fill(&pool, 2).await;
    assert_eq!(tasks(), before + 2, "two tasks for the pool, none for a connection");
    drop(pool);
    until_seen(tasks, |seen| *seen == before).await;
}

#[tokio::test]
async fn a_connection_in_use_finishes_and_is_closed_when_it_returns() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 2).await;
    let mut conn = pool.get().await.unwrap();
    drop(pool);
    assert_eq!(events.closed(), [PoolClosed], "the idle one");
    assert_eq!(ask(&mut conn, "ECHO still").await.unwrap(), "still");
    assert_eq!(conn.release(), Release::Discarded(PoolClosed));
    assert_eq!(events.closed(), [PoolClosed; 2]);
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn closing_refuses_those_in_the_queue_and_newcomers() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(1));
    let held = pool.get().await.unwrap();
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap_err() }
    });
    until_status(&pool, |now| now.waiting == 1).await;
    pool.close();
    assert_eq!(waiter.await.unwrap().failure(), CheckoutFailure::Closed);
    let error = pool.get().await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Closed);
    assert!(!error.is_retryable());
    assert!(pool.status().closed);
    assert_eq!(held.release(), Release::Discarded(PoolClosed));
    pool.close();
}

#[tokio::test]
async fn a_dial_that_ends_after_the_pool_was_closed_leaves_no_connection() {
    let upstream = Upstream::start();
    for _ in 0..50 {
        let (pool, events) = watched(upstream.config());
        let dialing = pool.clone();
        let mut dial = Box::pin(async move { dialing.get().await });
        let started = futures_util::poll!(dial.as_mut());
        pool.close();
        let ended = match started {
            std::task::Poll::Ready(ended) => ended,
            std::task::Poll::Pending => dial.await,
        };
        drop(ended);
        drop(pool);
        assert_eq!(events.opened(), events.closed().len());
    }
    until(|| upstream.open() == 0).await;
}

#[test]
fn a_pool_may_be_made_used_and_dropped_around_runtimes() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&pool, 1));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(pool);
}

#[tokio::test]
async fn closing_ends_a_dial_that_hangs() {
    let hole = livepool_testkit::blackhole::Blackhole::start();
    let (pool, events) = watched(livepool::Config::new(hole.addr().to_string()));
    let dialing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap_err() }
    });
    until_status(&pool, |now| now.connecting == 1).await;
    pool.close();
    let error = tokio::time::timeout(Duration::from_secs(2), dialing).await;
    let error = error.expect("far sooner than the connect timeout of 5 s").unwrap();
    assert_eq!(error.failure(), CheckoutFailure::Closed);
    assert_eq!((events.opened(), pool.status().connecting), (0, 0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_is_looked_at_while_the_pool_is_closed_is_closed_too() {
    use livepool::event::Check;
    let upstream = Upstream::start();
    let pool: std::sync::Arc<std::sync::OnceLock<Pool>> = std::sync::Arc::default();
    let its = std::sync::Arc::clone(&pool);
    let closes = move |_: &str, event: &Event| {
        if let (Event::Checked { check: Check::Life, .. }, Some(pool)) = (event, its.get()) {
            pool.close();
        }
    };
    let second = std::time::Duration::from_secs(1);
    let config = upstream.config().with_max_size(1).with_max_silence(Some(4 * second));
    let made = Pool::builder(config).observer(closes).build().unwrap();
    // Its peer is heard at the end of the exchange; the pool counts from the beginning, and so looks
    // soon, and finds it alive.
    let mut conn = made.get().await.unwrap();
    tokio::time::sleep(3 * second + second / 2).await;
    livepool_testkit::ask(&mut conn, "ECHO x").await.unwrap();
    conn.release();
    assert!(pool.set(made.clone()).is_ok());
    until(|| made.status().closed).await;
    assert_eq!((made.status().idle, made.try_get().is_none()), (0, true));
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn no_task_survives_the_last_handle() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    // One address hangs, so that a dial is under way; callers wait for it.
    let hangs = livepool_testkit::blackhole::Blackhole::start();
    let pool = Pool::new(livepool::Config::new(hangs.addr().to_string())).unwrap();
    let mut caller = Box::pin(pool.get());
    assert!(futures_util::poll!(&mut caller).is_pending());
    until_status(&pool, |now| now.connecting > 0).await;
    assert!(tasks() > before);
    drop(caller);
    drop(pool);
    until_seen(tasks, |seen| *seen == before).await;
}
