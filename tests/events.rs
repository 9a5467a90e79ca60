//! What a pool tells about itself: the right events, in the right order, once; and metrics that say
//! the same.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::FutureExt;
use livepool::event::{CheckoutOutcome, DialOutcome};
use livepool::net::PeerAddr;
use livepool::telemetry::{Kind, METRICS, Metric};
use livepool::{CloseReason, Config, ConnId, Event, Guard, Pool, Timeouts};

use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::cut::{Drop as When, cut};
use livepool_testkit::{Events, Order, Upstream, ask, fill, port, until, until_status, watched};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One thing that is done to a pool.
#[derive(Debug, Clone, Copy)]
enum Do {
    /// Take a connection and keep it.
    Get,
    /// Try to take one; it fails.
    GetFails,
    /// Try to take one, and go away at the first wait.
    GetCancelled,
    /// An exchange on the connection taken last.
    Ask,
    /// Give the connection taken last back, in this way.
    Release,
    Drop,
    Discard,
    /// And close it, out of the pool.
    Detach,
    /// Drop it while panicking.
    Panic,
    /// Wait for an answer that does not come, until the read times out, then drop.
    ReadTimesOut,
    /// Send a request, drop the wait for its answer, then release.
    ReleaseTooEarly,
    /// The upstream does this to every connection, and the pool has seen it at so many.
    Upstream(&'static Order, usize),
    /// As before, and nobody waits for it.
    UpstreamInUse(&'static Order),
    /// The pool is closed.
    Close,
    /// The last handle is dropped.
    DropPool,
}

/// Does all of it. Returns what happened, with connections numbered from 1 in the order in which
/// they were opened; an age or a use that is there is told by its name only.
async fn events_of(
    pool: Pool,
    events: Events,
    upstream: Option<&Upstream>,
    todo: &[Do],
) -> Vec<String> {
    let (mut pool, mut held) = (Some(pool), Vec::<Guard>::new());
    for step in todo {
        let current = || pool.as_ref().unwrap();
        match step {
            Do::Get => held.push(current().get().await.unwrap()),
            Do::GetFails => drop(current().get().await.unwrap_err()),
            Do::GetCancelled => {
                assert!(cut(current().get(), 1, When::AtOnce, |_| {}).await.is_none());
            }
            Do::Ask => {
                let last = held.last_mut().unwrap();
                assert_eq!(ask(last, "ECHO x").await.unwrap(), "x");
            }
            Do::Release => drop(held.pop().unwrap().release()),
            Do::Drop => drop(held.pop().unwrap()),
            Do::Discard => held.pop().unwrap().discard(),
            Do::Detach => drop(held.pop().unwrap().detach()),
            Do::Panic => {
                let conn = held.pop().unwrap();
                let task = tokio::spawn(async move {
                    let _conn = conn;
                    panic!("on purpose");
                });
                assert!(task.await.unwrap_err().is_panic());
            }
            Do::ReadTimesOut => {
                let mut conn = held.pop().unwrap();
                conn.set_read_timeout(Some(Duration::from_millis(10)));
                let error = ask(&mut conn, "HOLD").await.unwrap_err();
                assert!(livepool::is_timeout(&error), "{error}");
            }
            Do::ReleaseTooEarly => {
                let mut conn = held.pop().unwrap();
                conn.write_all(b"HOLD\n").await.unwrap();
                assert!(conn.read_u8().now_or_never().is_none());
                conn.release();
            }
            Do::Upstream(order, count) => {
                let closed = events.closed().len();
                upstream.unwrap().order_all(order);
                events.until_closed(closed + count).await;
            }
            Do::UpstreamInUse(order) => {
                let upstream = upstream.unwrap();
                upstream.order_all(order);
                until(|| upstream.open() == 0).await;
            }
            Do::Close => current().close(),
            Do::DropPool => drop(pool.take()),
        }
    }
    let mut numbers = HashMap::new();
    let all = events.all();
    let text = all.iter().map(|event| text_of(event, &mut numbers)).collect();
    drop((held, pool));
    text
}

fn text_of(event: &Event, numbers: &mut HashMap<ConnId, usize>) -> String {
    if let Event::Opened { conn, .. } = event {
        let next = numbers.len() + 1;
        numbers.insert(*conn, next);
    }
    let number = |conn: &ConnId| numbers[conn];
    match event {
        Event::Opened { conn, .. } => format!("opened {}", number(conn)),
        Event::DialFailed { outcome, .. } => format!("dial failed {outcome}"),
        Event::CheckedOut { conn, .. } => format!("checked out {}", number(conn)),
        Event::CheckoutFailed { outcome, .. } => format!("checkout failed {outcome}"),
        Event::Returned { conn, .. } => format!("returned {}", number(conn)),
        Event::Checked { conn, check, verdict, .. } => {
            format!("{check} {} {verdict}", number(conn))
        }
        Event::Closed { conn, reason, used, .. } => {
            let used = if used.is_some() { " used" } else { "" };
            format!("closed {} {reason}{used}", number(conn))
        }
        Event::TimedOut { operation, conn, .. } => match conn {
            Some(conn) => format!("timed out {operation} {}", number(conn)),
            None => format!("timed out {operation}"),
        },
        other => format!("{other:?}"),
    }
}

/// What is done to a pool of one connection, and every event that follows.
type Row = (&'static str, &'static [Do], &'static [&'static str]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("create and give back", &[Do::Get, Do::Ask, Do::Release],
        &["opened 1", "checked out 1", "returned 1"]),
    ("reuse", &[Do::Get, Do::Ask, Do::Release, Do::Get, Do::Ask, Do::Release],
        &["opened 1", "checked out 1", "returned 1", "peek 1 alive", "checked out 1", "returned 1"]),
    ("drop without a byte", &[Do::Get, Do::Drop],
        &["opened 1", "checked out 1", "returned 1"]),
    ("drop after a byte", &[Do::Get, Do::Ask, Do::Drop],
        &["opened 1", "checked out 1", "closed 1 unfinished used"]),
    ("discard, and the next is a new one", &[Do::Get, Do::Discard, Do::Get, Do::Release],
        &["opened 1", "checked out 1", "closed 1 discarded used", "opened 2", "checked out 2", "returned 2"]),
    ("detach ends it for the pool, once", &[Do::Get, Do::Detach],
        &["opened 1", "checked out 1", "closed 1 detached used"]),
    ("panic", &[Do::Get, Do::Ask, Do::Panic],
        &["opened 1", "checked out 1", "closed 1 panicked used"]),
    ("panic without a byte", &[Do::Get, Do::Panic],
        &["opened 1", "checked out 1", "closed 1 panicked used"]),
    ("read timeout", &[Do::Get, Do::ReadTimesOut],
        &["opened 1", "checked out 1", "timed out read 1", "closed 1 op_timeout used"]),
    ("release before the answer", &[Do::Get, Do::ReleaseTooEarly],
        &["opened 1", "checked out 1", "closed 1 cancelled used"]),
    ("wait timeout", &[Do::Get, Do::GetFails, Do::Drop],
        &["opened 1", "checked out 1", "timed out checkout", "checkout failed timeout", "returned 1"]),
    ("cancelled in the queue", &[Do::Get, Do::GetCancelled, Do::Drop],
        &["opened 1", "checked out 1", "checkout failed cancelled", "returned 1"]),
    ("cancelled in a dial", &[Do::GetCancelled],
        &["checkout failed cancelled"]),
    ("idle, closed by the peer", &[Do::Get, Do::Ask, Do::Release, Do::Upstream(&Order::Close, 1)],
        &["opened 1", "checked out 1", "returned 1", "peek 1 dead", "closed 1 peer_closed"]),
    ("idle, reset by the peer", &[Do::Get, Do::Ask, Do::Release, Do::Upstream(&Order::Reset, 1)],
        &["opened 1", "checked out 1", "returned 1", "peek 1 dead", "closed 1 reset"]),
    ("in use, closed by the peer", &[Do::Get, Do::Ask, Do::UpstreamInUse(&Order::Close), Do::Drop],
        &["opened 1", "checked out 1", "closed 1 unfinished used"]),
    ("pool closed while idle", &[Do::Get, Do::Drop, Do::Close],
        &["opened 1", "checked out 1", "returned 1", "closed 1 pool_closed"]),
    ("return after close", &[Do::Get, Do::Ask, Do::Close, Do::Release],
        &["opened 1", "checked out 1", "closed 1 pool_closed used"]),
    ("return after the last handle", &[Do::Get, Do::DropPool, Do::Release],
        &["opened 1", "checked out 1", "closed 1 pool_closed used"]),
    ("last handle dropped while idle", &[Do::Get, Do::Drop, Do::DropPool],
        &["opened 1", "checked out 1", "returned 1", "closed 1 pool_closed"]),
    ("checkout after close", &[Do::Close, Do::GetFails],
        &["checkout failed closed"]),
    ("closed twice", &[Do::Get, Do::Drop, Do::Close, Do::Close, Do::DropPool],
        &["opened 1", "checked out 1", "returned 1", "closed 1 pool_closed"]),
    ("a reason found first stays when the pool is closed", &[Do::Get, Do::Ask, Do::Close, Do::Drop],
        &["opened 1", "checked out 1", "closed 1 unfinished used"]),
];

#[tokio::test]
async fn every_situation_has_its_events_in_their_order() {
    for (situation, todo, expected) in TABLE {
        let upstream = Upstream::start();
        // Long for a dial on loopback, short for a caller who waits in vain.
        let patience =
            if todo.iter().any(|step| matches!(step, Do::GetFails)) { 1000 } else { 10_000 };
        let timeouts = Timeouts::default().with_checkout(Duration::from_millis(patience));
        let (pool, events) = watched(upstream.config().with_max_size(1).with_timeouts(timeouts));
        assert_eq!(events_of(pool, events, Some(&upstream), todo).await, *expected, "{situation}");
    }
}

#[tokio::test]
async fn a_queue_that_is_full_says_so_and_not_that_time_ran_out() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1).with_max_waiting(0));
    let seen = events_of(pool, events, None, &[Do::Get, Do::GetFails, Do::Drop]).await;
    assert_eq!(seen, ["opened 1", "checked out 1", "checkout failed queue_full", "returned 1"]);
}

