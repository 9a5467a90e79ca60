//! `livepool::Manager` in a plain deadpool pool, with a protocol: what create and recycle do. Bare
//! streams are in `plain_deadpool.rs`, the watch over idle connections in `manager_watch.rs`.

#[path = "manager/dials.rs"]
mod dials;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Hook, HookError, Object, PoolError, Timeouts as Waits};
use livepool::config::Validation;
use livepool::event::{Check, CheckVerdict, Operation};
use livepool::protocol::{Protocol, Raw, Verdict};
use livepool::{CloseReason, Config, Connection, Event, Manager, Pool, Release, Timeouts};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::lines::Lines;
use livepool_testkit::{Events, Order, Upstream, until, until_seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

type Plain = managed::Pool<Manager<Lines>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn plain(config: Config, lines: &Lines, size: usize) -> (Plain, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer()).protocol(lines.clone());
    let manager = builder.build_manager().unwrap();
    let pool = Plain::builder(manager).max_size(size).runtime(deadpool::Runtime::Tokio1);
    (pool.build().unwrap(), events)
}

async fn ask(pool: &Plain, line: &str) -> io::Result<String> {
    pool.get().await.map_err(io::Error::other)?.ask(line).await
}

fn checks(events: &Events, check: Check) -> Vec<CheckVerdict> {
    let verdict = |event: &Event| match event {
        Event::Checked { check: of, verdict, .. } if *of == check => Some(*verdict),
        _ => None,
    };
    events.all().iter().filter_map(verdict).collect()
}

#[tokio::test]
async fn callers_of_a_plain_deadpool_get_the_client_that_the_protocol_made() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 2);
    for text in ["a", "b", "c"] {
        assert_eq!(ask(&pool, &format!("ECHO {text}")).await.unwrap(), text);
    }
    assert_eq!((upstream.accepted(), events.opened()), (1, 1));
    assert!(events.closed().is_empty(), "dropped with nothing owed, it is used again");
}

#[tokio::test]
async fn an_answer_that_nobody_waited_for_is_not_that_of_the_next_caller_of_a_plain_deadpool() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 1);
    let client = pool.get().await.unwrap();
    tokio::time::timeout(20 * MS, client.ask("SLOW 5000 mine")).await.unwrap_err();
    drop(client);
    assert_eq!(ask(&pool, "ECHO yours").await.unwrap(), "yours");
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

#[tokio::test]
async fn what_a_protocol_wants_reset_is_reset_before_the_next_caller_of_a_plain_deadpool() {
    let upstream = Upstream::start();
    let lines = Lines { reset: "SLOW 30 reset".to_owned(), ..Lines::default() };
    let (pool, events) = plain(upstream.config(), &lines, 1);
    assert_eq!(ask(&pool, "ECHO stain").await.unwrap(), "stain");
    let began = Instant::now();
    assert_eq!(ask(&pool, "ECHO next").await.unwrap(), "next");
    assert!(began.elapsed() >= 30 * MS, "the next one waits for the reset");
    assert!(events.closed().is_empty());
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_reset_that_fails_or_hangs_costs_the_connection_and_no_caller_of_a_plain_deadpool() {
    for (reset, hangs) in [("ECHO error", false), ("HOLD", true)] {
        let upstream = Upstream::start();
        let lines = Lines { reset: reset.to_owned(), ..Lines::default() };
        let mut config = upstream.config();
        if hangs {
            config.timeouts.reset = Some(50 * MS);
        }
        let (pool, events) = plain(config, &lines, 1);
        assert_eq!(ask(&pool, "ECHO stain").await.unwrap(), "stain");
        assert_eq!(ask(&pool, "ECHO next").await.unwrap(), "next", "{reset}");
        assert_eq!(events.closed(), [CloseReason::ResetFailed], "{reset}");
        let late = if hangs { vec![Operation::Reset] } else { vec![] };
        assert_eq!(events.timed_out(), late, "{reset}");
    }
}

#[tokio::test]
async fn an_error_that_concerns_all_connections_ends_all_of_a_plain_deadpool() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 3);
    let all = futures_util::future::join_all((0..3).map(|_| pool.get())).await;
    drop(all);
    assert_eq!(ask(&pool, "ECHO invalidate").await.unwrap(), "invalidate");
    assert_eq!(ask(&pool, "ECHO next").await.unwrap(), "next");
    let closed = events.closed();
    assert_eq!(closed.len(), 3, "{closed:?}");
    assert_eq!(closed[1..], [CloseReason::Invalidated; 2]);
    assert_eq!(pool.status().size, 1);
}

