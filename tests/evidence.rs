//! What one connection shows of its peer is told to its siblings at once: they are asked, nobody is
//! handed out unasked, and nobody is evicted without proof.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use livepool::config::Validation;
use livepool::event::{Check, CheckVerdict};
use livepool::{BoxFuture, CloseReason, Config, Event, Ping, Pool, Release, Stream, Timeouts};
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, Order, Upstream, ask, exchange, fill, until, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Echoes until it has moved to another machine: then whatever comes over a connection from before
/// is answered by a reset, as by a kernel that does not know it.
struct Moving {
    addr: SocketAddr,
    has_moved: Arc<AtomicBool>,
}

impl Moving {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let has_moved = Arc::new(AtomicBool::new(false));
        let moved = Arc::clone(&has_moved);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let moved = Arc::clone(&moved);
                let is_old = !moved.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut bytes = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                        if is_old && moved.load(Ordering::SeqCst) {
                            let linger = Some(Duration::ZERO);
                            socket2::SockRef::from(&stream).set_linger(linger).unwrap();
                            return;
                        }
                        let _ = stream.write_all(&bytes[..count]).await;
                    }
                });
            }
        });
        Self { addr, has_moved }
    }

    fn config(&self) -> Config {
        Config::new(self.addr.to_string()).with_max_size(16)
    }

    fn moves(&self) {
        self.has_moved.store(true, Ordering::SeqCst);
    }
}

/// So many connections, each of which has served somebody.
async fn used(pool: &Pool, count: usize) {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get().await.unwrap();
        conn.write_all(b"hello").await.unwrap();
        conn.read_exact(&mut [0; 5]).await.unwrap();
        held.push(conn);
    }
    held.into_iter().for_each(|conn| assert_eq!(conn.release(), Release::Reused));
    assert_eq!(pool.status().idle, count);
}

#[tokio::test]
async fn after_a_failover_run_retry_does_not_take_the_next_stale_connection() {
    for stale in [1, 2, 3, 16] {
        let upstream = Moving::start().await;
        let (pool, events) = watched(upstream.config());
        used(&pool, stale).await;
        upstream.moves();
        let (start, stalls) = (Instant::now(), Stalls::watch());
        let result: std::io::Result<()> = pool
            .run_retry(async |conn| {
                conn.write_all(b"hello").await?;
                conn.read_exact(&mut [0; 5]).await?;
                Ok(())
            })
            .await;
        result.unwrap_or_else(|error| panic!("{stale} stale: {error}, {:?}", events.closed()));
        // One patience for those that are asked, at most: 250 ms. Sixteen are 4 s.
        let (took, stall) = (start.elapsed(), stalls.lost().await);
        assert!(took < SECOND + stall, "{stale} stale: {took:?}, stall {stall:?}");
    }
}

#[cfg(target_os = "linux")]
mod on_a_network {
    use super::*;
    use livepool_testkit::lab::{Host, Verdict, lab};

    /// Callers of a pool of 16, one after the other, some time after this has happened to its idle
    /// connections. Returns how many failed, and how long the longest took.
    async fn struck(pool: &Pool, quiet: Duration, strike: impl FnOnce()) -> (usize, Duration) {
        fill(pool, 16).await;
        strike();
        sleep(quiet).await;
        let (mut errors, mut longest) = (0, Duration::ZERO);
        for _ in 0..32 {
            let start = Instant::now();
            let limit = Some(2 * SECOND);
            let result: std::io::Result<()> = async {
                let mut conn = pool.get().await?;
                conn.set_read_timeout(limit);
                ask(&mut conn, "ECHO x").await?;
                conn.release();
                Ok(())
            }
            .await;
            errors += usize::from(result.is_err());
            longest = longest.max(start.elapsed());
        }
        (errors, longest)
    }

    fn fail_over(from: &Host, to: &Host) {
        to.take_over(from.ip());
    }

