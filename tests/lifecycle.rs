//! What is done to a pool as a whole while it runs: invalidated, resized, paused, closed, warmed up;
//! and what it tells of callers who hold connections for too long.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::try_join_all;
use livepool::CloseReason::{Invalidated, Paused, PoolClosed, Resized};
use livepool::config::FirstConnect;
use livepool::error::{CheckoutFailure, Phase};
use livepool::{Config, Event, Guard, Interrupted, Pool, Release, Timeouts};
use livepool_testkit::log::Log;
use livepool_testkit::{Order, Upstream, ask, exchange, fill, until, until_status, watched};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn take(pool: &Pool, count: usize) -> Vec<Guard> {
    try_join_all((0..count).map(|_| pool.get())).await.unwrap()
}

#[tokio::test]
async fn invalidating_closes_the_idle_ones_now_and_those_in_use_when_they_come_back() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut guards = take(&pool, 3).await;
    let mut in_use = guards.pop().unwrap();
    drop(guards);
    pool.invalidate();
    assert_eq!(events.closed(), [Invalidated; 2]);
    assert_eq!(ask(&mut in_use, "ECHO x").await.unwrap(), "x", "its user may finish");
    assert_eq!(in_use.release(), Release::Discarded(Invalidated));
    assert_eq!(exchange(&pool, "ECHO y").await, "y");
    assert_eq!(pool.status().idle, 1, "a new one is as good as any");
}

/// Closing hundreds of sockets takes milliseconds, in which the caller's thread does nothing else.
#[tokio::test]
async fn the_end_of_very_many_connections_is_not_waited_for() {
    const MANY: usize = 130;
    let endings: [(fn(&Pool), _); 3] = [
        (Pool::invalidate, Invalidated),
        (Pool::pause, Paused),
        (|pool| pool.resize(1).unwrap(), Resized),
    ];
    for (end, reason) in endings {
        let upstream = Upstream::start();
        let (pool, events) = watched(upstream.config().with_max_size(MANY));
        fill(&pool, MANY).await;
        end(&pool);
        let closed = events.closed();
        assert!((1..=64).contains(&closed.len()), "{reason:?}: {} in the call", closed.len());
        let left = usize::from(reason == Resized);
        until_status(&pool, |now| now.idle == left).await;
        assert_eq!(events.closed(), vec![reason; MANY - left]);
    }
}

/// Before the maintenance task has run.
#[tokio::test]
async fn a_pool_that_was_made_smaller_hands_out_no_more_than_its_size() {
    const MANY: usize = 130;
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(MANY));
    fill(&pool, MANY).await;
    pool.resize(10).unwrap();
    let mut held = Vec::new();
    while let Some(guard) = pool.try_get() {
        held.push(guard);
    }
    assert!(held.len() <= 10, "{} are out", held.len());
}

#[tokio::test]
async fn none_of_very_many_is_handed_out_after_the_pool_was_invalidated() {
    const MANY: usize = 130;
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(MANY));
    let old: Vec<_> = take(&pool, MANY).await.into_iter().map(|guard| guard.id()).collect();
    pool.invalidate();
    assert!(pool.status().idle > 0);
    assert!(pool.try_get().is_none());
    assert!(events.closed().len() < MANY, "whoever asks does not close all the rest");
    let conn = pool.get().await.unwrap();
    assert!(!old.contains(&conn.id()));
}

#[tokio::test]
async fn invalidating_can_interrupt_those_in_use() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    let (error, ()) = tokio::join!(ask(&mut conn, "HOLD"), async {
        tokio::time::sleep(20 * MS).await;
        pool.invalidate_and_interrupt();
    });
    assert_eq!(Interrupted::of(&error.unwrap_err()).unwrap().reason, Invalidated);
    drop(conn);
    assert_eq!(events.closed(), [Invalidated]);
}