#[tokio::test]
async fn connections_of_a_plain_deadpool_are_pinged_as_the_policy_says() {
    let upstream = Upstream::start();
    let config = upstream.config().with_validation(Validation::PingIfIdle(Duration::ZERO));
    let (pool, events) = plain(config, &Lines::default(), 1);
    ask(&pool, "ECHO a").await.unwrap();
    assert_eq!(checks(&events, Check::Ping), [], "it is new");
    ask(&pool, "ECHO b").await.unwrap();
    assert_eq!(checks(&events, Check::Ping), [CheckVerdict::Alive]);
    // Since when one was idle nobody knows: the longest it may have been counts.
    let config = upstream.config().with_validation(Validation::PingIfIdle(SECOND));
    let (pool, events) = plain(config, &Lines::default(), 1);
    ask(&pool, "ECHO a").await.unwrap();
    ask(&pool, "ECHO b").await.unwrap();
    assert_eq!(checks(&events, Check::Ping), []);
    sleep(SECOND).await;
    ask(&pool, "ECHO c").await.unwrap();
    assert_eq!(checks(&events, Check::Ping), [CheckVerdict::Alive]);
}

#[tokio::test]
async fn a_program_that_hangs_is_found_by_the_ping_of_a_plain_deadpool_within_its_time() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_ping(50 * MS);
    let config = upstream.config().with_timeouts(timeouts);
    let config = config.with_validation(Validation::PingIfIdle(Duration::ZERO));
    let lines = Lines { ping: "HOLD".to_owned(), ..Lines::default() };
    let (pool, events) = plain(config, &lines, 1);
    ask(&pool, "ECHO a").await.unwrap();
    assert_eq!(ask(&pool, "ECHO b").await.unwrap(), "b", "on another one");
    assert_eq!(events.closed(), [CloseReason::PingTimeout]);
    assert_eq!(events.timed_out(), [Operation::Ping]);
    assert_eq!(pool.status().size, 1);
}

