//! Idle connections that die or outstay their time leave the pool before anybody asks for them.

use std::time::Duration;

use livepool::CloseReason::{Dirty, IdleTimeout, MaxLifetime, PeerClosed, Reset, RuntimeGone};
use livepool::{Pool, Release};
use livepool_testkit::{Order, Upstream, ask, exchange, fill, until, until_status, watched};

async fn evicts_without_a_checkout(order: Order, reason: livepool::CloseReason) {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 5).await;
    upstream.order_all(&order);
    assert_eq!(events.until_closed(5).await, [reason; 5]);
    let status = pool.status();
    assert_eq!((status.idle, status.in_use, status.connecting), (0, 0, 0), "slots are free");
    // Nobody noticed: the next caller gets a new connection.
    assert_eq!(exchange(&pool, "ECHO hello").await, "hello");
    assert_eq!(upstream.accepted(), 6);
}

#[tokio::test]
async fn idle_connections_that_the_peer_closes_are_evicted_at_once() {
    evicts_without_a_checkout(Order::Close, PeerClosed).await;
}

#[tokio::test]
async fn idle_connections_that_the_peer_resets_are_evicted_at_once() {
    evicts_without_a_checkout(Order::Reset, Reset).await;
}

#[tokio::test]
async fn a_half_close_is_the_end_of_an_idle_connection() {
    evicts_without_a_checkout(Order::HalfClose, PeerClosed).await;
}

#[tokio::test]
async fn bytes_nobody_asked_for_make_an_idle_connection_dirty() {
    evicts_without_a_checkout(Order::Say(b"hello".to_vec()), Dirty).await;
}

#[tokio::test]
async fn a_goodbye_message_before_the_close_is_dirt_and_not_an_answer() {
    evicts_without_a_checkout(Order::SayAndClose(b"FATAL".to_vec()), Dirty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eviction_works_on_a_multi_threaded_runtime_too() {
    evicts_without_a_checkout(Order::Close, PeerClosed).await;
}

#[tokio::test]
async fn only_the_dead_one_is_taken_from_the_middle_of_the_store() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut guards = Vec::new();
    for _ in 0..3 {
        let mut conn = pool.get().await.unwrap();
        ask(&mut conn, "ECHO hello").await.unwrap();
        guards.push(conn);
    }
    let livepool::net::PeerAddr::Tcp(middle) = guards[1].local_addr().clone() else { panic!() };
    let dead = guards[1].id();
    for conn in guards {
        conn.release();
    }
    upstream.order(middle, Order::Close);
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
    assert_eq!(pool.status().idle, 2);
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert!(a.id() != dead && b.id() != dead);
    assert_eq!(upstream.accepted(), 3, "the two others are reused");
}

#[tokio::test]
async fn a_close_is_seen_although_the_last_answer_filled_the_buffer_exactly() {
    // A read that fills its buffer leaves tokio's readiness set: parking has to clear it.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"BULK 9\n").await.unwrap();
    conn.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(conn.release(), Release::Reused);
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
}

#[tokio::test]
async fn a_close_is_seen_although_the_returning_task_had_spent_its_coop_budget() {
    // With the budget spent, tokio's poll_read_ready returns Pending without registering.
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 1).await;
    let conn = pool.get().await.unwrap();
    std::future::poll_fn(|cx| {
        while tokio::task::coop::has_budget_remaining() {
            let mut unit = std::pin::pin!(tokio::task::coop::consume_budget());
            let _ = std::future::Future::poll(unit.as_mut(), cx);
        }
        std::task::Poll::Ready(())
    })
    .await;
    drop(conn);
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
}

#[tokio::test]
async fn what_happens_to_a_connection_in_use_does_not_touch_it() {
    // The parked waker stays in the reader's slot until the first read and fires on the answer.
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    for round in 0..200 {
        let mut conn = pool.get().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut conn, b"ECHO x\n").await.unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
        assert_eq!(livepool_testkit::answer(&mut conn).await.unwrap(), "x", "round {round}");
        assert_eq!(conn.release(), Release::Reused);
    }
    assert!(events.closed().is_empty());
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_dies_in_use_is_not_returned() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    ask(&mut conn, "ECHO x").await.unwrap();
    upstream.order_all(&Order::Close);
    until(|| upstream.open() == 0).await;
    // Whether the reactor has told tokio by now or the peek finds it, nobody gets it.
    let _ = conn.release();
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
    assert_eq!(exchange(&pool, "ECHO y").await, "y");
}

