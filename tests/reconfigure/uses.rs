//! What is done with a connection goes by the settings of its moment: operations, pings, resets, hooks,
//! reports; and what a connection is made with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use livepool::CloseReason::{HookFailed, ResetFailed};
use livepool::config::{Limits, Order, Validation};
use livepool::event::{Check, CheckVerdict, Operation};
use livepool::protocol::Verdict;
use livepool::{Config, Event, Guard, OpTimeout, Pool};
use livepool_testkit::lines::Lines;
use livepool_testkit::{Events, Upstream, fill, until, until_status, watched};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::{MS, SECOND, checks, unwatched};

fn built(config: Config, lines: Lines) -> (Pool<Lines>, Events) {
    let events = Events::default();
    let pool = Pool::builder(config).observer(events.observer()).protocol(lines).build().unwrap();
    (pool, events)
}

/// The setting that a read of this ended by, and its time.
async fn limit_of_read(conn: &mut Guard) -> (String, Duration) {
    let error = conn.read_u8().await.unwrap_err();
    let timeout = OpTimeout::of(&error).unwrap();
    (error.to_string(), timeout.after)
}

#[tokio::test]
async fn operations_that_begin_later_have_the_new_timeouts_on_connections_in_use() {
    let upstream = Upstream::start();
    let (pool, _) = watched(unwatched(&upstream));
    fill(&pool, 1).await;
    let mut conns = join_all((0..3).map(|_| pool.get())).await;
    let [plain, own_write, own_read] = &mut conns[..] else { unreachable!() };
    let (plain, own_write) = (plain.as_mut().unwrap(), own_write.as_mut().unwrap());
    let own_read = own_read.as_mut().unwrap();
    own_write.set_write_timeout(Some(9 * SECOND));
    own_read.set_read_timeout(Some(5 * SECOND));
    tokio::time::pause();
    pool.reconfigure(|config| config.timeouts.read = (2 * SECOND).into()).unwrap();
    let (text, after) = limit_of_read(plain).await;
    assert!(text.contains("timeouts.read") && after == 2 * SECOND, "{text}");
    // What a user has set of one is no word about the other.
    assert_eq!(limit_of_read(own_write).await.1, 2 * SECOND);
    assert_eq!(own_write.timeouts().write, Some(9 * SECOND));
    let (text, after) = limit_of_read(own_read).await;
    assert!(text.contains("set_read_timeout") && after == 5 * SECOND, "{text}");
}

