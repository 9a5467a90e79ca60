//! Each setting that can change acts on a pool that exists, its connections, and those who wait.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use livepool::CloseReason::{Drained, IdleTimeout, MaxLifetime, Resized};
use livepool::error::{CheckoutFailure, Phase};
use livepool::event::{Check, CheckVerdict};
use livepool::report::DialerWait;
use livepool::{
    Backoff, BoxFuture, Config, ConnId, Event, FirstConnect, OpTimeout, Pool, Release, Resolve,
    Timeouts,
};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::{
    Events, Order, Upstream, ask, exchange, fill, until, until_seen, until_status, watched,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{MS, SECOND, checks, unwatched};

#[tokio::test]
async fn a_shorter_idle_timeout_closes_those_that_are_over_it_at_once() {
    let upstream = Upstream::start();
    let (pool, events) = watched(unwatched(&upstream).with_idle_timeout(3600 * SECOND));
    fill(&pool, 3).await;
    tokio::time::pause();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(events.closed(), []);
    let in_use = pool.get().await.unwrap();
    pool.reconfigure(|config| config.idle_timeout = Some(30 * SECOND)).unwrap();
    // Sooner than the next tick of the old settings could be.
    tokio::time::sleep(MS).await;
    assert_eq!(events.closed(), [IdleTimeout; 2]);
    // And from now on that is the limit.
    drop(in_use);
    tokio::time::sleep(29 * SECOND).await;
    assert_eq!(pool.status().idle, 1);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(events.closed(), [IdleTimeout; 3]);
}

#[tokio::test]
async fn a_longer_idle_timeout_or_none_lets_them_stay() {
    let upstream = Upstream::start();
    let (pool, events) = watched(unwatched(&upstream).with_idle_timeout(60 * SECOND));
    fill(&pool, 2).await;
    tokio::time::pause();
    tokio::time::sleep(50 * SECOND).await;
    pool.reconfigure(|config| config.idle_timeout = None).unwrap();
    tokio::time::sleep(1000 * SECOND).await;
    assert_eq!((events.closed(), pool.status().idle), (vec![], 2));
}

#[tokio::test]
async fn a_shorter_lifetime_ends_idle_ones_at_once_and_those_in_use_when_they_come_back() {
    let upstream = Upstream::start();
    let config = unwatched(&upstream).with_idle_timeout(None).with_max_lifetime(None);
    let (pool, events) = watched(config);
    fill(&pool, 3).await;
    let (_, in_use) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    tokio::time::pause();
    tokio::time::sleep(1000 * SECOND).await;
    pool.reconfigure(|config| config.max_lifetime = Some(900 * SECOND)).unwrap();
    tokio::time::sleep(MS).await;
    assert_eq!(events.closed(), [MaxLifetime; 2]);
    assert_eq!(in_use.release(), Release::Discarded(MaxLifetime));
}

#[tokio::test]
async fn lifetimes_that_are_changed_end_as_far_apart_as_before_and_the_same_ones_first() {
    const MANY: usize = 12;
    let upstream = Upstream::start();
    let config = unwatched(&upstream).with_idle_timeout(None).with_max_size(MANY);
    let ends = async |config: Config, change: fn(&mut Config)| {
        let (pool, events) = watched(config);
        fill(&pool, MANY).await;
        tokio::time::pause();
        pool.reconfigure(change).unwrap();
        let began = Instant::now();
        while events.closed().len() < MANY {
            tokio::time::sleep(SECOND).await;
        }
        let took = began.elapsed();
        tokio::time::resume();
        assert_eq!(events.closed(), [MaxLifetime; MANY]);
        let ages: Vec<Duration> = events.all().iter().filter_map(age).collect();
        (took, ages)
    };
    fn age(event: &Event) -> Option<Duration> {
        match event {
            Event::Closed { age, .. } => Some(*age),
            _ => None,
        }
    }
    let (took, ages) = ends(config, |config| config.max_lifetime = Some(1000 * SECOND)).await;
    // Up to a quarter is taken off of each; a dozen of them all within a tenth are one of 10^5 draws.
    assert!((750..=1002).contains(&took.as_secs()), "{took:?}");
    let (first, last) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(*last - *first > 25 * SECOND, "{ages:?}");
}

#[tokio::test]
async fn a_longer_lifetime_lets_connections_live_that_were_made_under_the_shorter() {
    let upstream = Upstream::start();
    let config = unwatched(&upstream).with_idle_timeout(None).with_max_lifetime(100 * SECOND);
    let (pool, events) = watched(config);
    fill(&pool, 2).await;
    pool.reconfigure(|config| config.max_lifetime = Some(1000 * SECOND)).unwrap();
    tokio::time::pause();
    tokio::time::sleep(700 * SECOND).await;
    assert_eq!((events.closed(), pool.status().idle), (vec![], 2));
}

#[tokio::test]
async fn a_larger_min_idle_is_dialed_at_once_and_a_smaller_one_keeps_fewer() {
    let upstream = Upstream::start();
    let (pool, events) = watched(unwatched(&upstream));
    fill(&pool, 1).await;
    pool.reconfigure(|config| config.min_idle = 4).unwrap();
    until_status(&pool, |now| now.idle == 4).await;
    pool.reconfigure(|config| {
        (config.min_idle, config.idle_timeout) = (1, Some(20 * MS));
    })
    .unwrap();
    assert_eq!(events.until_closed(3).await, [IdleTimeout; 3]);
    tokio::time::sleep(100 * MS).await;
    assert_eq!((pool.status().idle, upstream.accepted()), (1, 4));
}

#[tokio::test]
async fn a_smaller_size_closes_the_surplus_and_a_larger_one_serves_those_who_wait() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    fill(&pool, 4).await;
    pool.reconfigure(|config| config.max_size = 1).unwrap();
    assert_eq!(events.until_closed(3).await, [Resized; 3]);
    let _held = pool.get().await.unwrap();
    let mut waits = Box::pin(pool.get());
    assert!(waits.as_mut().now_or_never().is_none());
    pool.reconfigure(|config| config.max_size = 2).unwrap();
    drop(waits.await.unwrap());
}

