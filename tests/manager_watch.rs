//! `Manager::watch` over a plain deadpool pool: idle connections are looked after, and those that have
//! ended are out of it, though nobody asks for one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Object};
use futures_util::future::{join_all, try_join_all};
use livepool::protocol::{Protocol, Raw};
use livepool::{
    BoxFuture, CloseReason, Config, Connection, Event, Manager, PeerAddr, PeerState, Pool, Release,
    Resolve,
};
use livepool_testkit::lines::Lines;
use livepool_testkit::{Events, Order, Upstream, until, until_seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

type Plain<P = Lines> = managed::Pool<Manager<P>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn watched<P: Protocol>(config: Config, protocol: P, size: usize) -> (Plain<P>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer()).protocol(protocol);
    let pool = Plain::builder(builder.build_manager().unwrap()).max_size(size).build().unwrap();
    Manager::watch(&pool);
    (pool, events)
}

fn lines(config: Config, size: usize) -> (Plain, Events) {
    watched(config, Lines::default(), size)
}

fn bare(config: Config, size: usize) -> (Plain<Raw>, Events) {
    watched(config, Raw::default(), size)
}

async fn ask(pool: &Plain, line: &str) -> io::Result<String> {
    pool.get().await.map_err(io::Error::other)?.ask(line).await
}

/// Has so many connections, all of them idle and watched.
async fn fill<P: Protocol>(pool: &Plain<P>, count: usize) {
    drop(try_join_all((0..count).map(|_| pool.get())).await.unwrap());
    until_seen(|| pool.manager().status(), |status| status.idle == count).await;
}

/// One exchange over a bare stream.
async fn echo(conn: &mut Object<Manager>, text: &str) {
    conn.write_all(format!("ECHO {text}\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len() + 1];
    conn.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{text}\n").as_bytes());
}

async fn are_out_at_once<P: Protocol>(pool: &Plain<P>, events: &Events, upstream: &Upstream) {
    for (order, reason) in [
        (Order::Close, CloseReason::PeerClosed),
        (Order::Reset, CloseReason::Reset),
        (Order::Say(b"late\n".to_vec()), CloseReason::Dirty),
    ] {
        let before = events.closed().len();
        fill(pool, 4).await;
        upstream.order_all(&order);
        let closed = events.until_closed(before + 4).await;
        assert_eq!(closed[before..], [reason; 4], "{order:?}");
        // Taken out, and not only known to be dead.
        until_seen(|| pool.status().size, |size| *size == 0).await;
        assert_eq!(pool.status().available, 0);
        until(|| upstream.open() == 0).await;
    }
    assert_eq!(pool.manager().status().idle, 0);
}

#[tokio::test]
async fn idle_connections_of_a_watched_deadpool_that_end_are_taken_out_at_once() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 4);
    are_out_at_once(&pool, &events, &upstream).await;
}

#[tokio::test]
async fn idle_bare_streams_of_a_watched_deadpool_that_end_are_taken_out_at_once() {
    let upstream = Upstream::start();
    let (pool, events) = bare(upstream.config(), 4);
    are_out_at_once(&pool, &events, &upstream).await;
}

