//! The sentinel under load: parked and taken out a hundred thousand times, it loses no event and
//! leaks nothing.
#![cfg(target_os = "linux")]

use livepool::CloseReason::PeerClosed;
use livepool::Release;
use livepool_testkit::{Order, Upstream, ask, until, until_seen, watched};

const TASKS: usize = 8;
const CYCLES: usize = 100_000 / TASKS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_returns_lose_no_event_and_leak_nothing() {
    let upstream = Upstream::start();
    let tasks_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (pool, events) = watched(upstream.config().with_max_size(TASKS));
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let pool = pool.clone();
        tasks.push(tokio::spawn(async move {
            for cycle in 0..CYCLES {
                let mut conn = pool.get().await.unwrap();
                // Now and then with traffic: the parked waker is replaced by a reader's, and
                // readiness is left over in every way.
                if cycle % 50 == 0 {
                    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
                    assert_eq!(conn.release(), Release::Reused);
                } else {
                    drop(conn);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(events.closed().is_empty(), "{:?}", events.closed());
    let idle = pool.status().idle;
    assert_eq!(idle, upstream.accepted());
    // Not one of the wakers that are parked now was lost.
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(idle).await, vec![PeerClosed; idle]);
    drop(pool);
    until(|| upstream.open() == 0).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    until_seen(alive, |seen| *seen == tasks_before).await;
}

#[tokio::test]
async fn a_connection_that_was_split_and_joined_is_watched_again() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let (mut reader, mut writer) = pool.get().await.unwrap().into_split();
    let reading = tokio::spawn(async move {
        reader.read_exact(&mut [0; 2]).await.unwrap();
        reader
    });
    writer.write_all(b"ECHO x\n").await.unwrap();
    let reader = reading.await.unwrap();
    assert_eq!(reader.unsplit(writer).release(), Release::Reused);
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
}