#[tokio::test]
async fn who_waits_keeps_his_time_and_who_comes_later_has_the_new_one() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_checkout(100 * SECOND);
    let (pool, _) = watched(unwatched(&upstream).with_max_size(1).with_timeouts(timeouts));
    let _held = pool.get().await.unwrap();
    tokio::time::pause();
    let began = Instant::now();
    let mut first = Box::pin(pool.get());
    assert!(first.as_mut().now_or_never().is_none());
    pool.reconfigure(|config| config.timeouts.checkout = Some(SECOND)).unwrap();
    let error = pool.get().await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Queue));
    assert_eq!(began.elapsed().as_secs(), 1);
    first.await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 100);
}

#[tokio::test]
async fn a_shorter_queue_refuses_the_next_caller_and_keeps_those_in_it() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(1));
    let held = pool.get().await.unwrap();
    let mut first = Box::pin(pool.get());
    assert!(first.as_mut().now_or_never().is_none());
    pool.reconfigure(|config| config.max_waiting = Some(0)).unwrap();
    assert_eq!(pool.get().await.unwrap_err().failure(), CheckoutFailure::QueueFull);
    drop(held);
    drop(first.await.unwrap());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn silent_peers_are_asked_from_now_on_or_no_more() {
    use livepool::CloseReason::{PeerSilent, ProbeTimeout};
    let upstream = Upstream::start();
    let (pool, events) = watched(unwatched(&upstream));
    fill(&pool, 3).await;
    let mut in_use = pool.get().await.unwrap();
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 3).await;
    pool.reconfigure(|config| config.max_silence = Some(SECOND)).unwrap();
    let read = async {
        in_use.read_u8().await.unwrap_err();
        drop(in_use);
    };
    tokio::join!(read, events.until_closed(3));
    let mut closed = events.closed();
    closed.sort_by_key(|reason| *reason != PeerSilent);
    assert_eq!(closed, [PeerSilent, ProbeTimeout, ProbeTimeout]);

    fill(&pool, 2).await;
    pool.reconfigure(|config| config.max_silence = None).unwrap();
    let before = events.all().len();
    upstream.order_all(&Order::Silence);
    // A verdict would take two seconds, and the limit of before one.
    tokio::time::sleep(5 * SECOND).await;
    let looks =
        events.all()[before..].iter().filter(|e| matches!(e, Event::Checked { .. })).count();
    assert_eq!((looks, pool.status().idle), (0, 2));
}