#[cfg(target_os = "linux")]
async fn silent_ones_are_out<P: Protocol>(pool: &Plain<P>, events: &Events, upstream: &Upstream) {
    fill(pool, 8).await;
    upstream.order_all(&Order::Silence);
    assert_eq!(events.until_closed(8).await, [CloseReason::ProbeTimeout; 8]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    assert_eq!(pool.manager().status().quarantined, 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn silent_peers_of_a_watched_deadpool_are_found_while_nobody_asks() {
    let of_clients = async {
        let upstream = Upstream::start();
        let (pool, events) = lines(upstream.config().with_max_silence(Some(SECOND)), 8);
        silent_ones_are_out(&pool, &events, &upstream).await;
    };
    let of_bare_streams = async {
        let upstream = Upstream::start();
        let (pool, events) = bare(upstream.config().with_max_silence(Some(SECOND)), 8);
        silent_ones_are_out(&pool, &events, &upstream).await;
    };
    tokio::join!(of_clients, of_bare_streams);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn quiet_peers_of_a_watched_deadpool_are_asked_and_stay_in_use() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config().with_max_silence(Some(SECOND)), 4);
    fill(&pool, 4).await;
    let alive = |event: &Event| {
        let Event::Checked { check, verdict, .. } = event else { return false };
        *check == livepool::event::Check::Probe && *verdict == livepool::event::CheckVerdict::Alive
    };
    until_seen(|| events.all().iter().filter(|event| alive(event)).count(), |seen| *seen >= 4)
        .await;
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    assert_eq!((events.opened(), events.closed(), pool.status().size), (4, vec![], 4));
}

#[tokio::test]
async fn connections_of_a_watched_deadpool_that_are_idle_too_long_or_too_old_are_taken_out() {
    let upstream = Upstream::start();
    let config = upstream.config().with_idle_timeout(Some(300 * MS));
    let (pool, events) = lines(config, 2);
    fill(&pool, 2).await;
    assert_eq!(events.until_closed(2).await, [CloseReason::IdleTimeout; 2]);
    until_seen(|| pool.status().size, |size| *size == 0).await;

    let (pool, events) = lines(upstream.config().with_max_lifetime(SECOND), 2);
    drop(try_join_all((0..2).map(|_| pool.get())).await.unwrap());
    assert_eq!(events.until_closed(2).await, [CloseReason::MaxLifetime; 2]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
}

#[tokio::test]
async fn idle_connections_of_a_watched_deadpool_end_with_an_invalidation() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 4);
    fill(&pool, 4).await;
    pool.manager().invalidate();
    assert_eq!(events.closed(), [CloseReason::Invalidated; 4]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
}

#[tokio::test]
async fn what_a_caller_has_given_up_ends_though_nobody_asks_for_the_connection() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 2);
    let client = pool.get().await.unwrap();
    tokio::time::timeout(10 * MS, client.ask("HOLD")).await.unwrap_err();
    drop(client);
    assert_eq!(events.until_closed(1).await, [CloseReason::Unfinished]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    // An answer that comes soon harms nobody.
    let client = pool.get().await.unwrap();
    let _ = tokio::time::timeout(10 * MS, client.ask("SLOW 100 late")).await;
    drop(client);
    until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    assert_eq!(events.closed().len(), 1);
}

#[tokio::test]
async fn a_bare_stream_that_was_dropped_without_a_word_is_taken_out_of_a_watched_deadpool() {
    let upstream = Upstream::start();
    let (pool, events) = bare(upstream.config(), 2);
    let mut conn = pool.get().await.unwrap();
    echo(&mut conn, "x").await;
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::Unfinished]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    until(|| upstream.open() == 0).await;
    let mut conn = pool.get().await.unwrap();
    echo(&mut conn, "x").await;
    assert_eq!(conn.finish(), None);
    drop(conn);
    until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
    assert_eq!(pool.status().available, 1);
}