/// The peers of the idle connections have vanished. How long a caller waits for one that works.
#[cfg(target_os = "linux")]
async fn served_beside_silent_ones(count: usize) -> Duration {
    let upstream = Upstream::start();
    let silence = Some(1100 * MS);
    let config = upstream.config().with_max_silence(silence).with_max_silence_after_use(silence);
    let (pool, events) = plain(config, &Lines::default(), count);
    drop(futures_util::future::join_all((0..count).map(|_| pool.get())).await);
    upstream.order_all(&Order::Silence);
    sleep(1500 * MS).await;
    let began = Instant::now();
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    let took = began.elapsed();
    assert!(checks(&events, Check::Life).contains(&CheckVerdict::Unproved));
    let closed = events.until_closed(count).await;
    let silent = [CloseReason::Superseded, CloseReason::ProbeTimeout];
    assert!(closed.iter().all(|reason| silent.contains(reason)), "{closed:?}");
    assert_eq!(pool.status().size, 1);
    took
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn silent_connections_of_a_plain_deadpool_reach_nobody_and_many_cost_little_more_than_one() {
    let (one, many) = tokio::join!(served_beside_silent_ones(1), served_beside_silent_ones(16));
    assert!(one >= 250 * MS, "it is waited for with patience: {one:?}");
    // Before there is a verdict.
    assert!(one < 2200 * MS, "{one:?}");
    // One patience and 15 sixteenths: half a second. Sixteen whole ones would be 4 s.
    assert!(many < 3 * SECOND, "{many:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_living_peer_that_was_quiet_for_long_is_asked_and_its_connection_used() {
    let upstream = Upstream::start();
    let silence = Some(1100 * MS);
    let config = upstream.config().with_max_silence(silence).with_max_silence_after_use(silence);
    // The answer comes in a moment, and nobody dials meanwhile, however busy the machine is.
    let config = config.with_patience(20 * SECOND);
    let (pool, events) = plain(config, &Lines::default(), 1);
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
    sleep(1500 * MS).await;
    assert_eq!(ask(&pool, "ECHO y").await.unwrap(), "y");
    assert_eq!(checks(&events, Check::Probe), [CheckVerdict::Alive]);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// deadpool has dropped them while their peers were being asked, and there is nobody to give them back to.
#[cfg(target_os = "linux")]
async fn given_up_ones_end<P: Protocol>(protocol: P) {
    let upstream = Upstream::start();
    let silence = Some(1100 * MS);
    let config = upstream.config().with_max_silence(silence).with_max_silence_after_use(silence);
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer()).protocol(protocol);
    let manager = builder.build_manager().unwrap();
    let pool = managed::Pool::<Manager<P>>::builder(manager).max_size(3).build().unwrap();
    drop(futures_util::future::join_all((0..3).map(|_| pool.get())).await);
    upstream.order_all(&Order::Silence);
    sleep(1500 * MS).await;
    let _conn = pool.get().await.unwrap();
    // One has made room for the new one.
    assert_eq!(pool.manager().status().quarantined, 2);
    upstream.order_all(&Order::Heal);
    assert_eq!(events.until_closed(3).await, [CloseReason::Superseded; 3]);
    until(|| upstream.open() == 1).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn silent_connections_that_were_given_up_end_though_their_peers_answer_at_last() {
    tokio::join!(given_up_ones_end(Lines::default()), given_up_ones_end(Raw::default()));
}

#[tokio::test]
async fn who_waits_for_how_long_and_which_connection_is_next_are_deadpools() {
    let upstream = Upstream::start();
    let builder = Pool::builder(upstream.config()).protocol(Lines::default());
    let pool = Plain::builder(builder.build_manager().unwrap())
        .max_size(2)
        .queue_mode(managed::QueueMode::Fifo)
        .wait_timeout(Some(50 * MS))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .unwrap();
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let late = pool.get().await.unwrap_err();
    assert!(matches!(late, PoolError::Timeout(managed::TimeoutType::Wait)), "{late}");
    let (first, second) = (a.id(), b.id());
    drop(a);
    drop(b);
    assert_eq!(pool.get().await.unwrap().id(), first, "the one that came back first");
    assert_eq!(pool.get().await.unwrap().id(), second);
}

#[tokio::test]
async fn hooks_of_deadpool_run_beside_and_may_use_the_client_of_an_idle_connection() {
    let upstream = Upstream::start();
    let events = Events::default();
    let builder = Pool::builder(upstream.config()).observer(events.observer());
    let manager = builder.protocol(Lines::default()).build_manager().unwrap();
    let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = |name: &'static str| {
        let ran = Arc::clone(&ran);
        Hook::async_fn(move |conn: &mut Connection<Lines>, metrics| {
            ran.lock().unwrap().push((name, metrics.recycle_count));
            Box::pin(async move {
                match conn.ask(&format!("ECHO {name}")).await {
                    Ok(answer) if answer == name => Ok(()),
                    other => Err(HookError::message(format!("{other:?}"))),
                }
            })
        })
    };
    let pool = Plain::builder(manager)
        .max_size(1)
        .post_create(hook("created"))
        .pre_recycle(hook("before"))
        .post_recycle(hook("after"))
        .build()
        .unwrap();
    Manager::watch(&pool);
    for round in 0..3 {
        assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x");
        // Idle, and looked after.
        until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
        assert_eq!(ran.lock().unwrap().len(), 1 + 2 * round);
    }
    let expected = [("created", 0), ("before", 0), ("after", 0), ("before", 1), ("after", 1)];
    assert_eq!(*ran.lock().unwrap(), expected);
    let object = pool.get().await.unwrap();
    assert_eq!(Object::metrics(&object).recycle_count, 3);
    assert_eq!((upstream.accepted(), events.closed()), (1, vec![]));
}

/// The answer waits in the socket while the hook does something else: nobody takes it for bytes that
/// nobody had asked for.
#[tokio::test]
async fn a_hook_of_deadpool_may_use_a_bare_stream_that_is_idle() {
    let upstream = Upstream::start();
    let events = Events::default();
    let manager = Manager::with_observer(&upstream.config(), events.observer()).unwrap();
    let hook = Hook::async_fn(|conn: &mut Connection, _| {
        Box::pin(async move {
            conn.write_all(b"ECHO x\n").await.map_err(|e| HookError::message(e.to_string()))?;
            sleep(100 * MS).await;
            let read = conn.read_exact(&mut [0; 2]).await;
            read.map_err(|e| HookError::message(e.to_string()))?;
            conn.finish();
            Ok(())
        })
    });
    let pool = managed::Pool::<Manager>::builder(manager).max_size(1).pre_recycle(hook);
    let pool = pool.build().unwrap();
    Manager::watch(&pool);
    for _ in 0..3 {
        drop(pool.get().await.unwrap());
        until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_hook_that_refuses_a_connection_ends_it() {
    let upstream = Upstream::start();
    let events = Events::default();
    let builder = Pool::builder(upstream.config()).observer(events.observer());
    let manager = builder.protocol(Lines::default()).build_manager().unwrap();
    let refuse = Hook::sync_fn(|_: &mut Connection<Lines>, _| Err(HookError::message("no")));
    let pool = Plain::builder(manager).max_size(1).pre_recycle(refuse).build().unwrap();
    ask(&pool, "ECHO a").await.unwrap();
    ask(&pool, "ECHO b").await.unwrap();
    assert_eq!((events.opened(), events.closed()), (2, vec![CloseReason::Discarded]));
    until(|| upstream.open() == 1).await;
}

#[tokio::test]
async fn a_recycle_that_is_given_up_at_any_moment_leaks_nothing() {
    let upstream = Upstream::start();
    let lines = Lines {
        reset: "SLOW 5 reset".to_owned(),
        ping: "SLOW 5 ping".to_owned(),
        ..Lines::default()
    };
    let config = upstream.config().with_validation(Validation::PingIfIdle(Duration::ZERO));
    let (pool, events) = plain(config, &lines, 1);
    for polls in 1..6 {
        for when in DROPS {
            assert_eq!(ask(&pool, "ECHO stain").await.unwrap(), "stain");
            let _ = cut(pool.get(), polls, when, |_| {}).await;
            assert_eq!(ask(&pool, "ECHO next").await.unwrap(), "next", "{polls} {when:?}");
        }
    }
    // With deadpool's own time for it, too.
    let waits = Waits { recycle: Some(MS), ..Waits::default() };
    assert_eq!(ask(&pool, "ECHO stain").await.unwrap(), "stain");
    drop(pool.timeout_get(&waits).await.unwrap());
    assert!(pool.status().size <= 1);
    drop(pool);
    until_seen(|| upstream.open(), |open| *open == 0).await;
    events.until_closed(events.opened()).await;
    assert_eq!(events.opened(), events.closed().len());
}

#[tokio::test]
async fn an_object_that_was_taken_out_has_no_place_any_more_and_ends_with_one_event() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 1);
    let taken = Object::take(pool.get().await.unwrap());
    assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x", "there is a place for another one");
    assert_eq!(taken.ask("ECHO mine").await.unwrap(), "mine");
    assert_eq!(upstream.accepted(), 2);
    drop(pool);
    assert_eq!(events.closed(), [CloseReason::PoolClosed]);
    assert_eq!(taken.ask("ECHO mine").await.unwrap(), "mine", "it is its owner's");
    drop(taken);
    assert_eq!(events.closed(), [CloseReason::PoolClosed; 2]);
}

#[tokio::test]
async fn a_client_that_is_detached_is_no_pools_any_more() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 1);
    let client = Connection::detach(pool.get().await.unwrap());
    assert_eq!(events.closed(), [CloseReason::Detached]);
    assert_eq!(pool.manager().status().in_use, 0);
    drop(pool);
    assert_eq!(client.ask("ECHO mine").await.unwrap(), "mine");
    drop(client);
    until(|| upstream.open() == 0).await;
    assert_eq!(events.closed().len(), 1);
}

