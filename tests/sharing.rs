//! Connections that several callers use at a time.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use livepool::config::{Backoff, Validation};
use livepool::error::{CheckoutFailure, Phase};
use livepool::event::{Check, CheckoutOutcome, Operation};
use livepool::protocol::{Multiplex, Protocol, RequestLost, Share, Spread, Wire};
use livepool::{CloseReason, Config, Event, OpTimeout, Pool, Timeouts};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::lines::{Lines, SharedLines};
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, Order, Upstream, ends, until, until_seen, until_status};
use tokio::io::AsyncWrite;
use tokio::task::JoinSet;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pool_of(config: Config, lines: &Lines) -> (Pool<Lines>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(lines.clone()).build().unwrap(), events)
}

fn pool(upstream: &Upstream, size: usize) -> (Pool<Lines>, Events) {
    pool_of(upstream.config().with_max_size(size), &Lines::default())
}

#[tokio::test]
async fn callers_who_share_use_one_connection_which_is_idle_again_when_they_have_gone() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, 4);
    let mut shares = Vec::new();
    for number in 0..8 {
        shares.push(pool.share().await.unwrap());
        let status = pool.status();
        assert_eq!((status.shared, status.shares, status.in_use), (1, number + 1, 0), "{status}");
    }
    let answers = futures_util::future::join_all((0..8).map(|number| {
        let share = &shares[number];
        async move { share.ask(&format!("SLOW 20 {number}")).await.unwrap() }
    }));
    let began = Instant::now();
    let answers = answers.await;
    assert_eq!(answers, (0..8).map(|number| number.to_string()).collect::<Vec<_>>());
    // One after another they would take eight times as long, and be asked one by one.
    println!("eight answers took {:?}", began.elapsed());
    assert!(pool.status().to_string().contains("1 shared by 8"), "{}", pool.status());
    drop(shares);
    let status = pool.status();
    assert_eq!((status.shared, status.shares, status.idle), (0, 0, 1), "{status}");
    assert_eq!((upstream.accepted(), events.closed()), (1, vec![]));
    let told = events.all();
    let count = |which: fn(&Event) -> bool| told.iter().filter(|event| which(event)).count();
    assert_eq!(count(|event| matches!(event, Event::CheckedOut { .. })), 8);
    assert_eq!(count(|event| matches!(event, Event::Returned { .. })), 8);
}

#[tokio::test]
async fn who_spreads_uses_another_connection_when_each_has_so_many() {
    let upstream = Upstream::start();
    let lines = Lines { spread: Spread::Even(2), ..Lines::default() };
    let (pool, _) = pool_of(upstream.config().with_max_size(3), &lines);
    let mut shares = Vec::new();
    for _ in 0..2 {
        shares.push(pool.share().await.unwrap());
    }
    assert_eq!(pool.status().shared, 1);
    // Nobody waits for the next one to be made: it is there for those who come later.
    shares.push(pool.share().now_or_never().expect("there is room").unwrap());
    until_status(&pool, |now| now.idle == 1).await;
    for _ in 0..9 {
        shares.push(pool.share().await.unwrap());
        tokio::time::sleep(10 * MS).await;
    }
    until_status(&pool, |now| now.shared == 3).await;
    drop(shares);
    until_status(&pool, |now| now.idle == 3).await;
}

#[tokio::test]
async fn who_finds_all_full_waits_in_line_under_the_one_deadline() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_size(1).with_max_shares(2);
    let (pool, events) = pool_of(config, &Lines::default());
    let (first, _second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    let error = pool.share_by(Instant::now() + 100 * MS).await.map(drop).unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Queue), "{error}");
    let mut third = std::pin::pin!(pool.share());
    assert!(futures_util::poll!(third.as_mut()).is_pending());
    assert_eq!(pool.status().waiting, 1);
    drop(first);
    third.now_or_never().expect("its turn has come").unwrap();
    let failed = events.all().into_iter().filter(|event| {
        matches!(event, Event::CheckoutFailed { outcome: CheckoutOutcome::Timeout, .. })
    });
    assert_eq!(failed.count(), 1);
}

