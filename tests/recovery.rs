//! An upstream was away and is back: how soon its callers are served, and what it costs meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use livepool::config::FirstConnect;
use livepool::{Backoff, CloseReason, Config, Event, Pool, Timeouts};
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, Upstream, ask, exchange, port, until, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The defaults for an address at which nobody listens yet. Its pools have never had a connection, and
/// wait as those do that have had one.
fn awaited(addr: SocketAddr) -> Config {
    Config::new(addr.to_string()).with_first_connect(FirstConnect::Wait)
}

/// Listens there. Accepts everybody and answers nobody.
fn back(addr: SocketAddr) {
    let listener = TcpListener::from_std(livepool_testkit::listen(addr)).unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
}

/// How long after its return each of 100 waiting callers, of a pool each, is served.
/// And how long this machine did nothing for them meanwhile.
async fn served_after(away: Duration) -> (Vec<Duration>, Duration) {
    let addr = port::nobody();
    let returned = Arc::new(Mutex::new(None));
    let caller = |_| {
        let returned = Arc::clone(&returned);
        tokio::spawn(async move {
            let timeouts = Timeouts::default().with_checkout(60 * SECOND);
            let config = awaited(addr).with_max_size(4).with_timeouts(timeouts);
            let pool = Pool::new(config).unwrap();
            let guard = pool.get().await.unwrap();
            let now = Instant::now();
            drop(guard);
            now - returned.lock().unwrap().expect("served before the upstream was back")
        })
    };
    let callers: Vec<_> = (0..100).map(caller).collect();
    sleep(away).await;
    let stalls = Stalls::watch();
    *returned.lock().unwrap() = Some(Instant::now());
    back(addr);
    let mut served = try_join_all(callers).await.unwrap();
    served.sort();
    (served, stalls.lost().await)
}

#[tokio::test]
async fn a_waiting_caller_is_served_as_soon_as_its_upstream_is_back_however_long_it_was_away() {
    let away = [300 * MS, SECOND, 3 * SECOND, 10 * SECOND];
    for (away, served) in away.iter().zip(join_all(away.map(served_after)).await) {
        let (served, stall) = served;
        let (median, last) = (served[50], served[99]);
        println!("away for {away:?}: served after p50 {median:?}, max {last:?}, stall {stall:?}");
        // The pause is anywhere up to 200 ms, so that half have 59 ms left on average, and the last
        // one 200. Where this thread did not run for a while, nobody was served meanwhile: and twice
        // as long, as whoever is served was waited for by a dial, which had waited for its pause.
        let is_early = median <= 100 * MS + 2 * stall && last <= 350 * MS + 2 * stall;
        assert!(is_early, "away for {away:?}, stall {stall:?}: {served:?}");
    }
}

/// Takes no more connections, and then, from a moment on, all of them: SYNs are dropped meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_that_answered_no_dial_is_used_again_before_the_kernel_repeats_itself() {
    let hole = livepool_testkit::blackhole::Blackhole::start();
    let timeouts = Timeouts::default().with_checkout(30 * SECOND).with_connect(20 * SECOND);
    let healed = Arc::new(Mutex::new(None::<Instant>));
    let caller = |number: u32| {
        let (healed, addr) = (Arc::clone(&healed), hole.addr());
        tokio::spawn(async move {
            sleep(number * 100 * MS).await;
            let pool = Pool::new(Config::new(addr.to_string()).with_timeouts(timeouts)).unwrap();
            let _conn = pool.get().await.unwrap();
            let healed = healed.lock().unwrap().expect("served by a hole");
            healed.elapsed()
        })
    };
    let callers: Vec<_> = (0..20).map(caller).collect();
    // The first SYNs were repeated after 1 and 3 s, and will be after 7.
    sleep(4 * SECOND).await;
    let stalls = Stalls::watch();
    *healed.lock().unwrap() = Some(Instant::now());
    hole.heal();
    let served = try_join_all(callers).await.unwrap();
    let stall = stalls.lost().await;
    println!("served after {served:?}, stall {stall:?}");
    let last = served.iter().max().unwrap();
    // 250 ms, and a little. The kernel alone takes up to 3 s.
    assert!(*last < 500 * MS + stall, "stall {stall:?}: {served:?}");
}