/// What is told of a caller who waits in vain for dials that fail: of each dial the same, of the
/// caller at the end.
async fn told_of_dials(config: Config) -> (Vec<String>, Vec<String>) {
    let limit = config.timeouts.with_checkout(Duration::from_secs(1));
    let config = config.with_first_connect(livepool::config::FirstConnect::Wait);
    let (pool, events) = watched(config.with_timeouts(limit));
    let mut seen = events_of(pool, events, None, &[Do::GetFails]).await;
    let at = seen.iter().position(|line| line == "timed out checkout").unwrap();
    let end = seen.drain(at..at + 2).collect();
    (seen, end)
}

#[tokio::test]
async fn a_dial_that_fails_is_told_and_the_caller_waits_on() {
    let nobody = port::nobody();
    let (dials, end) = told_of_dials(Config::new(nobody.to_string())).await;
    assert!(
        dials.len() >= 2 && dials.iter().all(|dial| dial == "dial failed refused"),
        "{dials:?}"
    );
    assert_eq!(end, ["timed out checkout", "checkout failed timeout"]);
}

#[tokio::test]
async fn a_dial_that_times_out_counts_as_a_connect_timeout() {
    let blackhole = Blackhole::start();
    let short = Timeouts::default().with_connect(Duration::from_millis(40));
    let config = Config::new(blackhole.addr().to_string()).with_timeouts(short);
    let (dials, end) = told_of_dials(config).await;
    assert_eq!(dials[..2], ["timed out connect", "dial failed timeout"]);
    assert_eq!(end, ["timed out checkout", "checkout failed timeout"]);
}

