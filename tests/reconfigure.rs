//! Settings that change while the pool runs: all together or none, checked as a whole, seen by everybody
//! as of before or as of afterwards, and told. What each of them does then is in `reconfigure/acts.rs`
//! and `reconfigure/uses.rs`, and that no setting is forgotten in `reconfigure/every_setting.rs`.

#[path = "reconfigure/acts.rs"]
mod acts;
#[cfg(feature = "serde")]
#[path = "reconfigure/every_setting.rs"]
mod every_setting;
#[path = "reconfigure/uses.rs"]
mod uses;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livepool::CloseReason::Resized;
use livepool::config::{ReadTimeout, Validation};
use livepool::event::{Check, CheckVerdict};
use livepool::{Config, Event, Manager, Pool, Release};
use livepool_testkit::{Events, Upstream, ask, exchange, until, until_status, watched};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// No silence is looked at: kernels have a clock of their own.
fn unwatched(upstream: &Upstream) -> Config {
    upstream.config().with_max_silence(None)
}

fn is_checked(event: &Event, which: Check, found: CheckVerdict) -> bool {
    matches!(event, Event::Checked { check, verdict, .. } if *check == which && *verdict == found)
}

fn checks(events: &Events, which: Check, found: CheckVerdict) -> usize {
    events.all().iter().filter(|event| is_checked(event, which, found)).count()
}

/// The settings that were changed, change by change.
fn changes(events: &Events) -> Vec<Vec<&'static str>> {
    let changed = |event: &Event| match event {
        Event::Reconfigured { changed, .. } => Some(changed.to_vec()),
        _ => None,
    };
    events.all().iter().filter_map(changed).collect()
}

#[tokio::test]
async fn a_change_is_there_at_once_and_is_told_with_the_settings_that_changed() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    pool.reconfigure(|config| {
        config.idle_timeout = Some(7 * SECOND);
        config.timeouts.checkout = Some(SECOND);
        config.max_size = 3;
    })
    .unwrap();
    let config = pool.config();
    assert_eq!((config.idle_timeout, config.timeouts.checkout), (Some(7 * SECOND), Some(SECOND)));
    assert_eq!((config.max_size, pool.status().max_size), (3, 3));
    let told = [vec!["max_size", "idle_timeout", "timeouts.checkout"]];
    assert_eq!(changes(&events), told);
    // What is as it was is no change.
    pool.reconfigure(|config| config.max_size = 3).unwrap();
    pool.resize(3).unwrap();
    assert_eq!(changes(&events), told);
    pool.resize(4).unwrap();
    assert_eq!(changes(&events)[1], ["max_size"]);
}

#[tokio::test]
async fn a_change_with_a_problem_changes_nothing_and_names_every_problem() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_min_idle(2));
    let before = pool.config();
    let error = pool
        .reconfigure(|config| {
            config.name = "another".to_owned();
            config.upstream = vec!["user:secret@db".to_owned()];
            config.max_size = 1;
            config.patience = 99 * MS;
            config.validation = Validation::Ping;
            config.timeouts.write = Some(Duration::ZERO);
            config.socket.keepalive = None;
        })
        .unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
    let expected = [
        "name",
        "upstream",
        "socket.keepalive",
        "validation",
        "upstream[0]",
        "min_idle",
        "timeouts.write",
    ];
    assert_eq!(fields, expected, "{error:#}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(pool.config(), before);
    assert_eq!(pool.status().max_size, 10);
    assert!(changes(&events).is_empty());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
}

#[tokio::test]
async fn a_closure_that_panics_changes_nothing_and_holds_no_lock() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        pool.reconfigure(|config| {
            config.max_size = 1;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(pool.config().max_size, 10);
    // Everything of the pool can be used in it.
    pool.reconfigure(|config| {
        assert_eq!(pool.config().max_size, config.max_size);
        assert_eq!(pool.status().max_size, 10);
        let _ = (pool.report(), pool.try_get(), pool.peers());
        config.max_size = 2;
    })
    .unwrap();
    assert_eq!(changes(&events), [["max_size"]]);
}

/// The inner change is made first; the outer one is of a configuration that is no more, and made again.
#[tokio::test]
async fn a_change_that_comes_in_between_is_not_lost() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let calls = Cell::new(0);
    pool.reconfigure(|config| {
        if calls.replace(calls.get() + 1) == 0 {
            pool.reconfigure(|config| config.max_waiting = Some(5)).unwrap();
        }
        config.max_size = 2;
    })
    .unwrap();
    assert_eq!(calls.get(), 2);
    assert_eq!((pool.config().max_waiting, pool.config().max_size), (Some(5), 2));
    assert_eq!(changes(&events), [["max_waiting"], ["max_size"]]);
}