#[tokio::test]
async fn idle_time_counts_from_the_return_and_not_from_the_checkout() {
    let upstream = Upstream::start();
    // The kernel's clock is not paused: it is asked nothing here.
    let config = upstream.config().with_max_silence(None);
    let (pool, events) = watched(config.with_idle_timeout(Some(Duration::from_secs(60))));
    let conn = pool.get().await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(100)).await;
    drop(conn);
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(pool.status().idle, 1, "used for 100 s, idle for 58 s");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(events.closed(), [IdleTimeout]);
    assert_eq!(pool.status().idle, 0);
}

#[tokio::test]
async fn lifetime_ends_idle_connections_and_those_in_use_when_they_return() {
    let upstream = Upstream::start();
    let config = upstream
        .config()
        .with_idle_timeout(None)
        // The kernel's clock is not paused: it is asked nothing here.
        .with_max_silence(None)
        .with_max_lifetime(Some(Duration::from_secs(1000)));
    let (pool, events) = watched(config);
    let (idle, used) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    tokio::time::pause();
    drop(idle);
    // Up to a quarter is taken off at random, so that connections made together end apart.
    tokio::time::sleep(Duration::from_secs(740)).await;
    assert!(events.closed().is_empty());
    tokio::time::sleep(Duration::from_secs(262)).await;
    assert_eq!(events.closed(), [MaxLifetime]);
    assert_eq!(used.release(), Release::Discarded(MaxLifetime));
}

#[test]
fn a_pool_outlives_the_runtime_its_connections_were_made_in() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let first = runtime();
    first.block_on(fill(&pool, 2));
    drop(first);
    // The sockets look healthy to a peek, and every read on them would fail.
    runtime().block_on(async {
        assert_eq!(exchange(&pool, "ECHO again").await, "again");
        assert_eq!(events.closed(), [RuntimeGone, RuntimeGone]);
        // The maintenance task of the first runtime is gone; a new one has taken over.
        upstream.order_all(&Order::Close);
        assert_eq!(events.until_closed(3).await[2], PeerClosed);
    });
}

#[test]
fn a_guard_may_be_dropped_outside_a_runtime() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime.block_on(pool.get()).unwrap();
    drop(guard);
    assert_eq!(pool.status().idle, 1);
    let guard = runtime.block_on(pool.get()).unwrap();
    drop(runtime);
    drop(guard);
    assert_eq!(pool.status().idle, 0, "its runtime is gone");
    drop(pool);
}

/// It goes straight to whoever waits, without having been idle for a moment.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_was_closed_in_use_is_not_passed_on_to_whoever_waits() {
    for (order, reason) in [(Order::Close, PeerClosed), (Order::Say(b"surprise\n".to_vec()), Dirty)]
    {
        let upstream = Upstream::start();
        let (pool, events) = watched(upstream.config().with_max_size(1));
        let mut first = pool.get().await.unwrap();
        assert_eq!(ask(&mut first, "ECHO x").await.unwrap(), "x");
        let old = first.id();
        let waiting = pool.clone();
        let waiter = tokio::spawn(async move { waiting.get().await.unwrap() });
        until_status(&pool, |now| now.waiting == 1).await;
        upstream.order_all(&order);
        until(|| arrived(&upstream, &order)).await;
        assert_eq!(first.release(), Release::Discarded(reason));
        let mut second = waiter.await.unwrap();
        assert_ne!(second.id(), old);
        assert_eq!(ask(&mut second, "ECHO y").await.unwrap(), "y");
        assert_eq!(events.closed(), [reason]);
    }
}

/// Whether what was ordered is in our kernel.
#[cfg(target_os = "linux")]
fn arrived(upstream: &Upstream, order: &Order) -> bool {
    match order {
        Order::Close => {
            livepool_testkit::sockets_to(upstream.addr(), livepool_testkit::CLOSE_WAIT) == 1
        }
        _ => livepool_testkit::unread_from(upstream.addr()) > 0,
    }
}