#[tokio::test]
async fn closing_ends_the_idle_ones_at_once_and_those_in_use_when_they_come_back() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let in_use = [a.id(), b.id()];
    fill_beside(&pool, 3).await;
    pool.close();
    assert_eq!(events.closed(), [CloseReason::PoolClosed; 3]);
    drop(b);
    drop(a);
    let closed = closed_ids(&events);
    assert_eq!(closed.len(), 5);
    assert_eq!(closed[3..], [in_use[1], in_use[0]], "in the order of their return");
}

/// This many idle connections, in a pool of which others are in use.
async fn fill_beside(pool: &Pool, count: usize) {
    let guards = (0..count).map(|_| pool.get());
    drop(futures_util::future::try_join_all(guards).await.unwrap());
    assert_eq!(pool.status().idle, count);
}

fn closed_ids(events: &Events) -> Vec<ConnId> {
    let id = |event: &Event| match event {
        Event::Closed { conn, .. } => Some(*conn),
        _ => None,
    };
    events.all().iter().filter_map(id).collect()
}

#[tokio::test]
async fn numbers_rise_in_the_order_of_opening_and_are_never_used_again() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    for _ in 0..20 {
        pool.get().await.unwrap().discard();
    }
    let opened: Vec<_> = events
        .all()
        .iter()
        .filter_map(|event| match event {
            Event::Opened { conn, .. } => Some(conn.get()),
            _ => None,
        })
        .collect();
    assert_eq!(opened.len(), 20);
    assert!(opened.is_sorted_by(|a, b| a < b), "{opened:?}");
}