#[tokio::test]
async fn a_read_that_waits_keeps_the_limit_that_it_began_with() {
    let upstream = Upstream::start();
    let (pool, _) = watched(unwatched(&upstream));
    let mut conn = pool.get().await.unwrap();
    tokio::time::pause();
    let began = Instant::now();
    let mut read = Box::pin(conn.read_u8());
    assert!(read.as_mut().now_or_never().is_none());
    pool.reconfigure(|config| config.timeouts.read = SECOND.into()).unwrap();
    read.await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn writes_flushes_and_shutdowns_follow_and_uses_from_the_next_checkout_on() {
    let upstream = Upstream::start();
    let (pool, _) = watched(unwatched(&upstream).with_max_size(1));
    let mut conn = pool.get().await.unwrap();
    tokio::time::pause();
    pool.reconfigure(|config| {
        let timeouts = &mut config.timeouts;
        (timeouts.write, timeouts.flush) = (Some(3 * SECOND), Some(4 * SECOND));
        (timeouts.shutdown, timeouts.operation) = (Some(5 * SECOND), Some(6 * SECOND));
    })
    .unwrap();
    let now = conn.timeouts();
    assert_eq!(
        (now.write, now.flush, now.shutdown),
        (Some(3 * SECOND), Some(4 * SECOND), Some(5 * SECOND))
    );
    // This use began without a limit.
    assert_eq!(limit_of_read(&mut conn).await.1, 30 * SECOND);
    drop(conn);
    tokio::time::resume();
    let mut conn = pool.get().await.unwrap();
    tokio::time::pause();
    let (text, _) = limit_of_read(&mut conn).await;
    assert!(text.contains("timeouts.operation"), "{text}");
}

#[tokio::test]
async fn idle_connections_are_pinged_and_chosen_as_is_said_now() {
    let upstream = Upstream::start();
    let (pool, events) = built(upstream.config(), Lines::default());
    let two = join_all([pool.get(), pool.get()]).await;
    drop(two);
    until_status(&pool, |now| now.idle == 2).await;
    let last = pool.get().await.unwrap();
    let id = last.id();
    drop(last);
    assert_eq!(pool.get().await.unwrap().id(), id, "the last one first");
    until_status(&pool, |now| now.idle == 2).await;
    assert_eq!(checks(&events, Check::Ping, CheckVerdict::Alive), 0);
    pool.reconfigure(|config| {
        (config.order, config.validation) = (Order::Fifo, Validation::Ping);
    })
    .unwrap();
    assert_ne!(pool.get().await.unwrap().id(), id, "the first one first");
    assert_eq!(checks(&events, Check::Ping, CheckVerdict::Alive), 1);
}

#[tokio::test]
async fn pings_resets_and_hooks_have_the_new_time() {
    let slow = || "SLOW 1000 x".to_owned();
    let upstream = Upstream::start();
    let lines =
        Lines { reuse: Verdict::NeedsReset, reset: slow(), ping: slow(), ..Lines::default() };
    let config = upstream.config().with_max_size(1);
    let (pool, events) = built(config, lines);
    drop(pool.get().await.unwrap());
    until_status(&pool, |now| now.idle == 1).await;
    pool.reconfigure(|config| config.timeouts.reset = Some(20 * MS)).unwrap();
    drop(pool.get().await.unwrap());
    assert_eq!(events.until_closed(1).await, [ResetFailed]);
    pool.reconfigure(|config| {
        (config.timeouts.reset, config.timeouts.ping) = (Some(10 * SECOND), Some(20 * MS));
        config.validation = Validation::PingIfIdle(Duration::ZERO);
    })
    .unwrap();
    drop(pool.get().await.unwrap());
    until_status(&pool, |now| now.idle == 1).await;
    drop(pool.get().await.unwrap());
    assert_eq!(events.timed_out(), [Operation::Reset, Operation::Ping]);

    let events = Events::default();
    let config = upstream.config();
    let timeouts = config.timeouts.with_hook(20 * SECOND);
    let builder = Pool::builder(config.with_timeouts(timeouts)).observer(events.observer());
    let builder = builder.after_return(|_, _| {
        Box::pin(async {
            tokio::time::sleep(SECOND).await;
            Ok(())
        })
    });
    let pool = builder.build().unwrap();
    drop(pool.get().await.unwrap());
    until_status(&pool, |now| now.idle == 1).await;
    pool.reconfigure(|config| config.timeouts.hook = Some(20 * MS)).unwrap();
    drop(pool.get().await.unwrap());
    assert_eq!(events.until_closed(1).await, [HookFailed]);
}

#[tokio::test]
async fn who_holds_or_waits_for_too_long_is_reported_as_is_said_now() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let before = pool.get().await.unwrap();
    pool.reconfigure(|config| {
        (config.hold_warning, config.wait_warning) = (Some(20 * MS), Some(MS));
    })
    .unwrap();
    let waits = async {
        let conn = pool.get().await.unwrap();
        // Held since before anybody noted it: the next one is reported.
        let held = |event: &Event| matches!(event, Event::HeldTooLong { .. });
        until(|| events.all().iter().any(held)).await;
        drop(conn);
    };
    tokio::join!(waits, async {
        tokio::time::sleep(10 * MS).await;
        drop(before);
    });
    let waited = |event: &&Event| matches!(event, Event::WaitedTooLong { .. });
    assert_eq!(events.all().iter().filter(waited).count(), 1);
}

/// A subscriber, or a span has no name.
fn named_spans() -> tracing::subscriber::DefaultGuard {
    livepool_testkit::log::subscribe(tracing_subscriber::fmt().with_writer(std::io::sink).finish())
}

