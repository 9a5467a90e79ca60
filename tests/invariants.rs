//! Whatever callers and upstream do: never more connections than allowed, and nothing is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use livepool::net::PeerAddr;
use livepool::{Event, Guard, Pool, Timeouts};
use livepool_testkit::{Order, Upstream, answer, ask, fill, until, until_seen, until_status};
use tokio::io::AsyncWriteExt;

const SIZE: usize = 4;
const TASKS: u64 = 12;
const OPERATIONS: usize = 500;

/// Watches one pool: from its events, and from wherever else `look` is called.
#[derive(Default)]
struct Watch {
    pool: RwLock<Option<Pool>>,
    looks: AtomicUsize,
    fullest: AtomicUsize,
    broken: RwLock<Option<String>>,
}

impl Watch {
    fn look(&self) {
        let pool = self.pool.read().unwrap();
        let Some(pool) = &*pool else { return };
        let now = pool.status();
        let sum = now.idle + now.in_use + now.connecting;
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.fullest.fetch_max(sum, Ordering::Relaxed);
        if sum > now.max_size || now.max_size != SIZE {
            self.broken.write().unwrap().get_or_insert(now.to_string());
        }
    }
}

/// One random thing a caller may do.
async fn operation(pool: &Pool, upstream: &Upstream, rng: &mut fastrand::Rng) {
    let patience = Duration::from_micros(rng.u64(0..3000));
    // Cancelled in the queue, in a dial, or not at all.
    let Ok(got) = tokio::time::timeout(patience, pool.get()).await else { return };
    let mut conn = got.unwrap();
    match rng.u8(0..10) {
        0..3 => {
            // The upstream may have ended it in this very moment.
            if let Ok(text) = ask(&mut conn, "ECHO mine").await {
                assert_eq!(text, "mine");
                conn.release();
            }
        }
        3 => drop(conn),
        4 => {
            let _ = conn.write_all(b"SLOW 1 late\n").await;
            drop(conn);
        }
        5 => {
            let _ = conn.write_all(b"SLOW 1 late\n").await;
            let read = answer(&mut conn);
            let _ = tokio::time::timeout(Duration::from_micros(rng.u64(0..1500)), read).await;
            conn.release();
        }
        6 => conn.discard(),
        7 => {
            let detached = conn.detach();
            tokio::time::sleep(Duration::from_micros(rng.u64(0..500))).await;
            drop(detached);
        }
        8 => {
            let order = if rng.bool() { Order::Close } else { Order::Reset };
            upstream.order(local(&conn), order);
            drop(conn);
        }
        _ => {
            let (read, write) = conn.into_split();
            tokio::task::yield_now().await;
            drop(read);
            drop(write);
        }
    }
}

fn local(conn: &Guard) -> std::net::SocketAddr {
    match conn.local_addr() {
        PeerAddr::Tcp(addr) => *addr,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_never_more_connections_than_allowed_and_none_is_lost() {
    let seed = livepool_testkit::seed::seed();
    let upstream = Arc::new(Upstream::start());
    let watch = Arc::new(Watch::default());
    let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let observer = {
        let (watch, opened, closed) =
            (Arc::clone(&watch), Arc::clone(&opened), Arc::clone(&closed));
        move |_: &str, event: &Event| {
            match event {
                Event::Opened { .. } => _ = opened.fetch_add(1, Ordering::SeqCst),
                Event::Closed { .. } => _ = closed.fetch_add(1, Ordering::SeqCst),
                _ => {}
            }
            watch.look();
        }
    };
    let config = upstream.config().with_max_size(SIZE);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    *watch.pool.write().unwrap() = Some(pool.clone());

    let over = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (watch, over) = (Arc::clone(&watch), Arc::clone(&over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                watch.look();
                std::thread::yield_now();
            }
        })
    };
    let tasks = (0..TASKS).map(|task| {
        let (pool, upstream) = (pool.clone(), Arc::clone(&upstream));
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(task));
        tokio::spawn(async move {
            for _ in 0..OPERATIONS {
                operation(&pool, &upstream, &mut rng).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    sampler.join().unwrap();
    // The observer would keep the pool, and the pool the observer.
    *watch.pool.write().unwrap() = None;

    println!(
        "{} looks, {} connections at most, {} opened",
        watch.looks.load(Ordering::Relaxed),
        watch.fullest.load(Ordering::Relaxed),
        opened.load(Ordering::SeqCst),
    );
    assert_eq!(*watch.broken.read().unwrap(), None, "more than {SIZE}");
    assert_eq!(watch.fullest.load(Ordering::Relaxed), SIZE, "it was never full: a weak test");

    // Nothing is left of 6000 operations: every slot is there.
    until_status(&pool, |now| {
        (now.in_use, now.connecting, now.waiting) == (0, 0, 0) && upstream.open() == now.idle
    })
    .await;
    // What was ordered to end and is still idle would end while it is asked.
    upstream.order_all(&Order::Close);
    until_status(&pool, |now| now.idle == 0 && upstream.open() == 0).await;
    fill(&pool, SIZE).await;
    drop(pool);
    let counts = || (closed.load(Ordering::SeqCst), opened.load(Ordering::SeqCst));
    until_seen(counts, |(closed, opened)| closed == opened).await;
    until(|| upstream.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn nobody_waits_while_a_connection_is_idle() {
    // Two slots and three callers, one of whom makes the pool dial all the time: new connections
    // come into the store just when others leave it and come back to it. Several such pools, and
    // more threads than cores, so that callers are interrupted everywhere.
    let upstream = Upstream::start();
    let never_needed = Timeouts::default().with_checkout(Duration::from_secs(8));
    let config = upstream.config().with_max_size(2).with_timeouts(never_needed);
    let pools = (0..8).map(|_| Pool::new(config.clone()).unwrap()).collect::<Vec<_>>();
    let tasks = (0..3 * pools.len()).map(|task| {
        let pool = pools[task / 3].clone();
        tokio::spawn(async move {
            for round in 0..600 {
                let conn = pool.get().await.unwrap_or_else(|error| panic!("{round}: {error}"));
                match task % 3 {
                    0 => conn.discard(),
                    _ => drop(conn),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}