#[tokio::test]
async fn a_release_is_judged_at_once_and_resets_in_the_background() {
    let upstream = Upstream::start();
    let lines = Lines { reset: "SLOW 100 reset".to_owned(), ..Lines::default() };
    let (pool, events) = plain(upstream.config(), &lines, 2);
    let conn = pool.get().await.unwrap();
    assert_eq!(conn.ask("ECHO x").await.unwrap(), "x");
    assert_eq!(Connection::release(conn), Release::Reused);
    let returned = |event: &Event| matches!(event, Event::Returned { .. });
    assert_eq!(events.all().iter().filter(|event| returned(event)).count(), 1);

    let conn = pool.get().await.unwrap();
    assert_eq!(conn.ask("ECHO stain").await.unwrap(), "stain");
    assert_eq!(Connection::release(conn), Release::Resetting);
    assert_eq!(pool.status().available, 0, "it is not back before it is reset");
    until_seen(|| pool.status().available, |available| *available == 1).await;
    assert_eq!(ask(&pool, "ECHO next").await.unwrap(), "next");
    assert_eq!((upstream.accepted(), events.closed()), (1, vec![]));

    let conn = pool.get().await.unwrap();
    tokio::time::timeout(10 * MS, conn.ask("HOLD")).await.unwrap_err();
    assert_eq!(Connection::release(conn), Release::Discarded(CloseReason::Unfinished));
    assert_eq!((pool.status().size, events.closed()), (0, vec![CloseReason::Unfinished]));
}