#[tokio::test]
async fn an_error_of_an_older_generation_does_not_invalidate_again() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut old = take(&pool, 3).await;
    assert!(old.pop().unwrap().invalidate(), "the first to see it");
    fill(&pool, 1).await;
    for guard in old {
        assert!(!guard.invalidate(), "the others saw the same");
    }
    assert_eq!(events.closed(), [Invalidated; 3]);
    assert_eq!(pool.status().idle, 1, "what was made since then lives");
}

#[tokio::test]
async fn a_pool_that_is_made_smaller_closes_idle_ones_now_and_the_others_when_they_come_back() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(10));
    let mut guards = take(&pool, 10).await;
    guards.truncate(6);
    assert_eq!(pool.status().idle, 4);
    pool.resize(5).unwrap();
    assert_eq!(events.closed(), [Resized; 4], "as many idle ones as there were");
    let status = pool.status();
    assert_eq!((status.max_size, status.in_use, status.idle), (5, 6, 0));
    assert_eq!(guards.pop().unwrap().release(), Release::Discarded(Resized));
    assert_eq!(guards.pop().unwrap().release(), Release::Reused, "now it fits");
    assert_eq!(events.opened(), 10, "nothing was made while there were too many");
}

#[tokio::test]
async fn the_new_size_holds_also_for_an_empty_pool_and_after_going_up_again() {
    // deadpool 0.13 hands out 10 after 10 -> 5 on an empty pool, and 15 after 10 -> 5 -> 10.
    let upstream = Upstream::start();
    let limit = Timeouts::default().with_checkout(SECOND);
    let config = upstream.config().with_max_size(10).with_timeouts(limit);
    let pool = Pool::new(config).unwrap();
    pool.resize(5).unwrap();
    let five = take(&pool, 5).await;
    assert!(pool.get().await.is_err());
    pool.resize(10).unwrap();
    let ten = take(&pool, 5).await;
    assert!(pool.get().await.is_err());
    drop((five, ten));
    assert_eq!(pool.status().idle, 10);
}

#[tokio::test]
async fn a_caller_who_waits_is_served_when_the_pool_is_made_larger() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1)).unwrap();
    let _held = pool.get().await.unwrap();
    let (second, ()) = tokio::join!(pool.get(), async { pool.resize(400).unwrap() });
    drop(second.unwrap());
    assert_eq!(take(&pool, 399).await.len(), 399, "far beyond the room it began with");
    let error = pool.resize(0).unwrap_err().to_string();
    assert!(error.contains("max_size") && error.contains("from 1 to 65535"), "{error}");
}

#[tokio::test]
async fn a_paused_pool_leaves_the_upstream_alone_and_its_callers_wait_until_it_is_resumed() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut guards = take(&pool, 3).await;
    let in_use = guards.pop().unwrap();
    drop(guards);
    pool.pause();
    assert_eq!(events.closed(), [Paused; 2]);
    assert_eq!(in_use.release(), Release::Discarded(Paused));
    assert!(pool.status().to_string().ends_with("paused"), "{}", pool.status());
    assert!(pool.try_get().is_none());
    let late = pool.get_by(Instant::now() + 50 * MS).await.unwrap_err();
    assert_eq!(late.failure(), CheckoutFailure::Timeout(Phase::Paused));
    assert!(late.to_string().contains("call resume()"), "{late}");
    until(|| upstream.open() == 0).await;
    let (answer, ()) = tokio::join!(exchange(&pool, "ECHO x"), async {
        tokio::time::sleep(20 * MS).await;
        assert_eq!(events.opened(), 3, "nothing was made meanwhile");
        pool.resume();
    });
    assert_eq!(answer, "x");
}