/// Nothing else would have it look: it has no clock of its own, and its peer says nothing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_read_that_waits_already_has_its_peer_asked_from_now_on() {
    for changes in [&[Some(SECOND)][..], &[Some(SECOND), None, Some(SECOND)]] {
        let upstream = Upstream::start();
        let config = unwatched(&upstream).with_timeouts(Timeouts::default().with_read(None));
        let (pool, _) = watched(config);
        let mut conn = pool.get().await.unwrap();
        upstream.order_all(&Order::Silence);
        until(|| upstream.silenced() == 1).await;
        let read = tokio::spawn(async move { conn.read_u8().await });
        // It waits from its first poll on.
        tokio::task::yield_now().await;
        for max_silence in changes {
            pool.reconfigure(|config| config.max_silence = *max_silence).unwrap();
            tokio::task::yield_now().await;
        }
        // A verdict takes four seconds.
        let error = tokio::time::timeout(30 * SECOND, read).await.expect("it was woken");
        let error = error.unwrap().unwrap_err();
        assert!(livepool::PeerSilent::of(&error).is_some(), "{changes:?}: {error}");
    }
}

#[tokio::test]
async fn an_operation_that_waits_without_a_limit_is_given_the_one_that_is_set() {
    // It accepts in its backlog, and reads nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let timeouts = Timeouts::default().with_read(None).with_write(None);
    let config = Config::new(listener.local_addr().unwrap().to_string());
    let config = config.with_max_silence(None).with_timeouts(timeouts);
    let (pool, _) = watched(config);
    let (mut reads, mut writes) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let read = tokio::spawn(async move { reads.read_u8().await.map(drop) });
    let write = tokio::spawn(async move {
        loop {
            writes.write_all(&[0; 1 << 20]).await?;
        }
    });
    // Until the socket takes no more.
    tokio::time::sleep(100 * MS).await;
    assert!(!read.is_finished() && !write.is_finished());
    tokio::time::pause();
    pool.reconfigure(|config| {
        let timeouts = &mut config.timeouts;
        (timeouts.read, timeouts.write) = ((2 * SECOND).into(), Some(3 * SECOND));
    })
    .unwrap();
    for (task, limit) in [(read, 2 * SECOND), (write, 3 * SECOND)] {
        let ended = tokio::time::timeout(30 * SECOND, task).await.expect("it was woken");
        let error: io::Error = ended.unwrap().unwrap_err();
        assert_eq!(OpTimeout::of(&error).unwrap().after, limit, "{error}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_was_used_lately_is_asked_as_soon_as_is_said_now() {
    let upstream = Upstream::start();
    let hour = 3600 * SECOND;
    let config = upstream.config().with_max_silence(hour).with_max_silence_after_use(None);
    let (pool, events) = watched(config);
    fill(&pool, 1).await;
    tokio::time::sleep(1500 * MS).await;
    assert_eq!(checks(&events, Check::Probe, CheckVerdict::Alive), 0);
    pool.reconfigure(|config| config.max_silence_after_use = Some(SECOND)).unwrap();
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Alive), |seen| *seen > 0).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_caller_waits_for_silent_connections_as_long_as_is_said_now() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_size(2).with_max_silence(SECOND);
    let (pool, _) = watched(config.with_patience(3600 * SECOND));
    fill(&pool, 1).await;
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 1).await;
    let waits = pool.get();
    let change = async {
        until_status(&pool, |now| now.waiting == 1).await;
        pool.reconfigure(|config| config.patience = 10 * MS).unwrap();
        // Sooner than the verdict, of which the last second is not over.
        until_status(&pool, |now| now.in_use == 1).await;
        pool.status().quarantined
    };
    let (taken, quarantined) = tokio::join!(waits, change);
    drop(taken.unwrap());
    assert_eq!(quarantined, 1);
}