#[test]
fn of_many_changes_at_once_none_is_lost() {
    const THREADS: usize = 4;
    const EACH: usize = 100;
    let pool = Pool::new(Config::new("127.0.0.1:1").with_max_waiting(0)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for at in 0..EACH {
                    let more = |config: &mut Config| {
                        config.max_waiting = config.max_waiting.map(|most| most + 1);
                    };
                    pool.reconfigure(more).unwrap();
                    // Others change what it does not.
                    if thread == 0 {
                        pool.resize(1 + at % 9).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(pool.config().max_waiting, Some(THREADS * EACH));
    assert_eq!(pool.config().max_size, 1 + (EACH - 1) % 9);
    assert_eq!(pool.status().max_size, pool.config().max_size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_part_of_a_change() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(4));
    let set = |seconds: u32| {
        move |config: &mut Config| {
            let time = Some(seconds * SECOND);
            (config.idle_timeout, config.max_lifetime) = (time, time);
            (config.timeouts.read, config.timeouts.write) = (time.into(), time);
            config.timeouts.flush = time;
        }
    };
    pool.reconfigure(set(100)).unwrap();
    let is_over = AtomicBool::new(false);
    let (seen, pool) = (&AtomicBool::new(false), &pool);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let now = pool.config();
                assert_eq!(now.idle_timeout, now.max_lifetime);
                assert_eq!(ReadTimeout::from(now.idle_timeout), now.timeouts.read);
                seen.fetch_or(now.idle_timeout == Some(200 * SECOND), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            // As the users of one connection see it that they keep, and of others.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kept = pool.get().await.unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let mut conn = pool.get().await.unwrap();
                    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
                    for now in [kept.timeouts(), conn.timeouts()] {
                        assert_eq!(now.read, now.write.into());
                        assert_eq!(now.write, now.flush);
                    }
                    conn.release();
                }
            });
        });
        for _ in 0..2000 {
            pool.reconfigure(set(200)).unwrap();
            pool.reconfigure(set(100)).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(seen.load(Ordering::Relaxed), "they ran beside each other");
}

#[tokio::test]
async fn a_size_below_min_idle_has_fewer_idle_ones_until_there_is_room_again() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(6).with_min_idle(4));
    pool.warm_up(4).await.unwrap();
    pool.resize(2).unwrap();
    assert_eq!(pool.config().min_idle, 2);
    assert_eq!(events.until_closed(2).await, [Resized; 2]);
    // The configuration is one that a pool could be made of: other settings can be changed.
    pool.reconfigure(|config| config.max_waiting = Some(1)).unwrap();
    pool.resize(5).unwrap();
    assert_eq!(pool.config().min_idle, 4);
    until_status(&pool, |now| now.idle == 4).await;
    // One that is asked for is not forgotten for it.
    pool.resize(2).unwrap();
    pool.reconfigure(|config| config.min_idle = 1).unwrap();
    pool.resize(5).unwrap();
    assert_eq!(pool.config().min_idle, 1);
}

#[tokio::test]
async fn a_size_or_a_min_idle_that_is_configured_ends_what_resize_remembered() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_max_size(6).with_min_idle(4));
    let now = || (pool.config().max_size, pool.config().min_idle);
    pool.resize(2).unwrap();
    assert_eq!(now(), (2, 2));
    pool.reconfigure(|config| config.max_size = 3).unwrap();
    pool.resize(6).unwrap();
    assert_eq!(now(), (6, 2));
    pool.reconfigure(|config| config.min_idle = 5).unwrap();
    pool.resize(3).unwrap();
    let from_file = pool.config().as_ref().clone().with_max_size(4).with_min_idle(3);
    pool.reconfigure(|config| *config = from_file.clone()).unwrap();
    pool.resize(6).unwrap();
    assert_eq!(now(), (6, 3), "the file said 3");
    // What is about something else ends nothing.
    pool.resize(2).unwrap();
    pool.reconfigure(|config| config.max_waiting = Some(9)).unwrap();
    pool.resize(6).unwrap();
    assert_eq!(now(), (6, 3));
}

#[tokio::test]
async fn a_pool_without_a_checkout_and_one_that_is_closed_are_changed_and_dial_nothing() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    pool.reconfigure(|config| config.min_idle = 3).unwrap();
    assert_eq!(upstream.accepted(), 0);
    exchange(&pool, "ECHO x").await;
    until_status(&pool, |now| now.idle >= 3 && now.connecting == 0).await;
    let made = events.opened();
    until(|| upstream.accepted() == made).await;
    pool.close();
    pool.reconfigure(|config| config.min_idle = 5).unwrap();
    pool.resize(20).unwrap();
    assert_eq!(pool.status().max_size, 20);
    until(|| upstream.open() == 0).await;
    assert_eq!(upstream.accepted(), made);
}

#[tokio::test]
async fn a_connection_that_left_the_pool_keeps_the_timeouts_it_had() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    let (in_pool, detached) = (pool.get().await.unwrap(), pool.get().await.unwrap().detach());
    let before = detached.timeouts();
    pool.reconfigure(|config| config.timeouts.write = Some(3 * SECOND)).unwrap();
    assert_eq!(detached.timeouts(), before);
    assert_eq!(in_pool.timeouts().write, Some(3 * SECOND));
    assert_eq!(in_pool.release(), Release::Reused);
}

#[tokio::test]
async fn in_a_plain_deadpool_what_is_deadpools_is_refused_and_the_rest_acts() {
    use livepool::CloseReason::IdleTimeout;
    use livepool_testkit::until_seen;
    let (upstream, events) = (Upstream::start(), Events::default());
    let builder = Pool::builder(upstream.config().with_max_silence(None));
    let manager = builder.observer(events.observer()).build_manager().unwrap();
    let pool = deadpool::managed::Pool::<Manager>::builder(manager).max_size(3).build().unwrap();
    let error = pool
        .manager()
        .reconfigure(|config| {
            (config.max_size, config.min_idle, config.max_waiting) = (3, 1, Some(1));
            config.idle_timeout = Some(SECOND);
        })
        .unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["max_size", "min_idle", "max_waiting"], "{error:#}");
    assert_eq!(pool.manager().config().idle_timeout, Some(600 * SECOND));
    Manager::watch(&pool);
    drop((pool.get().await.unwrap(), pool.get().await.unwrap()));
    until_seen(|| pool.manager().status(), |now| now.idle == 2).await;
    pool.manager().reconfigure(|config| config.idle_timeout = Some(20 * MS)).unwrap();
    assert_eq!(events.until_closed(2).await, [IdleTimeout; 2]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    assert_eq!(pool.manager().status().max_size, 3, "the size stays deadpool's");
}