#[tokio::test]
async fn nobody_who_asks_after_the_upstream_is_back_fails_with_a_checkout_of_a_second() {
    for _ in 0..5 {
        if a_checkout_of_a_second_is_tried().await {
            return;
        }
    }
    panic!("somebody failed each time, and the machine stood still for half a second each time");
}

/// Fifty pools at once. Whether all were served: if not, the machine stood still for half of their time.
async fn a_checkout_of_a_second_is_tried() -> bool {
    let addr = port::nobody();
    let timeouts = Timeouts::default().with_checkout(SECOND);
    let pools: Vec<_> =
        (0..50).map(|_| Pool::new(awaited(addr).with_timeouts(timeouts)).unwrap()).collect();
    // Callers all the time, so that every pool has failed often when it is back.
    let over = Arc::new(AtomicBool::new(false));
    let callers = pools.iter().cloned().map(|pool| {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let _ = pool.get().await;
                sleep(MS).await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    sleep(4 * SECOND).await;
    back(addr);
    let stalls = Stalls::watch();
    let asked = join_all(pools.iter().map(Pool::get)).await;
    let stall = stalls.lost().await;
    over.store(true, Ordering::SeqCst);
    try_join_all(callers).await.unwrap();
    let failed: Vec<_> = asked.into_iter().filter_map(Result::err).collect();
    let is_excused = failed.is_empty() || stall >= SECOND / 2;
    assert!(is_excused, "{} of 50, stall {stall:?}: {}", failed.len(), failed[0]);
    failed.is_empty()
}

#[tokio::test]
async fn however_short_the_time_of_a_caller_a_dial_is_tried_before_it_is_over() {
    let mut undisturbed = 0;
    for _ in 0..100 {
        let addr = port::nobody();
        let pool = Pool::new(awaited(addr)).unwrap();
        // The pauses become as long as they get.
        assert!(pool.get_by(Instant::now() + SECOND / 2).await.is_err());
        back(addr);
        let stalls = Stalls::watch();
        // Less than the 200 ms of a pause.
        let guard = pool.get_by(Instant::now() + 120 * MS).await;
        // Where the machine stood still, nobody could be served.
        if stalls.lost().await < 10 * MS {
            assert!(guard.is_ok(), "{}", guard.unwrap_err());
            undisturbed += 1;
        }
        if undisturbed == 20 {
            return;
        }
    }
    panic!("of 100 times the machine stood still all but {undisturbed} times");
}

#[tokio::test]
async fn callers_in_a_hurry_do_not_make_a_storm_of_dials() {
    let addr = port::nobody();
    let (pool, events) = watched(awaited(addr));
    let end = Instant::now() + 2 * SECOND;
    let callers = (0..16).map(|_| async {
        while Instant::now() < end {
            let _ = pool.get_by(Instant::now() + 5 * MS).await;
        }
    });
    join_all(callers).await;
    let dials = failed_dials(&events);
    // One in 60 ms, or as soon as the pause is over: 39 of them on average, give or take 3. Without
    // that bound there are 400 callers.
    assert!(dials <= 55, "{dials} dials in 2 s");
}

fn failed_dials(events: &Events) -> usize {
    events.all().iter().filter(|event| matches!(event, Event::DialFailed { .. })).count()
}

/// Accepts and ends, in this way, whoever comes. Returns its address and how many came.
async fn inhospitable(by_reset: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            if by_reset {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    });
    (addr, count)
}

#[tokio::test]
async fn an_upstream_that_accepts_and_closes_is_dialed_twenty_times_a_second_at_most() {
    for (by_reset, callers) in [(false, 1), (true, 1), (false, 16)] {
        let (addr, accepted) = inhospitable(by_reset).await;
        let pool = Pool::new(Config::new(addr.to_string())).unwrap();
        let end = Instant::now() + 3 * SECOND;
        let caller = |_| async {
            while Instant::now() < end {
                // Whatever a caller does: nothing, or a request that has no answer.
                let Ok(mut conn) = pool.get_by(end).await else { return };
                let _ = conn.write_all(b"ECHO x\n").await;
                let _ = conn.read(&mut [0; 8]).await;
            }
        };
        join_all((0..callers).map(caller)).await;
        let dials = accepted.load(Ordering::SeqCst);
        println!("reset {by_reset}, {callers} callers: {dials} dials in 3 s");
        assert!((2..=60).contains(&dials), "reset {by_reset}, {callers} callers: {dials} in 3 s");
    }
}

#[tokio::test]
async fn an_upstream_that_serves_again_after_it_closed_everybody_is_dialed_without_pause() {
    let (addr, accepted) = inhospitable(false).await;
    let pool = Pool::new(Config::new(addr.to_string()).with_max_size(64)).unwrap();
    for _ in 0..5 {
        let mut conn = pool.get().await.unwrap();
        let _ = conn.read(&mut [0; 8]).await;
    }
    assert!(accepted.load(Ordering::SeqCst) >= 5);
    drop(pool);
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(64)).unwrap();
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    let start = Instant::now();
    let held = try_join_all((0..64).map(|_| pool.get())).await.unwrap();
    // A pause of 100 ms on average for each would be 6 s.
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    drop(held);
}