    #[tokio::test]
    async fn a_failover_to_a_new_host_costs_one_caller_at_most_and_none_after_a_quiet_second() {
        let lab = lab!();
        for (quiet, most) in [(Duration::ZERO, 1), (1100 * MS, 0)] {
            let (old, new) = (lab.host(), lab.host());
            let upstream = old.upstream();
            let addr = upstream.addr();
            let (pool, events) = watched(upstream.config().with_max_size(16));
            let mut successor = None;
            let (errors, longest) = struck(&pool, quiet, || {
                fail_over(&old, &new);
                successor = Some(new.run(move || Upstream::start_on(addr)));
            })
            .await;
            println!("quiet for {quiet:?}: {errors} errors, longest {longest:?}");
            assert!(errors <= most, "{errors} after {quiet:?}: {:?}", events.closed());
            assert!(longest < 2 * SECOND, "{longest:?}");
        }
    }

    #[tokio::test]
    async fn under_load_a_failover_is_over_as_soon_as_the_new_host_answers() {
        let lab = lab!();
        let (old, new) = (lab.host(), lab.host());
        let upstream = old.upstream();
        let addr = upstream.addr();
        let timeouts = Timeouts::default().with_read(2 * SECOND).with_checkout(2 * SECOND);
        let config = upstream.config().with_max_size(16).with_timeouts(timeouts);
        let (pool, events) = watched(config);
        fill(&pool, 16).await;
        let end = Instant::now() + 6 * SECOND;
        // The moments at which each caller had an answer.
        let callers = (0..8).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while Instant::now() < end {
                    let result: std::io::Result<()> = async {
                        let mut conn = pool.get().await?;
                        ask(&mut conn, "ECHO x").await?;
                        conn.release();
                        Ok(())
                    }
                    .await;
                    if result.is_ok() {
                        answers.push(Instant::now());
                    }
                    sleep(5 * MS).await;
                }
                answers
            })
        });
        let callers: Vec<_> = callers.collect();
        sleep(SECOND / 2).await;
        // The old host is gone without a word, and 3 s later the new one is there.
        old.unplug();
        sleep(3 * SECOND).await;
        fail_over(&old, &new);
        let _successor = new.run(move || Upstream::start_on(addr));
        let back = Instant::now();
        let mut last = Duration::ZERO;
        for caller in callers {
            let answers = caller.await.unwrap();
            let first = answers.into_iter().find(|answer| *answer > back).expect("not served");
            last = last.max(first - back);
        }
        println!("served again after {last:?}");
        // One more SYN, 250 ms apart, and as much for a busy machine.
        assert!(last < 500 * MS, "{last:?}: {:?}", events.closed());
    }

    #[tokio::test]
    async fn flows_that_were_forgotten_cost_no_caller_anything_by_default_and_one_in_the_midst() {
        let lab = lab!();
        for (quiet, most) in [(1100 * MS, 0), (Duration::ZERO, 1)] {
            let host = lab.host();
            let upstream = host.upstream();
            let (pool, events) = watched(upstream.config().with_max_size(16));
            let (errors, longest) =
                struck(&pool, quiet, || host.forget_connections(Verdict::Drop)).await;
            println!("quiet for {quiet:?}: {errors} errors, longest {longest:?}");
            assert!(errors <= most, "{errors} after {quiet:?}: {:?}", events.closed());
        }
    }

    #[tokio::test]
    async fn requests_on_forgotten_flows_cost_the_time_of_one_operation_and_not_of_two() {
        let lab = lab!();
        let host = lab.host();
        let upstream = host.upstream();
        let timeouts = Timeouts::default().with_read(2 * SECOND).with_checkout(2 * SECOND);
        let config = upstream.config().with_max_size(16).with_timeouts(timeouts);
        let (pool, events) = watched(config);
        fill(&pool, 16).await;
        let begin = Instant::now();
        let callers = (0..8).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (mut errors, mut last) = (0, Instant::now());
                while begin.elapsed() < 6 * SECOND {
                    let result: std::io::Result<()> = async {
                        let mut conn = pool.get().await?;
                        ask(&mut conn, "ECHO x").await?;
                        conn.release();
                        Ok(())
                    }
                    .await;
                    if result.is_err() {
                        errors += 1;
                        last = Instant::now();
                    }
                    sleep(5 * MS).await;
                }
                (errors, last - begin)
            })
        });
        let callers: Vec<_> = callers.collect();
        sleep(SECOND / 2).await;
        host.forget_connections(Verdict::Drop);
        let mut worst = (0, Duration::ZERO);
        for caller in callers {
            let (errors, last) = caller.await.unwrap();
            worst = (worst.0.max(errors), worst.1.max(last));
        }
        println!("errors of a caller at most {}, the last one after {:?}", worst.0, worst.1);
        assert!(worst.0 <= 1, "{} errors of one caller: {:?}", worst.0, events.closed());
        // Forgotten after half a second, then the timeout.
        assert!(worst.1 < 5 * SECOND / 2 + SECOND, "{:?}", worst.1);
    }
}

