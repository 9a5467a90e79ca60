//! What the log says of callers who wait, and of dials that were given up.

use std::time::Duration;

use livepool::event::DialOutcome;
use livepool::{Config, Event, Pool};
use livepool_testkit::lines::Lines;
use livepool_testkit::log::Log;
use livepool_testkit::{Events, Upstream, exchange, until, watched};
use tokio::time::{Instant, sleep};
use tracing::Level;

const MS: Duration = Duration::from_millis(1);

/// A pool of one connection.
fn narrow(config: Config) -> Config {
    config.with_name("orders").with_max_size(1)
}

/// Callers are told of after 20 ms from now on. The first one waits for a dial.
fn warn(pool: &Pool) {
    pool.reconfigure(|config| config.wait_warning = Some(20 * MS)).unwrap();
}

#[tokio::test]
async fn a_caller_who_waited_for_too_long_is_reported_with_the_place_where_it_asked() {
    let (log, _guard) = Log::start(Level::WARN);
    let upstream = Upstream::start();
    let (pool, events) = watched(narrow(upstream.config()));
    let held = pool.get().await.unwrap();
    warn(&pool);
    let mut late = std::pin::pin!(pool.get());
    let line = line!() - 1;
    assert!(futures_util::poll!(late.as_mut()).is_pending());
    sleep(40 * MS).await;
    drop(held);
    let guard = late.await.unwrap();
    let told: Vec<_> = events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::WaitedTooLong { conn, waited, taken_at, .. } => {
                assert!(waited >= 40 * MS, "{waited:?}");
                Some((conn, taken_at.file(), taken_at.line()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [(guard.id(), file!(), line)]);
    let lines = log.lines("waited for too long");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let place = format!("taken_at={}:{line}", file!());
    for part in ["WARN", r#"pool="orders""#, "waited=", &place, "peer=127.0.0.1:"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    drop(guard);
    exchange(&pool, "ECHO x").await;
    assert_eq!(log.lines("waited").len(), 1, "who has not waited is not told of");
}

#[tokio::test]
async fn where_all_callers_wait_each_is_counted_and_one_line_a_second_is_written() {
    let (log, _guard) = Log::start(Level::WARN);
    let upstream = Upstream::start();
    let (pool, events) = watched(narrow(upstream.config()));
    let held = pool.get().await.unwrap();
    warn(&pool);
    let callers = (0..100).map(|_| async { drop(pool.get().await.unwrap()) });
    let serving = async {
        sleep(50 * MS).await;
        drop(held);
    };
    tokio::join!(futures_util::future::join_all(callers), serving);
    let told = |event: &&Event| matches!(event, Event::WaitedTooLong { .. });
    assert_eq!(events.all().iter().filter(told).count(), 100);
    // The callers took turns within milliseconds; on a machine that is held up they may take seconds.
    let lines = log.lines("waited for too long").len();
    assert!((1..10).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn a_wait_is_reported_after_two_seconds_unless_told_otherwise() {
    assert_eq!(Config::new("db:1").wait_warning, Some(Duration::from_secs(2)));
    let upstream = Upstream::start();
    for (config, expected) in [
        (narrow(upstream.config()).with_wait_warning(None), 0),
        (narrow(upstream.config()).with_wait_warning(Some(20 * MS)), 1),
    ] {
        let (pool, events) = watched(config);
        let held = pool.get().await.unwrap();
        let told = |event: &&Event| matches!(event, Event::WaitedTooLong { .. });
        let reported = || events.all().iter().filter(told).count();
        // For the dial, on a busy machine.
        let before = reported();
        let mut late = std::pin::pin!(pool.get());
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        sleep(30 * MS).await;
        drop(held);
        drop(late.await.unwrap());
        assert_eq!(reported() - before, expected);
    }
}

#[tokio::test]
async fn every_checkout_has_a_span_that_tells_its_connection_whether_it_waits_or_not() {
    let (log, _guard) = Log::start_with_spans(Level::DEBUG);
    let upstream = Upstream::start();
    let (pool, _) = watched(narrow(upstream.config()));
    let id = pool.run(async |conn| std::io::Result::Ok(conn.id())).await.unwrap();
    exchange(&pool, "ECHO x").await;
    let held = pool.try_get().expect("it is idle");
    pool.get_by(Instant::now() + 30 * MS).await.unwrap_err();
    drop(held);
    let closed = log.lines("livepool: close");
    let checkouts: Vec<_> = closed.iter().filter(|line| line.contains("checkout{")).collect();
    let told = |line: &&&String| line.contains(&format!("conn_id={}}}", id.get()));
    assert_eq!((checkouts.len(), checkouts.iter().filter(told).count()), (3, 2), "{closed:#?}");
    let failed = log.lines("checkout failed");
    assert!(
        failed[0].contains(r#"checkout{pool="orders"}: livepool: checkout failed"#),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_dial_that_was_given_up_is_no_warning() {
    let (log, _guard) = Log::start(Level::DEBUG);
    let upstream = Upstream::start();
    let lines = Lines { hello: "HOLD".to_owned(), ..Lines::default() };
    let events = Events::default();
    let builder = Pool::builder(upstream.config()).observer(events.observer());
    let pool = builder.protocol(lines).build().unwrap();
    let mut waiting = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    until(|| upstream.open() == 1).await;
    pool.pause();
    let given_up =
        |event: &Event| matches!(event, Event::DialFailed { outcome: DialOutcome::Cancelled, .. });
    until(|| events.all().iter().any(given_up)).await;
    assert_eq!(log.lines("dial given up").len(), 1);
    assert_eq!(log.lines("WARN"), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_line_that_another_test_met_first_is_seen() {
    // Nobody else has a subscriber.
    if !livepool_testkit::alone::alone("a_line_that_another_test_met_first_is_seen") {
        return;
    }
    let (log, _guard) = Log::start(Level::WARN);
    let say = || tracing::warn!("we met");
    std::thread::spawn(say).join().unwrap();
    say();
    assert_eq!(log.lines("we met").len(), 1);
}