#[tokio::test]
async fn a_released_connection_is_watched_at_once() {
    let upstream = Upstream::start();
    let (pool, events) = bare(upstream.config(), 1);
    let mut conn = pool.get().await.unwrap();
    echo(&mut conn, "x").await;
    assert_eq!(Connection::release(conn), Release::Reused);
    assert_eq!(pool.manager().status().idle, 1, "there was no wait");
    let last = events.all().pop();
    assert!(matches!(last, Some(Event::Returned { .. })), "{last:?}");
    let mut conn = pool.get().await.unwrap();
    assert_eq!(pool.manager().status().in_use, 1);
    echo(&mut conn, "y").await;
    assert_eq!(upstream.accepted(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_bare_stream_has_a_second_descriptor_only_while_it_is_watched() {
    if !livepool_testkit::alone::alone(
        "a_bare_stream_has_a_second_descriptor_only_while_it_is_watched",
    ) {
        return;
    }
    let upstream = Upstream::start();
    let (pool, _) = bare(upstream.config(), 8);
    let all = try_join_all((0..8).map(|_| pool.get())).await.unwrap();
    // Those of the upstream are in this process, too.
    until(|| upstream.open() == 8).await;
    let used = livepool_testkit::open_fds();
    drop(all);
    until_seen(|| pool.manager().status().idle, |idle| *idle == 8).await;
    assert_eq!(livepool_testkit::open_fds(), used + 8);
    let _all = try_join_all((0..8).map(|_| pool.get())).await.unwrap();
    assert_eq!(livepool_testkit::open_fds(), used);
}

#[tokio::test]
async fn the_watch_ends_with_its_pool_and_keeps_it_not() {
    let upstream = Upstream::start();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (pool, events) = bare(upstream.config(), 4);
    fill(&pool, 4).await;
    assert!(tasks() > before);
    drop(pool);
    // Not even at the next look: whoever drops the pool closes its connections.
    assert_eq!(events.closed(), [CloseReason::PoolClosed; 4]);
    until_seen(tasks, |count| *count == before).await;
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn the_watch_ends_when_its_pool_is_closed_and_begins_again_with_another_one() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 2);
    let manager = pool.manager().clone();
    fill(&pool, 2).await;
    // While it is watched, once more is nothing.
    Manager::watch(&pool);
    pool.close();
    assert_eq!(events.closed(), [CloseReason::Discarded; 2]);
    // Until the watch has found out.
    let again = Plain::builder(manager).max_size(2).build().unwrap();
    let began = Instant::now();
    loop {
        Manager::watch(&again);
        drop(again.get().await.unwrap());
        sleep(100 * MS).await;
        if again.manager().status().idle > 0 {
            break;
        }
        assert!(began.elapsed() < 30 * SECOND, "{:?}", again.manager().status());
    }
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(3).await[2], CloseReason::PeerClosed);
}

#[test]
fn a_watch_ends_with_its_runtime_and_another_one_may_begin() {
    let upstream = Upstream::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (pool, events) = first.block_on(async {
        let (pool, events) = lines(upstream.config(), 2);
        fill(&pool, 2).await;
        (pool, events)
    });
    drop(first);
    runtime().block_on(async {
        Manager::watch(&pool);
        assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
        let closed = events.until_closed(2).await;
        let dead = [CloseReason::RuntimeGone, CloseReason::Discarded];
        assert!(closed.iter().all(|reason| dead.contains(reason)), "{closed:?}");
        until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
        upstream.order_all(&Order::Close);
        assert_eq!(events.until_closed(3).await[2], CloseReason::PeerClosed);
    });
}

#[tokio::test]
async fn the_status_of_a_manager_says_what_is_idle_and_how_many_deadpool_may_have() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 7);
    fill(&pool, 3).await;
    until_seen(|| pool.manager().status().max_size, |most| *most == 7).await;
    let one = pool.get().await.unwrap();
    let status = pool.manager().status();
    assert_eq!((status.idle, status.in_use), (2, 1), "{status}");
    pool.resize(2);
    until_seen(|| pool.manager().status().max_size, |most| *most <= 2).await;
    drop(one);
    assert!(pool.status().size <= 2);
    assert!(!events.closed().is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_whose_connections_are_silent_is_ejected_from_a_watched_deadpool() {
    let [lost, other] = [Upstream::start(), Upstream::start()];
    let config = Config::new("").with_upstream([lost.addr(), other.addr()].map(|a| a.to_string()));
    let (pool, events) = lines(config.with_max_silence(Some(SECOND)), 4);
    fill(&pool, 4).await;
    lost.order_all(&Order::Silence);
    let state = || {
        let peers = pool.manager().peers();
        peers.into_iter().find(|peer| peer.addr == PeerAddr::Tcp(lost.addr())).unwrap().state
    };
    until_seen(state, |state| *state == PeerState::Ejected).await;
    let closed = events.until_closed(2).await;
    let silent = [CloseReason::ProbeTimeout, CloseReason::PeerEjected];
    assert!(closed.iter().all(|reason| silent.contains(reason)), "{closed:?}");
    let all = try_join_all((0..4).map(|_| pool.get())).await.unwrap();
    assert!(all.iter().all(|conn| *conn.peer_addr() == PeerAddr::Tcp(other.addr())));
}

/// Finds the one address until it is told another.
#[derive(Clone)]
struct Told(Arc<std::sync::Mutex<SocketAddr>>);

impl Resolve for Told {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let addr = *self.0.lock().unwrap();
        Box::pin(async move { Ok(vec![addr]) })
    }
}

#[tokio::test]
async fn connections_to_an_address_that_left_its_name_are_drained_from_a_watched_deadpool() {
    let [old, new] = [Upstream::start(), Upstream::start()];
    let told = Told(Arc::new(std::sync::Mutex::new(old.addr())));
    let events = Events::default();
    let config = Config::new("db.example:5432").with_dns_refresh(Some(SECOND));
    let builder = Pool::builder(config).observer(events.observer()).resolver(told.clone());
    let manager = builder.protocol(Lines::default()).build_manager().unwrap();
    let pool = Plain::builder(manager).max_size(2).build().unwrap();
    Manager::watch(&pool);
    fill(&pool, 2).await;
    *told.0.lock().unwrap() = new.addr();
    assert_eq!(events.until_closed(2).await, [CloseReason::Drained; 2]);
    assert_eq!(*pool.get().await.unwrap().peer_addr(), PeerAddr::Tcp(new.addr()));
}