/// Without an end there is always somebody who shares, and without an end somebody comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_who_shares_nor_who_wants_a_connection_is_starved() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, 2);
    let over = Arc::new(AtomicUsize::new(0));
    let (shared, alone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (pool, over, shared) = (pool.clone(), Arc::clone(&over), Arc::clone(&shared));
        tasks.spawn(async move {
            while over.load(Ordering::SeqCst) == 0 {
                let share = pool.share().await.unwrap();
                assert_eq!(share.ask("ECHO share").await.unwrap(), "share");
                shared.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for _ in 0..4 {
        let (pool, over, alone) = (pool.clone(), Arc::clone(&over), Arc::clone(&alone));
        tasks.spawn(async move {
            while over.load(Ordering::SeqCst) == 0 {
                let client = pool.get().await.unwrap();
                assert_eq!(client.ask("ECHO alone").await.unwrap(), "alone");
                drop(client);
                alone.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let counts = || (shared.load(Ordering::SeqCst), alone.load(Ordering::SeqCst));
    until_seen(counts, |&(shared, alone)| shared > 2_000 && alone > 500).await;
    over.store(1, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!("shared, alone: {:?}", counts());
    until_status(&pool, |now| now.idle > 0 && now.shared + now.in_use == 0).await;
    assert_eq!(events.closed(), []);
}

/// One connection, and one who has a share for long.
#[tokio::test]
async fn a_connection_that_somebody_waits_for_is_joined_no_more_and_is_his_when_it_comes_back() {
    let upstream = Upstream::start();
    let (pool, _) = pool(&upstream, 1);
    let first = pool.share().await.unwrap();
    let mut alone = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(alone.as_mut()).is_pending());
    let mut later = std::pin::pin!(pool.share());
    assert!(futures_util::poll!(later.as_mut()).is_pending(), "he came later");
    drop(first);
    let client = alone.now_or_never().expect("it came back").unwrap();
    assert!(futures_util::poll!(later.as_mut()).is_pending());
    drop(client);
    drop(later.now_or_never().expect("and then it is shared again").unwrap());
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test]
async fn who_waits_for_a_connection_that_can_be_made_keeps_none_from_those_who_share() {
    let upstream = Upstream::start();
    let (pool, _) = pool(&upstream, 2);
    let first = pool.share().await.unwrap();
    let mut alone = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(alone.as_mut()).is_pending());
    drop(pool.share().now_or_never().expect("the other one is being made").unwrap());
    drop(alone.await.unwrap());
    drop(first);
}

/// And one more, where the dialer looks when the first is made and not shared yet.
#[tokio::test]
async fn callers_who_would_share_one_connection_have_no_more_made_than_that() {
    let upstream = Upstream::start();
    for (spread, most) in [(Spread::Pack, 2), (Spread::Even(25), 5)] {
        let lines = Lines { spread, ..Lines::default() };
        let (pool, events) =
            pool_of(upstream.config().with_max_size(10).with_max_connecting(10), &lines);
        // A pool that has never had a connection makes one first.
        drop(pool.share().await.unwrap());
        pool.invalidate();
        let before = events.opened();
        let shares = futures_util::future::try_join_all((0..100).map(|_| pool.share())).await;
        assert_eq!(shares.unwrap().len(), 100);
        let made = events.opened() - before;
        assert!(made <= most, "{spread:?}: {made}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_over_shared_connections_cross_no_answers_and_cost_no_connection() {
    const CALLERS: usize = 64;
    const EACH: usize = 160;
    let seed = livepool_testkit::seed::seed();
    let upstream = Upstream::start();
    let lines = Lines { spread: Spread::Even(8), ..Lines::default() };
    let (pool, events) = pool_of(upstream.config().with_max_size(4), &lines);
    let given_up = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let (pool, given_up) = (pool.clone(), Arc::clone(&given_up));
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(caller as u64));
        tasks.spawn(async move {
            for number in 0..EACH {
                let tag = format!("{caller}-{number}");
                let share = pool.share().await.unwrap();
                let question = match rng.bool() {
                    true => format!("ECHO {tag}"),
                    false => format!("SLOW {} {tag}", rng.u8(0..3)),
                };
                let answer = share.ask(&question);
                let polls = if rng.u8(0..3) == 0 { rng.usize(0..3) } else { usize::MAX };
                match cut(answer, polls, DROPS[rng.usize(0..2)], |_| {}).await {
                    Some(answer) => assert_eq!(answer.unwrap(), tag, "seed {seed}"),
                    None => _ = given_up.fetch_add(1, Ordering::SeqCst),
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let given_up = given_up.load(Ordering::SeqCst);
    println!("{given_up} of {} given up, seed {seed}", CALLERS * EACH);
    assert!(given_up > CALLERS * EACH / 20, "{given_up} only");
    assert_eq!(
        events.closed().into_iter().filter(|why| *why != CloseReason::Unfinished).count(),
        0
    );
    until_status(&pool, |now| now.shares + now.in_use + now.shared == 0).await;
}

#[tokio::test]
async fn a_shared_connection_that_dies_costs_the_requests_in_flight_and_each_once() {
    const REQUESTS: usize = 256;
    for order in [Order::Close, Order::Reset] {
        let upstream = Upstream::start();
        let (pool, events) = pool(&upstream, 1);
        let mut tasks = JoinSet::new();
        for _ in 0..REQUESTS {
            let pool = pool.clone();
            tasks.spawn(async move {
                let share = pool.share().await.unwrap();
                share.ask("HOLD").await
            });
        }
        until_status(&pool, |now| now.shares == REQUESTS).await;
        tokio::time::sleep(20 * MS).await;
        assert_eq!(pool.status().shared, 1);
        upstream.order_all(&order);
        let mut failed = 0;
        while let Some(ended) = ends(tasks.join_next()).await {
            let error = ended.unwrap().unwrap_err();
            let lost = RequestLost::of(&error).unwrap_or_else(|| panic!("{error:?}"));
            assert!(lost.maybe_done && error.to_string().contains("may have been carried out"));
            failed += 1;
        }
        assert_eq!((failed, events.closed().len()), (REQUESTS, 1), "{order:?}");
        assert_eq!(pool.share().await.unwrap().ask("ECHO next").await.unwrap(), "next");
        until_status(&pool, |now| now.shares == 0 && now.idle == 1).await;
    }
}

#[tokio::test]
async fn a_share_that_is_given_up_at_any_poll_leaves_nothing_behind() {
    for drop_when in DROPS {
        for polls in 0..6 {
            let upstream = Upstream::start();
            let config = upstream.config().with_max_size(1).with_max_shares(2);
            let (pool, _) = pool_of(config, &Lines::default());
            let taken = tokio::time::timeout(50 * MS, cut(pool.share(), polls, drop_when, |_| {}));
            drop(taken.await);
            // Behind others, too.
            let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
            let mut holders = Some((first, second));
            let between = |poll| drop(if poll == 1 { holders.take() } else { None });
            let taken = cut(pool.share(), polls, drop_when, between);
            drop(tokio::time::timeout(50 * MS, taken).await);
            drop(holders);
            let status = pool.status();
            assert_eq!((status.shares, status.shared, status.waiting), (0, 0, 0), "{status}");
            let share = ends(pool.share()).await.unwrap();
            assert_eq!(share.ask("ECHO still here").await.unwrap(), "still here");
        }
    }
}

#[tokio::test]
async fn what_a_caller_leaves_in_a_session_ends_its_sharing_and_is_undone_when_its_users_have_gone()
{
    let upstream = Upstream::start();
    let most = Arc::new(AtomicUsize::new(usize::MAX));
    let lines = Lines { most_shares: Arc::clone(&most), ..Lines::default() };
    let (pool, events) = pool_of(upstream.config().with_max_size(2), &lines);
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    most.store(0, Ordering::SeqCst);
    let third = pool.share().await.unwrap();
    assert_ne!(third.0.id(), first.0.id(), "nobody joins it any more");
    assert_eq!((second.0.id(), pool.status().shared), (first.0.id(), 2));
    assert_eq!(second.ask("ECHO go on").await.unwrap(), "go on");
    let ended =
        |event: &Event| matches!(event, Event::SharingEnded { conn, .. } if *conn == first.0.id());
    assert_eq!(events.all().iter().filter(|event| ended(event)).count(), 1, "told once");
    drop((second, third));
    assert_eq!(pool.status().shared, 1);
    drop(first);
    until_status(&pool, |now| now.idle == 2).await;
}

#[tokio::test]
async fn each_share_has_its_own_time_and_its_end_harms_no_other() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_operation(SECOND / 2);
    let (pool, events) = pool_of(upstream.config().with_timeouts(timeouts), &Lines::default());
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    assert_eq!(first.0.id(), second.0.id());
    let late = first.ask("SLOW 5000 late").await.unwrap_err();
    let timeout = OpTimeout::of(&late).unwrap_or_else(|| panic!("{late:?}"));
    assert_eq!((timeout.setting, timeout.of_exchange), ("timeouts.operation", true));
    // What does not answer in time is joined by nobody any more.
    let third = pool.share_by(Instant::now() + SECOND).await.unwrap();
    assert_ne!(first.0.id(), third.0.id());
    drop((first, second, third));
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, reads) = pool_of(upstream.config().with_timeouts(timeouts), &Lines::default());
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    // The second one's answer comes after this one, in the middle of its time.
    let late = first.ask("SLOW 3000 late").await.unwrap_err();
    assert_eq!(OpTimeout::of(&late).map(|timeout| timeout.setting), Some("timeouts.read"));
    assert_eq!(second.ask("ECHO in time").await.unwrap(), "in time");
    assert_eq!(
        (events.timed_out(), reads.timed_out()),
        (vec![Operation::Read], vec![Operation::Read])
    );
    assert_eq!(reads.closed(), []);
}

#[tokio::test]
async fn a_share_that_is_held_for_too_long_is_reported_once_with_its_place() {
    let upstream = Upstream::start();
    let config = upstream.config().with_hold_warning(50 * MS);
    let (pool, events) = pool_of(config, &Lines::default());
    let first = pool.share().await.unwrap();
    let line = line!() - 1;
    tokio::time::sleep(20 * MS).await;
    drop(pool.share().await.unwrap());
    let held = || {
        let all = events.all();
        let places = all.into_iter().filter_map(|event| match event {
            Event::HeldTooLong { taken_at, .. } => Some(taken_at.line()),
            _ => None,
        });
        places.collect::<Vec<_>>()
    };
    until_seen(held, |lines| lines.len() == 1).await;
    assert_eq!(held(), [line]);
    drop(first);
}

#[tokio::test]
async fn a_pool_that_is_invalidated_or_closed_is_shared_as_it_is_used() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, 2);
    let first = pool.share().await.unwrap();
    pool.invalidate();
    let second = pool.share().await.unwrap();
    assert_ne!(first.0.id(), second.0.id());
    assert_eq!(first.ask("ECHO on").await.unwrap(), "on");
    drop(first);
    assert_eq!(events.closed(), [CloseReason::Invalidated]);
    let closing = pool.close_and_wait(Instant::now() + 50 * MS);
    assert_eq!(closing.await, 1);
    assert!(second.ask("ECHO over").await.is_err());
    assert_eq!(pool.share().await.map(drop).unwrap_err().failure(), CheckoutFailure::Closed);
    drop(second);
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_panic_of_one_who_shares_costs_nobody_a_connection() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, 1);
    let share = pool.share().await.unwrap();
    let other = pool.share().await.unwrap();
    let panics = tokio::spawn(async move {
        let _share: SharedLines = share;
        panic!("of its own");
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(other.ask("ECHO fine").await.unwrap(), "fine");
    drop(other);
    assert_eq!((pool.status().idle, events.closed()), (1, vec![]));
}

/// Whatever callers, operators and the upstream do: no limit is passed, nobody reads another's answer,
/// and nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_and_connections_mixed_at_random_pass_no_limit_and_leave_nothing_behind() {
    const ACTORS: usize = 8;
    const EACH: usize = 2_500;
    const MOST: usize = 6;
    let seed = livepool_testkit::seed::seed();
    let upstream = Upstream::start();
    let lines = Lines { spread: Spread::Even(3), ..Lines::default() };
    let timeouts = Timeouts::default().with_checkout(20 * MS).with_read(500 * MS);
    let config = upstream
        .config()
        .with_max_size(MOST)
        .with_max_shares(5)
        .with_backoff(Backoff::default().with_first(MS).with_most(4 * MS))
        .with_timeouts(timeouts);
    let (pool, events) = pool_of(config, &lines);
    let answers = Arc::new(AtomicUsize::new(0));
    let upstream = Arc::new(upstream);
    let mut tasks = JoinSet::new();
    for actor in 0..ACTORS {
        let (pool, answers) = (pool.clone(), Arc::clone(&answers));
        let (most, upstream) = (Arc::clone(&lines.most_shares), Arc::clone(&upstream));
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(actor as u64));
        tasks.spawn(async move {
            let (mut shares, mut guards) = (Vec::new(), Vec::new());
            for number in 0..EACH {
                if actor == 0 && rng.u8(0..60) == 0 {
                    match rng.u8(0..12) {
                        0..2 => pool.invalidate(),
                        2 => pool.invalidate_and_interrupt(),
                        3..6 => pool.resize(rng.usize(1..=MOST)).unwrap(),
                        6 => pool.pause(),
                        7..9 => pool.resume(),
                        9 => most.store(rng.usize(0..3), Ordering::SeqCst),
                        10 => most.store(usize::MAX, Ordering::SeqCst),
                        _ => upstream.order_all(&Order::Close),
                    }
                }
                match rng.u8(0..10) {
                    0..4 => {
                        let polls = if rng.bool() { usize::MAX } else { rng.usize(0..4) };
                        let share = cut(pool.share(), polls, DROPS[rng.usize(0..2)], |_| {});
                        let share = tokio::time::timeout(30 * MS, share).await.ok().flatten();
                        shares.extend(share.and_then(Result::ok));
                    }
                    4..6 => {
                        let guard = tokio::time::timeout(rng.u32(0..4) * MS, pool.get()).await;
                        guards.extend(guard.ok().and_then(Result::ok));
                    }
                    6..9 => {
                        let tag = format!("{actor}-{number}");
                        let Some(share) = shares.last() else { continue };
                        let share: &SharedLines = share;
                        if let Ok(answer) = share.ask(&format!("ECHO {tag}")).await {
                            assert_eq!(answer, tag, "seed {seed}");
                            answers.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    _ => {
                        shares.clear();
                        guards.clear();
                    }
                }
                // Nobody has many for long, and nobody keeps what others wait for.
                if shares.len() + guards.len() > 2 {
                    shares.clear();
                    guards.clear();
                }
                if pool.status().paused && rng.u8(0..4) == 0 {
                    pool.resume();
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    lines.most_shares.store(usize::MAX, Ordering::SeqCst);
    pool.resume();
    pool.resize(MOST).unwrap();
    for _ in 0..20 {
        let share = ends(pool.share_by(Instant::now() + 10 * SECOND)).await.unwrap();
        let _ = share.ask("ECHO once more").await;
        drop(share);
        drop(ends(pool.get_by(Instant::now() + 10 * SECOND)).await.unwrap());
    }
    until_status(&pool, |now| now.shares + now.shared + now.in_use + now.waiting == 0).await;
    println!("{} answers, {} opened, seed {seed}", answers.load(Ordering::SeqCst), events.opened());
    assert!(answers.load(Ordering::SeqCst) > 1_000);
    pool.close();
    until(|| upstream.open() == 0).await;
    until_seen(|| (events.opened(), events.closed().len()), |(opened, closed)| opened == closed)
        .await;
}

/// Each of two who stand in the queue, the first of whom wants a connection of his own and goes, or gets
/// it from somebody else.
#[tokio::test]
async fn what_was_kept_for_somebody_is_shared_again_when_he_needs_it_no_more() {
    let upstream = Upstream::start();
    for goes in [true, false] {
        let (pool, _) = pool(&upstream, 2);
        let guard = pool.get().await.unwrap();
        let first = pool.share().await.unwrap();
        let mut alone = Box::pin(pool.get());
        assert!(futures_util::poll!(alone.as_mut()).is_pending());
        let mut share = std::pin::pin!(pool.share());
        assert!(futures_util::poll!(share.as_mut()).is_pending(), "it is kept for him");
        if goes {
            drop(alone);
            drop(share.now_or_never().expect("he has gone").unwrap());
        } else {
            drop(guard);
            let guard = alone.now_or_never().expect("he has the other one").unwrap();
            drop(share.now_or_never().expect("and needs this one no more").unwrap());
            drop(guard);
        }
        drop(first);
    }
}

/// Its callers write to the wire themselves.
struct Bytes;

impl Protocol for Bytes {
    type Client = Mutex<Wire>;
    type Error = std::io::Error;

    async fn connect(&self, wire: Wire) -> std::io::Result<Mutex<Wire>> {
        Ok(Mutex::new(wire))
    }

    async fn ping(&self, _: &mut Mutex<Wire>) -> std::io::Result<()> {
        Ok(())
    }
}

impl Multiplex for Bytes {
    type Shared = Share<Self>;

    fn shared(&self, share: Share<Self>) -> Share<Self> {
        share
    }
}

#[tokio::test]
async fn a_write_of_many_waits_until_all_have_had_their_turn_and_that_of_one_does_not() {
    let upstream = Upstream::start();
    let pool = Pool::builder(upstream.config().with_max_size(1)).protocol(Bytes).build().unwrap();
    let woken = Arc::new(CountWakes::default());
    let waker = Waker::from(Arc::clone(&woken));
    let write = |wire: &Mutex<Wire>| {
        let mut wire = wire.lock().unwrap();
        Pin::new(&mut *wire).poll_write(&mut Context::from_waker(&waker), b"x")
    };
    let shares = [pool.share().await.unwrap(), pool.share().await.unwrap()];
    for expected in 1..=3 {
        assert!(write(shares[0].client()).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), expected, "nothing else wakes who waits");
        assert!(matches!(write(shares[1].client()), Poll::Ready(Ok(1))));
    }
    // One that was put off is no matter of who has it next.
    assert!(write(shares[0].client()).is_pending());
    drop(shares);
    let own = pool.get().await.unwrap();
    assert!(matches!(write(&own), Poll::Ready(Ok(1))));
    assert_eq!(woken.0.load(Ordering::SeqCst), 4);
}

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_pool_that_pings_spreads_as_well() {
    let upstream = Upstream::start();
    let lines = Lines { spread: Spread::Even(1), ..Lines::default() };
    let config = upstream.config().with_max_size(2).with_validation(Validation::Ping);
    let (pool, events) = pool_of(config, &lines);
    let guards = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    drop(guards);
    until_status(&pool, |now| now.idle == 2).await;
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    assert_ne!(first.0.id(), second.0.id());
    let pinged = |event: &Event| matches!(event, Event::Checked { check: Check::Ping, .. });
    assert_eq!(events.all().iter().filter(|event| pinged(event)).count(), 2);
}

#[tokio::test]
async fn a_protocol_may_say_at_any_time_how_many_share() {
    let upstream = Upstream::start();
    let most = Arc::new(AtomicUsize::new(usize::MAX));
    let lines = Lines { most_shares: Arc::clone(&most), ..Lines::default() };
    let (pool, events) = pool_of(upstream.config().with_max_size(1), &lines);
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    most.store(2, Ordering::SeqCst);
    let mut third = std::pin::pin!(pool.share());
    assert!(futures_util::poll!(third.as_mut()).is_pending(), "two have it");
    most.store(3, Ordering::SeqCst);
    // Asked again once per tick.
    drop(ends(third).await.unwrap());
    drop((first, second));
    let ended = |event: &Event| matches!(event, Event::SharingEnded { .. });
    assert_eq!(events.all().iter().filter(|event| ended(event)).count(), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nobody_joins_a_connection_whose_peer_is_being_asked_for_a_sign_of_life() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, 2);
    let (first, other) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    let silent = other.0.id();
    let waits = tokio::spawn(async move { first.ask("HOLD").await });
    // The request is on its way before the peer vanishes.
    assert_eq!(other.0.client().ledger.debt(), 0);
    until(|| other.0.client().ledger.debt() == 1).await;
    drop(other);
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    // Asked after a second, and given up about two later.
    let (begun, stalls) = (Instant::now(), Stalls::watch());
    loop {
        let share = pool.share().await.unwrap();
        if share.0.id() != silent {
            assert_eq!(events.closed(), [], "before anybody knows that it is dead");
            assert_eq!(share.ask("ECHO elsewhere").await.unwrap(), "elsewhere");
            break;
        }
        assert!(begun.elapsed() < 4 * SECOND + stalls.lost().await, "it was joined until its end");
        drop(share);
        tokio::time::sleep(10 * MS).await;
    }
    let error = ends(waits).await.unwrap().unwrap_err();
    assert!(RequestLost::of(&error).is_some_and(|lost| lost.maybe_done), "{error:?}");
    let (took, stall) = (begun.elapsed(), stalls.lost().await);
    assert!(took < 4 * SECOND + stall, "{took:?}, stall {stall:?}");
}

#[tokio::test]
async fn a_pool_whose_connections_are_shared_is_warm() {
    let upstream = Upstream::start();
    let (pool, _) = pool(&upstream, 1);
    let share = pool.share().await.unwrap();
    tokio::time::timeout(5 * SECOND, pool.warm_up(1)).await.expect("it is there").unwrap();
    drop(share);
}

#[tokio::test]
async fn a_dial_that_is_refused_for_good_leaves_callers_to_the_connections_that_are_shared() {
    let upstream = Upstream::start();
    let lines = Lines { let_in: Arc::new(AtomicUsize::new(1)), ..Lines::default() };
    let backoff = Backoff::default().with_first(3600 * SECOND).with_most(3600 * SECOND);
    let config = upstream.config().with_max_size(2).with_max_shares(2).with_backoff(backoff);
    let (pool, _) = pool_of(config, &lines);
    let shares = [pool.share().await.unwrap(), pool.share().await.unwrap()];
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let pool = pool.clone();
        callers.spawn(async move { pool.share().await.map(drop).map_err(|error| error.failure()) });
    }
    // As many as there are connections that nobody has, and that cannot be made.
    assert_eq!(callers.join_next().await.unwrap().unwrap(), Err(CheckoutFailure::Connect));
    until_status(&pool, |now| now.waiting == 2).await;
    drop(shares);
    assert!(callers.join_all().await.iter().all(Result::is_ok));
}
