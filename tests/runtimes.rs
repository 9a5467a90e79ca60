//! Pools, connections and timers that outlive a runtime, or are used in more than one.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use livepool::CloseReason::{Invalidated, PeerClosed, RuntimeGone};
use livepool::{Pool, Release};
use livepool_testkit::{Order, Upstream, ask, exchange, fill, until_blocking, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_connection_is_used_in_a_second_runtime_and_again_in_the_first() {
    // The read in the second runtime waits, so a timer is registered there; it must not be touched
    // when that runtime has ended.
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1)).unwrap();
    let (first, second) = (runtime(), runtime());
    first.block_on(async { drop(pool.get().await.unwrap()) });
    second.block_on(async { assert_eq!(exchange(&pool, "SLOW 20 x").await, "x") });
    drop(second);
    first.block_on(async { assert_eq!(exchange(&pool, "SLOW 20 x").await, "x") });
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_connection_is_released_after_its_runtime_has_ended() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let first = runtime();
    let conn = first.block_on(async {
        let mut conn = pool.get().await.unwrap();
        assert_eq!(ask(&mut conn, "SLOW 20 x").await.unwrap(), "x");
        conn
    });
    drop(first);
    assert_eq!(conn.release(), Release::Discarded(RuntimeGone));
    assert_eq!(events.closed(), [RuntimeGone]);
    runtime().block_on(async { assert_eq!(exchange(&pool, "ECHO y").await, "y") });
}

#[test]
fn connections_are_made_and_watched_again_after_the_pools_runtime_has_ended() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let (one, two) = (runtime(), runtime());
    one.block_on(async { assert_eq!(exchange(&pool, "ECHO x").await, "x") });
    drop(one);
    two.block_on(async { assert_eq!(exchange(&pool, "ECHO y").await, "y") });
    assert_eq!(events.closed(), [RuntimeGone], "it belonged to the runtime that ended");
    upstream.order_all(&Order::Close);
    until_blocking(|| events.closed().len() == 2);
    assert_eq!(events.closed()[1], PeerClosed);
}

#[test]
fn a_caller_who_waits_when_the_pools_runtime_ends_is_served_in_its_own() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(1));
    let (one, two) = (runtime(), runtime());
    let held = one.block_on(pool.get()).unwrap();
    let waiting = pool.clone();
    let waiter =
        std::thread::spawn(move || two.block_on(async { exchange(&waiting, "ECHO x").await }));
    until_blocking(|| pool.status().waiting == 1);
    drop(one);
    drop(held);
    assert_eq!(waiter.join().unwrap(), "x");
}

/// There is no task to leave the rest to.
#[test]
fn the_many_connections_of_a_pool_whose_runtime_has_ended_are_closed_at_once() {
    const MANY: usize = 130;
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(MANY));
    let runtime = runtime();
    runtime.block_on(fill(&pool, MANY));
    drop(runtime);
    pool.invalidate();
    assert_eq!(events.closed(), [Invalidated; MANY]);
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn an_idle_connection_keeps_no_finished_task_alive() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    let mut conn = pool.get().await.unwrap();
    let task = Arc::new(Task);
    let waker = Waker::from(Arc::clone(&task));
    conn.write_all(b"SLOW 20 x\n").await.unwrap();
    {
        let mut answer = [0; 2];
        let mut read = Box::pin(conn.read_exact(&mut answer));
        let mut cx = Context::from_waker(&waker);
        while std::future::Future::poll(read.as_mut(), &mut cx).is_pending() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop(waker);
    assert_eq!(conn.release(), Release::Reused);
    assert_eq!(Arc::strong_count(&task), 1);
}