/// Asks for the same bytes back.
struct Echo;

impl Ping for Echo {
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut [0; 5]).await?;
            Ok(())
        })
    }
}

/// Echoes after a while that can be changed.
async fn slow_echo() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let delay = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&delay);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let delay = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut bytes = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    sleep(Duration::from_millis(delay.load(Ordering::SeqCst))).await;
                    let _ = stream.write_all(&bytes[..count]).await;
                }
            });
        }
    });
    (addr, delay)
}

fn pinged(addr: SocketAddr, validation: Validation) -> (Pool, Events) {
    // As `Upstream::config` of the kit.
    pinged_within(Timeouts::default().with_ping(20 * SECOND), addr, validation)
}

fn pinged_within(timeouts: Timeouts, addr: SocketAddr, validation: Validation) -> (Pool, Events) {
    let events = Events::default();
    let config = Config::new(addr.to_string()).with_max_size(16).with_validation(validation);
    let config = config.with_timeouts(timeouts);
    let pool = Pool::builder(config).ping(Echo).observer(events.observer()).build().unwrap();
    (pool, events)
}

#[tokio::test]
async fn an_impatient_caller_closes_no_healthy_connection() {
    for (delay, limit) in [(3000, 100), (0, 0), (3000, 0)] {
        let (addr, pause) = slow_echo().await;
        let timeouts = Timeouts::default().with_ping(30 * SECOND);
        let (pool, events) = pinged_within(timeouts, addr, Validation::Ping);
        used(&pool, 16).await;
        pause.store(delay, Ordering::SeqCst);
        let start = Instant::now();
        let result = pool.get_by(start + limit * MS).await;
        // Before the answer could come.
        let took = start.elapsed();
        assert!(result.is_err() && took < 2800 * MS, "{result:?} after {took:?}");
        // The ping goes on for the pool, and the connection is back when it is answered.
        until(|| pool.status().idle == 16).await;
        assert_eq!(events.closed(), []);
        assert_eq!(pool.status().in_use, 0);
    }
}

#[tokio::test]
async fn a_caller_who_goes_in_the_middle_of_a_ping_takes_nothing_with_it() {
    let (addr, pause) = slow_echo().await;
    let (pool, events) = pinged(addr, Validation::Ping);
    used(&pool, 3).await;
    pause.store(100, Ordering::SeqCst);
    for _ in 0..3 {
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { pool.get().await.map(drop) }
        });
        sleep(30 * MS).await;
        caller.abort();
    }
    until(|| pool.status().idle == 3).await;
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_ping_that_goes_on_for_the_pool_has_its_own_time_and_no_more() {
    let (addr, pause) = slow_echo().await;
    let (pool, events) = pinged_within(Timeouts::default(), addr, Validation::Ping);
    used(&pool, 1).await;
    pause.store(60_000, Ordering::SeqCst);
    let (start, stalls) = (Instant::now(), Stalls::watch());
    assert!(pool.get_by(start + 100 * MS).await.is_err());
    assert_eq!(events.until_closed(1).await, [CloseReason::PingTimeout]);
    let (took, stall) = (start.elapsed(), stalls.lost().await);
    assert!(took >= SECOND && took < 2 * SECOND + stall, "{took:?}, stall {stall:?}");
    drop(pool);
}