#[tokio::test]
async fn closing_by_a_deadline_waits_for_those_in_use() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    let user = tokio::spawn(async move {
        let answer = ask(&mut conn, "SLOW 1000 x").await;
        conn.release();
        answer
    });
    until_status(&pool, |now| now.in_use == 1).await;
    assert_eq!(pool.close_and_wait(Instant::now() + 10 * SECOND).await, 0);
    assert_eq!(user.await.unwrap().unwrap(), "x", "it was let finish");
    assert_eq!(events.closed(), [PoolClosed]);
    assert_eq!(pool.get().await.unwrap_err().failure(), CheckoutFailure::Closed);
}

#[tokio::test]
async fn closing_interrupts_those_that_are_left_at_the_deadline_and_says_how_many() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(2));
    let (mut one, _two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let waiter = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get().await.map(drop) })
    };
    until_status(&pool, |now| now.waiting == 1).await;
    let user = tokio::spawn(async move { ask(&mut one, "HOLD").await });
    assert_eq!(pool.close_and_wait(Instant::now() + 50 * MS).await, 2);
    let error = user.await.unwrap().unwrap_err();
    assert_eq!(Interrupted::of(&error).unwrap().reason, PoolClosed, "never a clean end of stream");
    assert_eq!(waiter.await.unwrap().unwrap_err().failure(), CheckoutFailure::Closed);
    until(|| events.closed() == [PoolClosed]).await;
}

#[tokio::test]
async fn a_connection_held_for_too_long_is_reported_once_with_the_place_it_was_taken_at() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_size(1).with_hold_warning(Some(400 * MS));
    let (pool, events) = watched(config);
    let held = pool.get().await.unwrap();
    let line = line!() - 1;
    let warnings = || {
        let place = |event: &Event| match event {
            Event::HeldTooLong { conn, taken_at, held: time, .. } => {
                assert!(*time >= 400 * MS);
                Some((*conn, taken_at.file(), taken_at.line()))
            }
            _ => None,
        };
        events.all().iter().filter_map(place).collect::<Vec<_>>()
    };
    until(|| !warnings().is_empty()).await;
    let late = pool.get_by(Instant::now() + 100 * MS).await.unwrap_err();
    assert_eq!(warnings(), [(held.id(), file!(), line)], "once");
    assert_eq!(late.holders()[0].conn, held.id());
    let place = format!("taken at {}:{line}", file!());
    assert!(late.to_string().contains(&place), "{late}");
    drop(held);
    let held = pool.run(async |conn| std::io::Result::Ok(conn.id())).await.unwrap();
    assert_eq!(warnings().len(), 1, "{held} was held for a moment only");
}

#[tokio::test]
async fn a_pool_is_warmed_up_before_its_first_caller() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    pool.warm_up(4).await.unwrap();
    assert_eq!((pool.status().idle, events.opened()), (4, 4));
    pool.warm_up(100).await.unwrap();
    assert_eq!(pool.status().idle, 10, "never more than max_size");
}

#[tokio::test]
async fn warming_up_waits_for_an_upstream_that_comes_or_fails_with_the_first_dial() {
    let mut upstream = Upstream::start();
    let addr = upstream.addr();
    upstream.stop();
    let config = Config::new(addr.to_string());
    let pool = Pool::new(config.with_first_connect(FirstConnect::Wait)).unwrap();
    let error = pool.warm_up_or_fail(2).await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Connect);
    assert!(error.connect_error().unwrap().to_string().contains("refused"));
    let (warm, _upstream) = tokio::join!(pool.warm_up(2), async {
        tokio::time::sleep(100 * MS).await;
        Upstream::start_on(addr)
    });
    warm.unwrap();
    assert_eq!(pool.status().idle, 2);
}

/// An upstream that hangs up as soon as it is asked for the first time on a connection that was
/// idle before.
async fn about_to_hang_up() -> (Upstream, Pool, livepool_testkit::Events) {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    fill(&pool, 1).await;
    (upstream, pool, events)
}