#[tokio::test]
async fn durations_are_those_of_the_thing_itself() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let start = std::time::Instant::now();
    let mut conn = pool.get().await.unwrap();
    let begun = std::time::Instant::now();
    let waiting = pool.clone();
    let waiter = tokio::spawn(async move { waiting.get().await.unwrap().discard() });
    until_status(&pool, |now| now.waiting == 1).await;
    assert_eq!(ask(&mut conn, "SLOW 30 x").await.unwrap(), "x");
    let in_use = begun.elapsed();
    let released = std::time::Instant::now();
    conn.release();
    waiter.await.unwrap();
    let (second, whole) = (released.elapsed(), start.elapsed());

    let (mut waits, mut uses, mut ages) = (vec![], vec![], vec![]);
    for event in events.all() {
        match event {
            Event::CheckedOut { waited, .. } => waits.push(waited),
            Event::Returned { used, .. } => uses.push(used),
            Event::Closed { used, age, .. } => {
                uses.push(used.unwrap());
                ages.push(age);
            }
            Event::Opened { took, .. } => assert!(took <= whole),
            _ => {}
        }
    }
    let answer = Duration::from_millis(30);
    // A dial is waited for; so is the first user's answer.
    assert!(waits[0] > Duration::ZERO && waits[1] >= answer && waits[1] <= whole, "{waits:?}");
    assert!(uses[0] >= in_use && uses[0] <= whole && uses[1] <= second, "{uses:?}");
    assert!(ages[0] >= uses[0] + uses[1] && ages[0] <= whole, "{ages:?}");
}

/// What must be true at the end of a connection whose last user did this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    With(CloseReason),
    /// Not by its user.
    Otherwise,
}