#[tokio::test]
async fn a_pause_between_dials_is_cut_short() {
    let mut upstream = Upstream::start();
    let long = Backoff::default().with_first(3600 * SECOND).with_most(3600 * SECOND);
    let (pool, _) = watched(upstream.config().with_min_idle(1).with_backoff(long));
    pool.warm_up(1).await.unwrap();
    let addr = upstream.addr();
    upstream.stop();
    until_seen(|| pool.report().dialer.waits_for, |why| *why == DialerWait::Pause).await;
    let _back = Upstream::start_on(addr);
    pool.reconfigure(|config| {
        (config.backoff.first, config.backoff.most) = (10 * MS, 10 * MS);
        config.backoff.while_waiting = 10 * MS;
    })
    .unwrap();
    until_status(&pool, |now| now.idle == 1).await;
}

#[tokio::test]
async fn more_dials_are_made_at_a_time_and_each_has_the_time_it_began_with() {
    let hole = Blackhole::start();
    let config = Config::new(hole.addr().to_string())
        .with_max_connecting(1)
        .with_first_connect(FirstConnect::Wait)
        .with_timeouts(Timeouts::default().with_connect(3600 * SECOND).with_checkout(None));
    let (pool, events) = watched(config);
    let waiting = join_all((0..4).map(|_| pool.get()));
    let change = async {
        until_status(&pool, |now| now.waiting == 4 && now.connecting == 1).await;
        pool.reconfigure(|config| {
            config.max_connecting = 3;
            config.timeouts.connect = Some(50 * MS);
        })
        .unwrap();
        until_status(&pool, |now| now.connecting == 3).await;
        until(|| events.timed_out().len() >= 2).await;
        assert!(pool.status().connecting > 0, "the first one goes on");
        pool.close();
    };
    tokio::join!(waiting, change);
}

#[tokio::test]
async fn callers_are_told_of_a_wrong_setting_from_now_on() {
    // Nobody listens there any more.
    let refuses = Upstream::start().addr().to_string();
    let config = Config::new(refuses).with_first_connect(FirstConnect::Wait);
    let pool = Pool::new(config).unwrap();
    let mut waits = Box::pin(pool.get());
    assert!(tokio::time::timeout(50 * MS, &mut waits).await.is_err());
    pool.reconfigure(|config| config.first_connect = FirstConnect::FailFast).unwrap();
    assert_eq!(waits.await.unwrap_err().failure(), CheckoutFailure::Connect);
}

/// A name server whose answers a test changes.
#[derive(Clone)]
struct Names(Arc<Mutex<Vec<SocketAddr>>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let addrs = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(addrs) })
    }
}

#[tokio::test]
async fn names_are_looked_up_as_often_as_is_said_now() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let names = Names(Arc::new(Mutex::new(vec![a.addr(), b.addr()])));
    let events = Events::default();
    let config = Config::new("db.internal:1").with_dns_refresh(None);
    let pool = Pool::builder(config).resolver(names.clone()).observer(events.observer());
    let pool = pool.build().unwrap();
    drop(join_all((0..4).map(|_| pool.get())).await);
    names.0.lock().unwrap().remove(0);
    pool.reconfigure(|config| config.dns_refresh = Some(SECOND)).unwrap();
    assert_eq!(events.until_closed(2).await, [Drained; 2]);
}

/// Nobody is left waiting, and nothing is held, by a caller who goes while the size changes.
#[tokio::test]
async fn callers_who_go_during_a_change_leave_nothing_behind() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(1));
    let mut seen: Vec<ConnId> = Vec::new();
    for size in [1, 2, 3, 1, 2, 1] {
        let held = pool.get().await.unwrap();
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(pool.get())).collect();
        for wait in &mut waits {
            let _ = wait.as_mut().now_or_never();
        }
        pool.reconfigure(|config| config.max_size = size).unwrap();
        drop(waits);
        seen.push(held.id());
        drop(held);
        until_status(&pool, |now| (now.waiting, now.in_use, now.connecting) == (0, 0, 0)).await;
        assert!(pool.status().idle <= size, "{}", pool.status());
    }
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO y").await.unwrap(), "y");
}