/// Accepts nobody: the handshake of a TCP connection is done by the kernel, that of the protocol
/// never.
async fn hangs() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A protocol whose server speaks first.
struct Greeted;

impl livepool::protocol::Protocol for Greeted {
    type Client = livepool::protocol::Wire;
    type Error = std::io::Error;

    async fn connect(
        &self,
        mut wire: livepool::protocol::Wire,
    ) -> std::io::Result<livepool::protocol::Wire> {
        wire.read_exact(&mut [0; 6]).await?;
        Ok(wire)
    }

    async fn ping(&self, _: &mut livepool::protocol::Wire) -> std::io::Result<()> {
        Ok(())
    }
}

async fn ends_a_dial_under_way(what: impl Fn(&Pool<Greeted>)) {
    let (listener, addr) = hangs().await;
    let events = Events::default();
    let pool = Pool::builder(Config::new(addr.to_string()))
        .protocol(Greeted)
        .observer(events.observer())
        .build()
        .unwrap();
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get_by(Instant::now() + 3 * SECOND).await.map(drop) }
    });
    let (mut first, _) = listener.accept().await.unwrap();
    what(&pool);
    // Its socket is closed at once, and not when the handshake's time is over.
    let mut end = [0; 1];
    let read = timeout(SECOND, first.read(&mut end)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "the dial goes on: {read:?}");
    pool.resume();
    let (mut second, _) = timeout(SECOND, listener.accept()).await.expect("no new dial").unwrap();
    second.write_all(b"hello\n").await.unwrap();
    let start = Instant::now();
    caller.await.unwrap().unwrap();
    assert!(start.elapsed() < SECOND);
    assert_eq!(pool.status().connecting, 0);
}

#[tokio::test]
async fn an_invalidated_pool_gives_up_the_dials_under_way_and_makes_new_ones() {
    ends_a_dial_under_way(Pool::invalidate_and_interrupt).await;
    ends_a_dial_under_way(Pool::invalidate).await;
}

#[tokio::test]
async fn a_paused_pool_gives_up_the_dials_under_way() {
    ends_a_dial_under_way(Pool::pause).await;
}

#[tokio::test]
async fn a_warm_up_ends_as_soon_as_its_upstream_is_back() {
    let addr = port::nobody();
    let warming = (0..20).map(|_| async {
        let pool = Pool::new(awaited(addr)).unwrap();
        pool.warm_up(1).await.unwrap();
        Instant::now()
    });
    let coming_back = async {
        sleep(4 * SECOND).await;
        let stalls = Stalls::watch();
        back(addr);
        (Instant::now(), stalls)
    };
    let (warm, (is_back, stalls)) = tokio::join!(join_all(warming), coming_back);
    let (last, stall) = (*warm.iter().max().unwrap() - is_back, stalls.lost().await);
    assert!(last <= 350 * MS + stall, "{last:?}, stall {stall:?}");
}

#[tokio::test]
async fn a_warm_up_of_a_pool_that_is_closed_ends_at_once_whatever_its_dials_do() {
    let pool = Pool::new(awaited(port::nobody())).unwrap();
    let warming = tokio::spawn({
        let pool = pool.clone();
        async move { pool.warm_up(1).await }
    });
    // In a pause between two dials, most of the time.
    sleep(SECOND).await;
    pool.close();
    let end = timeout(SECOND, warming).await.expect("it waits on").unwrap();
    assert_eq!(end.unwrap_err().failure(), livepool::error::CheckoutFailure::Closed);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_warm_up_ends_when_a_silent_connection_is_heard_again() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_size(1).with_max_silence(Some(SECOND));
    let (pool, events) = watched(config);
    livepool_testkit::fill(&pool, 1).await;
    upstream.order_all(&livepool_testkit::Order::Silence);
    until(|| pool.status().quarantined == 1).await;
    let warming = tokio::spawn({
        let pool = pool.clone();
        async move { pool.warm_up(1).await }
    });
    sleep(100 * MS).await;
    upstream.order_all(&livepool_testkit::Order::Heal);
    let start = Instant::now();
    warming.await.unwrap().unwrap();
    // Not at its deadline, 10 s.
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    assert_eq!(events.closed(), []);
}