/// One use of the pool, chosen at random. Returns how that connection has to end, if this ends it.
async fn random_use(
    pool: &Pool,
    upstream: &Upstream,
    rng: &mut fastrand::Rng,
) -> Option<(ConnId, Ends)> {
    // A caller who has to dial or to queue may go away.
    let polls = if rng.u8(..) < 25 { 1 } else { usize::MAX };
    let got = cut(pool.get(), polls, When::AtOnce, |_| {}).await?;
    let mut conn = got.unwrap();
    let id = conn.id();
    let with = |reason| Some((id, Ends::With(reason)));
    match rng.u8(0..11) {
        0 | 1 => {
            assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
            conn.release();
            Some((id, Ends::Otherwise))
        }
        2 => {
            drop(conn);
            Some((id, Ends::Otherwise))
        }
        3 => {
            assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
            drop(conn);
            with(CloseReason::Unfinished)
        }
        4 => {
            conn.discard();
            with(CloseReason::Discarded)
        }
        5 => {
            drop(conn.detach());
            with(CloseReason::Detached)
        }
        6 => {
            conn.set_read_timeout(Some(Duration::from_millis(1)));
            assert!(livepool::is_timeout(&ask(&mut conn, "HOLD").await.unwrap_err()));
            drop(conn);
            with(CloseReason::OpTimeout)
        }
        7 => {
            let task = tokio::spawn(async move {
                let _conn = conn;
                panic!("on purpose");
            });
            assert!(task.await.unwrap_err().is_panic());
            with(CloseReason::Panicked)
        }
        8 => {
            conn.write_all(b"HOLD\n").await.unwrap();
            assert!(conn.read_u8().now_or_never().is_none());
            conn.release();
            with(CloseReason::Cancelled)
        }
        killed => {
            assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
            let (order, reason) = match killed {
                9 => (Order::Close, CloseReason::PeerClosed),
                _ => (Order::Reset, CloseReason::Reset),
            };
            let PeerAddr::Tcp(local) = *conn.local_addr() else { unreachable!() };
            assert_eq!(conn.release(), livepool::Release::Reused);
            upstream.order(local, order);
            with(reason)
        }
    }
}

/// Many random uses, one after the other with some in between that are held, then the end: the pool
/// closed, or its last handle dropped. Returns all events.
async fn random_life(seed: u64) -> Vec<Event> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(3).with_name("random"));
    let mut ends = HashMap::new();
    let mut held = Vec::new();
    for _ in 0..150 {
        let used = random_use(&pool, &upstream, &mut rng).await;
        if let Some((id, Ends::With(reason))) = used {
            ends.insert(id, reason);
            // One that the upstream was told to end is not to be used again.
            let closed = || closed_ids(&events).contains(&id);
            until(closed).await;
        }
        if rng.u8(..) < 30 && held.len() < 2 {
            held.push(pool.get().await.unwrap());
        } else if rng.u8(..) < 60 {
            held.pop();
        }
    }
    match rng.bool() {
        true => pool.close(),
        false => drop(pool),
    }
    drop(held);
    let all = events.all();
    for event in &all {
        if let Event::Closed { conn, reason, .. } = event {
            let expected = ends.get(conn).copied().unwrap_or(CloseReason::PoolClosed);
            assert_eq!(*reason, expected, "{conn}");
        }
    }
    until(|| upstream.open() == 0).await;
    all
}

#[tokio::test]
async fn every_connection_that_was_opened_ends_once_and_with_the_right_reason() {
    let seed = livepool_testkit::seed::seed();
    for life in 0..6 {
        let mut ends = BTreeMap::new();
        for event in random_life(seed.wrapping_add(life)).await {
            match event {
                Event::Opened { conn, .. } => assert_eq!(ends.insert(conn, 0), None),
                Event::Closed { conn, .. } => *ends.get_mut(&conn).expect("opened before") += 1,
                Event::CheckedOut { conn, .. } | Event::Returned { conn, .. } => {
                    assert_eq!(ends.get(&conn), Some(&0), "open at that time");
                }
                _ => {}
            }
        }
        assert!(ends.len() > 30, "{}", ends.len());
        assert!(ends.values().all(|closes| *closes == 1), "{ends:?}");
    }
}