#[tokio::test]
async fn a_pool_that_is_closed_closes_a_connection_whose_ping_goes_on() {
    let (addr, pause) = slow_echo().await;
    let timeouts = Timeouts::default().with_ping(60 * SECOND);
    let (pool, events) = pinged_within(timeouts, addr, Validation::Ping);
    used(&pool, 1).await;
    pause.store(60_000, Ordering::SeqCst);
    assert!(pool.get_by(Instant::now() + 50 * MS).await.is_err());
    let start = Instant::now();
    drop(pool);
    events.until_closed(1).await;
    assert!(start.elapsed() < 5 * SECOND, "it waited for its answer");
}

#[tokio::test]
async fn what_was_just_dialed_is_pinged_where_every_checkout_is() {
    let (addr, pause) = slow_echo().await;
    pause.store(60_000, Ordering::SeqCst);
    let (pool, events) = pinged_within(Timeouts::default(), addr, Validation::Ping);
    assert!(pool.get_by(Instant::now() + 3 * SECOND / 2).await.is_err(), "it answers nobody");
    until(|| events.closed().contains(&CloseReason::PingTimeout)).await;
    // Not where only long idle ones are.
    let (pool, _) = pinged(addr, Validation::PingIfIdle(SECOND));
    assert!(pool.get().await.is_ok());
}