/// The runtime has one thread, this one, so that everything happens under this recorder.
#[tokio::test]
async fn what_happens_in_a_watched_deadpool_is_counted_as_in_a_pool() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config().with_name("counted"), 5);
    fill(&pool, 2).await;
    for _ in 0..3 {
        assert_eq!(Connection::release(pool.get().await.unwrap()), Release::Reused);
    }
    let holds = |line: &str| {
        let (line, render) = (line.to_owned(), handle.clone());
        async move {
            until_seen(|| render.render(), |text| text.lines().any(|seen| seen == line)).await;
        }
    };
    holds(r#"livepool_connections{pool="counted",state="idle"} 2"#).await;
    holds(r#"livepool_connections_max{pool="counted"} 5"#).await;
    holds(r#"livepool_dials_total{pool="counted",outcome="ok"} 2"#).await;
    holds(r#"livepool_checkouts_total{pool="counted",outcome="ok"} 5"#).await;
    // Of those that were released. Of the others nobody knows how long they were in use.
    holds(r#"livepool_use_seconds_count{pool="counted"} 3"#).await;
    upstream.order_all(&Order::Close);
    events.until_closed(2).await;
    holds(r#"livepool_evictions_total{pool="counted",reason="peer_closed"} 2"#).await;
    holds(r#"livepool_closed_total{pool="counted",reason="peer_closed"} 2"#).await;
    holds(r#"livepool_connections{pool="counted",state="idle"} 0"#).await;
}

#[tokio::test]
async fn deadpools_own_retain_works_beside_the_watch() {
    let upstream = Upstream::start();
    let (pool, events) = lines(upstream.config(), 4);
    fill(&pool, 4).await;
    let one = pool.get().await.unwrap();
    let kept = one.id();
    drop(one);
    let result = pool.retain(|conn, _| conn.id() == kept);
    assert_eq!((result.retained, result.removed.len()), (1, 3));
    drop(result);
    assert_eq!(events.closed(), [CloseReason::Discarded; 3]);
    assert_eq!(pool.get().await.unwrap().id(), kept);
}

/// Callers, some of whom give up, beside a watch, an upstream that ends connections, and somebody who
/// takes idle ones out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_anothers_answer_and_every_connection_ends_once_whatever_the_watch_does() {
    let upstream = Upstream::start();
    let config = upstream.config().with_idle_timeout(Some(20 * MS));
    let (pool, events) = lines(config, 6);
    let seed = livepool_testkit::seed::seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let served = Arc::<AtomicUsize>::default();
    let callers = (0..12).map(|caller| {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        let mut rng = rng.fork();
        tokio::spawn(async move {
            for round in 0..60 {
                let Ok(conn) = pool.get().await else { continue };
                let mine = format!("{caller}-{round}");
                let (ms, mut limit) = (rng.u32(0..4), rng.u32(0..6));
                if rng.u8(0..4) == 0 {
                    // Patient ones are served on a busy machine, too.
                    limit = 20_000;
                }
                let line = format!("SLOW {ms} {mine}");
                let asked = tokio::time::timeout(limit * MS, conn.ask(&line));
                if let Ok(Ok(answer)) = asked.await {
                    assert_eq!(answer, mine);
                    served.fetch_add(1, Ordering::Relaxed);
                }
                match rng.u8(0..4) {
                    0 => drop(Connection::release(conn)),
                    1 => drop(Object::take(conn)),
                    _ => drop(conn),
                }
                sleep(rng.u32(0..30) * MS).await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for round in 0..20 {
        sleep(rng.u32(5..40) * MS).await;
        match round % 3 {
            0 => upstream.order_all(&Order::Close),
            1 => upstream.order_all(&Order::Reset),
            _ => drop(pool.retain(|_, metrics| metrics.recycle_count % 3 != 0)),
        }
    }
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 100, "{served:?}");
    drop(pool);
    until_seen(|| upstream.open(), |open| *open == 0).await;
    // A peer that closed it was first.
    events.until_closed(events.opened()).await;
    let mut ends = std::collections::BTreeMap::new();
    for event in events.all() {
        match event {
            Event::Opened { conn, .. } => assert_eq!(ends.insert(conn, 0), None),
            Event::Closed { conn, .. } => *ends.get_mut(&conn).unwrap() += 1,
            _ => {}
        }
    }
    assert!(ends.values().all(|closes| *closes == 1), "{ends:?}");
}