/// One name whose server never answers, and one that leads to another address each time.
struct HalfDeaf {
    first: SocketAddr,
    then: SocketAddr,
    asked: AtomicUsize,
}

impl livepool::Resolve for HalfDeaf {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        _: u16,
    ) -> livepool::BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if host == "deaf" {
                std::future::pending::<()>().await;
            }
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(vec![if number < 2 { self.first } else { self.then }])
        })
    }
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_keeps_no_other_name_from_being_followed() {
    let (first, then) = (Upstream::start(), Upstream::start());
    let names = HalfDeaf { first: first.addr(), then: then.addr(), asked: AtomicUsize::new(0) };
    // The deaf one comes first: its lookup takes all the time there is.
    let config = Config::new("").with_upstream(["deaf:1", "moves:1"]);
    let timeouts = Timeouts::default().with_connect(SECOND);
    let config = config.with_dns_refresh(Some(SECOND)).with_timeouts(timeouts);
    let pool = Pool::builder(config).resolver(names).build().unwrap();
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    // Missing in three answers, and for a second.
    until(|| first.open() == 0).await;
}

#[tokio::test]
async fn a_connection_on_its_way_to_one_who_panics_goes_to_the_next() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let mut held = pool.get().await.unwrap();
    assert_eq!(ask(&mut held, "ECHO x").await.unwrap(), "x");
    let mut waiting = Box::pin(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    // It is given to the one who waits, who is not polled again.
    assert_eq!(held.release(), livepool::Release::Reused);
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _waiting = waiting;
        // Without the message that a panic prints.
        std::panic::resume_unwind(Box::new("on purpose"))
    }));
    assert!(panics.is_err());
    assert_eq!(events.closed(), []);
    assert_eq!(exchange(&pool, "ECHO y").await, "y");
}

#[tokio::test]
async fn a_checkout_that_is_polled_late_ends_at_its_deadline_all_the_same() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1)).unwrap();
    let held = pool.get().await.unwrap();
    let start = Instant::now();
    let late = pool.get_by(start + 2000 * MS);
    sleep(1900 * MS).await;
    assert!(late.await.is_err());
    let took = start.elapsed();
    assert!(took < 3500 * MS, "{took:?}: the time was counted from the first poll");
    drop(held);
}

#[tokio::test]
async fn a_dial_that_was_cancelled_says_so_and_not_that_its_caller_went_away() {
    let (_listener, addr) = hangs().await;
    let events = Events::default();
    let pool = Pool::builder(Config::new(addr.to_string()))
        .protocol(Greeted)
        .observer(events.observer())
        .build()
        .unwrap();
    let warming = tokio::spawn({
        let pool = pool.clone();
        async move { pool.warm_up(1).await }
    });
    until(|| pool.status().connecting == 1).await;
    pool.pause();
    let cancelled = || {
        events.all().into_iter().find_map(|event| match event {
            Event::DialFailed { error, .. } => Some(error.to_string()),
            _ => None,
        })
    };
    until(|| cancelled().is_some()).await;
    assert_eq!(cancelled().unwrap(), "it was given up");
    warming.abort();
}

#[tokio::test]
async fn a_connection_that_served_somebody_and_is_closed_later_is_no_failed_dial() {
    let upstream = Upstream::start();
    // After a dial that counts as failed, whoever comes waits until his time is nearly over.
    let backoff = Backoff::default().with_first(60 * SECOND).with_most(60 * SECOND);
    let backoff = backoff.with_while_waiting(60 * SECOND);
    let (pool, events) = watched(upstream.config().with_max_size(1).with_backoff(backoff));
    for _ in 0..20 {
        let start = Instant::now();
        let mut conn = pool.get().await.unwrap();
        assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
        assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
        assert!(ask(&mut conn, "QUIT").await.is_err());
        drop(conn);
    }
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(events.closed(), [CloseReason::PeerClosed; 20]);
}