fn asked(events: &Events) -> usize {
    let is_asked =
        |event: &&Event| matches!(event, Event::Checked { check: Check::Life | Check::Probe, .. });
    events.all().iter().filter(is_asked).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_operation_that_times_out_has_its_idle_siblings_asked_at_once() {
    let upstream = Upstream::start();
    // They would not be asked for a minute.
    let minute = Some(60 * SECOND);
    let config = upstream.config().with_max_size(4);
    let (pool, events) =
        watched(config.with_max_silence(minute).with_max_silence_after_use(minute));
    fill(&pool, 4).await;
    sleep(1100 * MS).await;
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 4).await;
    let mut conn = pool.get().await.unwrap();
    conn.set_read_timeout(Some(SECOND));
    let start = Instant::now();
    assert!(ask(&mut conn, "ECHO x").await.is_err());
    drop(conn);
    // The next caller gets none of them, and has a new one after one patience.
    assert_eq!(exchange(&pool, "ECHO y").await, "y");
    // Its own second, and 250 ms; after a verdict it would be 3.2 s.
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    let reasons = events.until_closed(4).await;
    // Evicted by the verdict, or to make room; never unasked.
    let by_proof = [CloseReason::ProbeTimeout, CloseReason::Superseded];
    assert!(reasons[1..].iter().all(|reason| by_proof.contains(reason)), "{reasons:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_timeout_of_a_peer_that_lives_costs_its_siblings_one_question() {
    let upstream = Upstream::start();
    // They would not be asked for a minute.
    let minute = Some(60 * SECOND);
    let config = upstream.config().with_max_size(4);
    let config = config.with_max_silence(minute).with_max_silence_after_use(minute);
    // A busy machine is late now and then; a wait of one patience is too long every time.
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let (pool, events) = watched(config.clone());
        fill(&pool, 4).await;
        sleep(1100 * MS).await;
        let before = asked(&events);
        let mut conn = pool.get().await.unwrap();
        conn.set_read_timeout(Some(300 * MS));
        assert!(ask(&mut conn, "HOLD").await.is_err());
        drop(conn);
        let start = Instant::now();
        assert_eq!(exchange(&pool, "ECHO y").await, "y");
        quickest = quickest.min(start.elapsed());
        until(|| pool.status().idle == 3).await;
        assert!(asked(&events) > before);
        assert_eq!(events.closed(), [CloseReason::OpTimeout]);
        if quickest < 250 * MS {
            return;
        }
    }
    panic!("it waited for one patience: {quickest:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_read_that_waits_looks_after_its_peer_after_a_second() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(1));
    fill(&pool, 1).await;
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    let start = Instant::now();
    let error = conn.read_u8().await.unwrap_err();
    assert!(livepool::PeerSilent::of(&error).is_some(), "{error}");
    let took = start.elapsed();
    println!("a waiting read: {took:?}");
    // One second, and a verdict of about 2.2 s. An idle connection's 5 s would make it 7.2 s.
    assert!(took < 6 * SECOND, "{took:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_connections_of_a_plain_deadpool_look_after_their_peers_while_they_read() {
    let upstream = Upstream::start();
    let manager = livepool::Manager::new(&upstream.config()).unwrap();
    let pool = deadpool::managed::Pool::builder(manager).max_size(1).build().unwrap();
    let mut conn: deadpool::managed::Object<livepool::Manager> = pool.get().await.unwrap();
    conn.write_all(b"ECHO x\n").await.unwrap();
    conn.read_exact(&mut [0; 2]).await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    let start = Instant::now();
    let error = conn.read_u8().await.unwrap_err();
    assert!(livepool::PeerSilent::of(&error).is_some(), "{error}");
    // One second, and a verdict of about 2.2 s. With an idle connection's 5 s it would be 7.2 s.
    assert!(start.elapsed() < 6 * SECOND, "{:?}", start.elapsed());
}

#[test]
fn a_setting_that_a_plain_deadpool_cannot_honour_is_refused_and_not_ignored() {
    let base = || Config::new("127.0.0.1:1");
    let table = [
        (base().with_min_idle(1), "min_idle"),
        (base().with_max_size(3), "max_size"),
        (base().with_max_waiting(Some(3)), "max_waiting"),
        (base().with_max_shares(3), "max_shares"),
        (base().with_order(livepool::config::Order::Fifo), "order"),
        (base().with_hold_warning(Some(SECOND)), "hold_warning"),
        (base().with_wait_warning(Some(SECOND)), "wait_warning"),
        // Bare streams have no ping of their own.
        (base().with_validation(Validation::Ping), "validation"),
    ];
    for (config, field) in table {
        let error = livepool::Manager::new(&config).unwrap_err();
        let fields: Vec<_> = error.problems().iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, [field], "{error}");
    }
    livepool::Manager::new(&base()).unwrap();
}

#[tokio::test]
async fn a_live_connection_is_found_behind_a_hundred_dead_ones() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_size(200).with_max_connecting(50);
    // That it was not heard for a second while the others are ended is nobody's concern here.
    let (pool, events) = watched(config.with_max_silence(None));
    fill(&pool, 101).await;
    // One is used first, so that it lies at the bottom of the stack.
    let mut guards = Vec::new();
    for _ in 0..101 {
        guards.push(pool.get().await.unwrap());
    }
    let last = guards.remove(0);
    let survivor = last.id();
    drop(last);
    let local: Vec<_> = guards.iter().map(|conn| conn.local_addr().to_string()).collect();
    drop(guards);
    for addr in local {
        upstream.order(addr.parse().unwrap(), Order::Close);
    }
    // Without a turn of the runtime the pool cannot have noticed.
    livepool_testkit::until_blocking(|| upstream.open() == 1);
    let found = pool.try_get().expect("there is a live one");
    assert_eq!(found.id(), survivor);
    drop(found);
    assert_eq!(events.until_closed(100).await, [CloseReason::PeerClosed; 100]);
}

#[tokio::test]
async fn a_checked_connection_is_alive_after_an_answer_of_this_very_use() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    let dead = |event: &&Event| matches!(event, Event::Checked { verdict: CheckVerdict::Dead, .. });
    assert_eq!(events.all().iter().filter(dead).count(), 0);
}