/// Counters and numbers of recorded values, by name and second label, without those that are zero;
/// gauges apart.
fn recorded(snapshotter: &Snapshotter) -> (BTreeMap<String, u64>, BTreeMap<String, f64>) {
    let (mut counts, mut gauges) = (BTreeMap::new(), BTreeMap::new());
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let mut name = key.key().name().to_owned();
        for label in key.key().labels() {
            match label.key() {
                "pool" => assert_eq!(label.value(), "random"),
                _ => name = format!("{name} {}", label.value()),
            }
        }
        let count = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(values) => {
                assert!(values.iter().all(|value| value.0 >= 0.0 && value.0 < 60.0), "{name}");
                values.len() as u64
            }
            DebugValue::Gauge(value) => {
                gauges.insert(name, value.0);
                continue;
            }
        };
        if count > 0 {
            counts.insert(name, count);
        }
    }
    (counts, gauges)
}

/// What the metrics should say after these events.
fn counted(events: &[Event]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut add = |name: String| *counts.entry(format!("livepool_{name}")).or_insert(0) += 1;
    for event in events {
        match event {
            Event::Opened { .. } => {
                add(format!("dials_total {}", DialOutcome::Ok));
                add("dial_seconds".into());
            }
            Event::DialFailed { outcome, .. } => {
                add(format!("dials_total {outcome}"));
                add("dial_seconds".into());
            }
            Event::CheckedOut { .. } => {
                add(format!("checkouts_total {}", CheckoutOutcome::Ok));
                add("checkout_wait_seconds".into());
            }
            Event::CheckoutFailed { outcome, .. } => {
                add(format!("checkouts_total {outcome}"));
                add("checkout_wait_seconds".into());
            }
            Event::Returned { .. } => add("use_seconds".into()),
            Event::Checked { check, verdict, .. } => add(format!("checks_total {check} {verdict}")),
            Event::Closed { reason, used, .. } => {
                add(format!("closed_total {reason}"));
                if reason.is_eviction() {
                    add(format!("evictions_total {reason}"));
                }
                if used.is_some() {
                    add("use_seconds".into());
                }
                add("connection_age_seconds".into());
            }
            Event::TimedOut { operation, .. } => add(format!("timeouts_total {operation}")),
            other => panic!("{other:?}"),
        }
    }
    counts
}

#[test]
fn metrics_count_what_the_events_tell_and_gauges_end_at_zero() {
    let seed = livepool_testkit::seed::seed();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // The runtime has one thread, this one, so that everything happens under this recorder.
    let events = metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = runtime.block_on(random_life(seed));
        drop(runtime);
        events
    });
    let (counts, gauges) = recorded(&snapshotter);
    assert_eq!(counts, counted(&events));
    for reason in [CloseReason::PeerClosed, CloseReason::OpTimeout, CloseReason::Unfinished] {
        assert!(counts.contains_key(&format!("livepool_closed_total {reason}")), "{counts:?}");
    }
    let expected = METRICS.iter().filter(|metric| metric.kind == Kind::Gauge);
    let is_there = |metric: &&Metric| {
        metric.labels[0].name == "pool" && metric.labels.iter().all(|label| label.name != "peer")
    };
    for metric in expected.filter(is_there) {
        assert!(gauges.keys().any(|series| series.starts_with(metric.name)), "{}", metric.name);
    }
    assert!(gauges.values().all(|value| *value == 0.0), "{gauges:?}");
}

#[tokio::test]
async fn a_timeout_counts_once_however_it_is_looked_at() {
    let upstream = Upstream::start();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let config = upstream.config().with_max_size(1).with_name("random");
    let (pool, events) = watched(config);
    let guard = metrics::set_default_local_recorder(&recorder);
    fill(&pool, 1).await;
    let held = pool.get().await.unwrap();
    pool.get_by(tokio::time::Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    drop(held);
    drop(guard);
    let (counts, _) = recorded(&snapshotter);
    assert_eq!(counts["livepool_timeouts_total checkout"], 1);
    assert_eq!(counts["livepool_checkouts_total timeout"], 1);
    assert_eq!(events.timed_out().len(), 1);
}