#[tokio::test]
async fn an_exchange_on_a_stale_connection_is_tried_once_more_on_another_one() {
    let (upstream, pool, events) = about_to_hang_up().await;
    let mut tries = 0;
    let answer = pool.run_retry(async |conn| {
        tries += 1;
        if tries == 1 {
            upstream.order_all(&Order::Close);
            // It closes in the moment after the check.
            until(|| upstream.open() == 0).await;
        }
        ask(conn, "ECHO x").await
    });
    assert_eq!(answer.await.unwrap(), "x");
    assert_eq!((tries, events.opened()), (2, 2));
}

#[tokio::test]
async fn an_exchange_that_fails_in_another_way_is_not_tried_again() {
    let (_upstream, pool, _) = about_to_hang_up().await;
    // After the first byte of an answer, repeating might do things twice.
    let mut tries = 0;
    let result = pool.run_retry(async |conn| {
        tries += 1;
        ask(conn, "ECHO x").await?;
        ask(conn, "QUIT").await
    });
    assert!(result.await.is_err());
    // A new connection fares no better than another new one.
    let result = pool.run_retry(async |conn| {
        tries += 1;
        ask(conn, "QUIT").await
    });
    assert!(result.await.is_err());
    // Not the connection's fault.
    let result = pool.run_retry(async |conn| {
        tries += 1;
        conn.set_read_timeout(Some(20 * MS));
        ask(conn, "HOLD").await
    });
    assert!(livepool::is_timeout(&result.await.unwrap_err()));
    assert_eq!(tries, 3);
}

#[tokio::test]
async fn the_report_of_a_holder_says_what_it_was_doing() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_hold_warning(Some(20 * MS)));
    let span = tracing::info_span!("report", customer = 7);
    let _held = tracing::Instrument::instrument(pool.get(), span).await.unwrap();
    let lines = || log.lines("held for too long");
    until(|| !lines().is_empty()).await;
    let line = &lines()[0];
    assert!(line.contains("report{customer=7}") && line.contains("WARN"), "{line}");
}

#[tokio::test]
async fn an_error_of_an_older_generation_does_not_rename_why_that_one_ended() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let mut guards = take(&pool, 2).await;
    pool.pause();
    pool.resume();
    assert!(!guards.pop().unwrap().invalidate(), "it has ended already");
    assert_eq!(guards.pop().unwrap().release(), Release::Discarded(Paused));
    assert_eq!(events.closed(), [Invalidated, Paused]);
}

/// Between the checks of a connection that is passed on and the caller who gets it are observers and
/// recorders, and so all the time in the world.
#[tokio::test]
async fn a_connection_that_is_passed_on_while_the_pool_is_invalidated_reaches_nobody() {
    let upstream = Upstream::start();
    let shared: Arc<OnceLock<Pool>> = Arc::default();
    let invalidating = Arc::clone(&shared);
    let observer = move |_: &str, event: &Event| {
        if let Event::Returned { .. } = event {
            invalidating.get().unwrap().invalidate();
        }
    };
    let config = upstream.config().with_max_size(1);
    let pool = shared.get_or_init(|| Pool::builder(config).observer(observer).build().unwrap());
    let first = pool.get().await.unwrap();
    let old = first.id();
    let (new, ()) = tokio::join!(pool.get(), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    assert_ne!(new.unwrap().id(), old);
}

#[tokio::test]
async fn a_weak_handle_keeps_no_pool_open_and_leads_to_none_that_is_closed() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let weak = pool.downgrade();
    fill(&pool, 1).await;
    weak.upgrade().unwrap().invalidate();
    assert_eq!(events.closed(), [Invalidated], "it is the same pool");
    fill(&pool, 1).await;
    drop(pool);
    assert_eq!(events.closed(), [Invalidated, PoolClosed]);
    assert!(weak.upgrade().is_none());
    let (pool, _) = watched(upstream.config());
    let weak = pool.downgrade();
    pool.close();
    assert!(weak.clone().upgrade().is_none(), "{weak:?}");
}