#[tokio::test]
async fn nobody_is_blamed_for_a_connection_that_he_gave_back_while_holders_were_not_noted() {
    let _spans = named_spans();
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(2).with_hold_warning(SECOND));
    let span = tracing::info_span!("the first one");
    let noted = tracing::Instrument::instrument(pool.get(), span).await.unwrap();
    let id = noted.id();
    pool.reconfigure(|config| config.hold_warning = None).unwrap();
    drop(noted);
    let unnoted = pool.get().await.unwrap();
    assert_eq!(unnoted.id(), id, "the same one again");
    pool.reconfigure(|config| config.hold_warning = Some(20 * MS)).unwrap();
    let later = pool.get().await.unwrap();
    let blamed = || {
        let conn = |event: &Event| match event {
            Event::HeldTooLong { conn, .. } => Some(*conn),
            _ => None,
        };
        events.all().iter().filter_map(conn).collect::<Vec<_>>()
    };
    until(|| !blamed().is_empty()).await;
    assert_eq!(blamed(), [later.id()]);
    let report = pool.report();
    let holder = report.holders.iter().find(|holder| holder.conn == id).unwrap();
    assert_eq!(holder.span, None);
}

/// Counts the callers' spans that nobody keeps any more.
#[derive(Clone, Default)]
struct ClosedSpans(Arc<AtomicUsize>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ClosedSpans {
    fn on_close(&self, id: tracing::span::Id, spans: Context<'_, S>) {
        let is_callers = spans.span(&id).is_some_and(|span| span.name() == "a caller");
        self.0.fetch_add(usize::from(is_callers), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn no_span_of_a_caller_is_kept_once_holders_are_not_noted() {
    let closed = ClosedSpans::default();
    let subscriber = tracing_subscriber::registry().with(closed.clone());
    let _spans = livepool_testkit::log::subscribe(subscriber);
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config().with_hold_warning(SECOND));
    let held = tracing::Instrument::instrument(pool.get(), tracing::info_span!("a caller")).await;
    assert_eq!(closed.0.load(Ordering::Relaxed), 0, "the note has it");
    pool.reconfigure(|config| config.hold_warning = None).unwrap();
    drop(held);
    assert_eq!((closed.0.load(Ordering::Relaxed), pool.status().idle), (1, 1));
}

#[tokio::test]
async fn of_a_share_from_before_it_is_reported_that_there_is_one() {
    let upstream = Upstream::start();
    let (pool, _) = built(upstream.config().with_max_size(1), Lines::default());
    let before = pool.share().await.unwrap();
    pool.reconfigure(|config| config.hold_warning = Some(SECOND)).unwrap();
    let after = pool.share().await.unwrap();
    let places = || {
        let mut places: Vec<_> =
            pool.report().holders.iter().map(|holder| holder.taken_at.is_some()).collect();
        places.sort();
        places
    };
    assert_eq!(places(), [false, true]);
    drop(before);
    assert_eq!(places(), [true]);
    pool.reconfigure(|config| config.hold_warning = None).unwrap();
    let others = join_all([pool.share(), pool.share()]).await;
    assert_eq!(places(), [false, true], "of those who are not noted, that there are any");
    drop(after);
    assert_eq!(places(), [false]);
    drop(others);
}

#[tokio::test]
async fn what_is_set_on_a_socket_or_bounds_a_client_is_that_of_new_connections() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    let old = pool.get().await.unwrap();
    pool.reconfigure(|config| {
        config.socket.nodelay = false;
        config.socket.send_buffer = Some(16_384);
    })
    .unwrap();
    let new = pool.get().await.unwrap();
    let nodelay = |conn: &Guard| conn.socket_report().unwrap().nodelay;
    assert_eq!((nodelay(&old), nodelay(&new)), (Some(true), Some(false)));

    let lines = Lines { hello: format!("ECHO {}", "x".repeat(2000)), ..Lines::default() };
    let (pool, _) = built(upstream.config(), lines);
    let old = pool.get().await.unwrap();
    pool.reconfigure(|config| config.limits = Limits::default().with_handshake(1024)).unwrap();
    let new = tokio::time::timeout(200 * MS, pool.get()).await;
    assert!(new.is_err() || new.unwrap().is_err(), "its hello is too long");
    drop(old);
    drop(pool.get().await.unwrap());
}

#[tokio::test]
async fn fewer_callers_share_a_connection_from_now_on() {
    let upstream = Upstream::start();
    let (pool, _) = built(upstream.config().with_max_size(1), Lines::default());
    let shares = join_all([pool.share(), pool.share()]).await;
    pool.reconfigure(|config| config.max_shares = 2).unwrap();
    let mut third = Box::pin(pool.share());
    assert!(third.as_mut().now_or_never().is_none(), "{}", pool.status());
    pool.reconfigure(|config| config.max_shares = 3).unwrap();
    third.await.unwrap();
    drop(shares);
}