#[tokio::test]
async fn a_plain_deadpool_is_invalidated_paused_and_resumed_by_its_manager() {
    let upstream = Upstream::start();
    let (pool, events) = plain(upstream.config(), &Lines::default(), 1);
    ask(&pool, "ECHO a").await.unwrap();
    pool.manager().invalidate();
    ask(&pool, "ECHO b").await.unwrap();
    assert_eq!(events.closed(), [CloseReason::Invalidated]);
    pool.manager().pause();
    let mut waiting = std::pin::pin!(ask(&pool, "ECHO c"));
    tokio::time::timeout(50 * MS, waiting.as_mut()).await.unwrap_err();
    assert_eq!(events.closed()[1..], [CloseReason::Paused]);
    assert_eq!(upstream.accepted(), 2);
    pool.manager().resume();
    assert_eq!(waiting.await.unwrap(), "c");
}

#[test]
fn settings_that_are_deadpools_or_that_it_has_no_hook_for_are_refused_with_what_to_do() {
    let config = Config::new("db:1").with_max_size(3).with_min_idle(1).with_max_waiting(Some(7));
    let config = config.with_max_shares(9).with_hold_warning(Some(SECOND));
    let error = Pool::builder(config).protocol(Lines::default()).build_manager().unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["max_size", "min_idle", "max_waiting", "max_shares", "hold_warning"]);
    assert!(error.problems()[0].to_string().contains("Pool::builder(manager).max_size(..)"));
    // Those that it can honour are taken.
    let timeouts = Timeouts::default().with_checkout(SECOND).with_reset(SECOND).with_ping(SECOND);
    let config = Config::new("db:1").with_timeouts(timeouts).with_patience(SECOND);
    let config = config.with_validation(Validation::Ping).with_max_connecting(4);
    let config = config.with_idle_timeout(Some(SECOND)).with_max_silence_after_use(Some(SECOND));
    let lines = Lines { reuse: Verdict::Keep, ..Lines::default() };
    Pool::builder(config).protocol(lines).build_manager().unwrap();
    // As a pool does.
    let pinged = Config::new("db:1").with_validation(Validation::Ping);
    assert_eq!(Manager::new(&pinged).unwrap_err().problems()[0].field, "validation");
}
