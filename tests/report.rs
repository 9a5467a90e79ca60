//! What a pool says of itself when it is asked: who holds what, who waits, and why no connection is made.

use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::event::DialOutcome;
use livepool::protocol::Verdict;
use livepool::report::{COLUMNS, DialerWait, Holds, MOST, Report};
use livepool::{CloseReason, Config, FirstConnect, PeerState, Pool, Timeouts};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::lines::Lines;
use livepool_testkit::{Order, Upstream, ask, exchange, fill, port, until, until_seen};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The text, which fits a terminal.
fn text(report: &Report) -> String {
    let text = report.to_string();
    for line in text.lines() {
        assert!(line.chars().count() <= COLUMNS, "{} columns: {line}", line.chars().count());
    }
    text
}

/// The text without the breaks of lines that were too wide.
fn unwrapped(report: &Report) -> String {
    text(report).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn who_holds_what_since_when_and_who_waits_is_said_with_the_places() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_name("orders").with_max_size(2)).unwrap();
    let first = pool.get().await.unwrap();
    let first_line = line!() - 1;
    tokio::time::sleep(30 * MS).await;
    let second = pool.get().await.unwrap();
    let mut waiting = std::pin::pin!(pool.get());
    let waiting_line = line!() - 1;
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    tokio::time::sleep(20 * MS).await;

    let report = pool.report();
    let held: Vec<_> = report.holders.iter().map(|holder| (holder.conn, holder.holds)).collect();
    assert_eq!(held, [(first.id(), Holds::Connection), (second.id(), Holds::Connection)]);
    let place = report.holders[0].taken_at.unwrap();
    assert_eq!((place.file(), place.line()), (file!(), first_line), "without hold_warning");
    assert!(report.holders[0].held >= Some(50 * MS), "{report:?}");
    assert_eq!(report.holders[0].peer.to_string(), upstream.addr().to_string());
    let [waiter] = &report.waiting[..] else { panic!("{report:?}") };
    assert_eq!((waiter.asked_at.file(), waiter.asked_at.line()), (file!(), waiting_line));
    assert!(waiter.waited >= 20 * MS && waiter.left < Some(10 * SECOND), "{waiter:?}");
    assert_eq!(report.dialer.waits_for, DialerWait::Slot);
    assert_eq!((report.status.in_use, report.status.waiting), (2, 1));
    let text = unwrapped(&report);
    for part in [
        "pool orders: 2 of 2 in use, 0 idle, 0 connecting, 1 waiting held, the longest first:",
        &format!("{} to {}, 0.1s, taken at {}:{first_line}", first.id(), upstream.addr(), file!()),
        &format!("asked at {}:{waiting_line}", file!()),
        "dialer: no dial under way; waits for a connection to come back or end (max_size)",
    ] {
        let part =
            part.replace("0.1s", &format!("{:.1}s", report.holders[0].held.unwrap().as_secs_f64()));
        assert!(text.contains(&part), "{part}\n{text}");
    }
    let id = first.id();
    drop(first);
    let report = pool.report();
    let passed_on = report.holders.iter().find(|holder| holder.conn == id).unwrap();
    assert!(passed_on.taken_at.is_none(), "its next caller has not looked yet: {report}");
    assert!(unwrapped(&report).contains("on its way to or from a caller"), "{report}");
    drop(waiting.await.unwrap());
    drop(second);
    let report = pool.report();
    assert!(report.holders.is_empty() && report.waiting.is_empty(), "{report}");
    assert_eq!(report.dialer.waits_for, DialerWait::Demand);
}

#[tokio::test]
async fn the_span_of_a_holder_is_there_where_hold_warning_notes_it() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _default = livepool_testkit::log::subscribe(subscriber);
    let upstream = Upstream::start();
    for (warning, expected) in [(None, None), (Some(SECOND), Some("checkout_of_a_cart"))] {
        let pool = Pool::new(upstream.config().with_hold_warning(warning)).unwrap();
        let span = tracing::info_span!("checkout_of_a_cart");
        let _held = tracing::Instrument::instrument(pool.get(), span).await.unwrap();
        let report = pool.report();
        assert_eq!(report.holders[0].span, expected);
        assert_eq!(unwrapped(&report).contains("in span checkout_of_a_cart"), expected.is_some());
    }
}

#[tokio::test]
async fn why_no_connection_is_made_until_when_and_what_failed_is_said() {
    let (upstream, nobody) = (Upstream::start(), port::nobody().to_string());
    // One at a time is tried, and the pause after a failure is long.
    let backoff = livepool::Backoff::default().with_first(60 * SECOND).with_most(60 * SECOND);
    let backoff = backoff.with_while_waiting(60 * SECOND);
    let config = Config::new(&nobody)
        .with_first_connect(FirstConnect::Wait)
        .with_backoff(backoff)
        .with_timeouts(Timeouts::default().with_checkout(3600 * SECOND));
    let pool = Pool::new(config).unwrap();
    assert_eq!(pool.report().dialer.waits_for, DialerWait::Runtime, "nobody has asked yet");
    let mut waiting = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let report =
        until_seen(|| pool.report(), |report| report.dialer.waits_for == DialerWait::Pause).await;
    assert!(report.dialer.left <= Some(60 * SECOND) && report.dialer.left > None, "{report}");
    let [peer] = &report.peers[..] else { panic!("{report}") };
    assert_eq!((peer.addr.to_string(), peer.state), (nobody.clone(), PeerState::Healthy));
    assert_eq!(peer.attempt.map(|past| past.what), Some(DialOutcome::Refused));
    assert!(peer.pause.is_some() && peer.heard.is_none(), "{report}");
    let [error] = &report.errors[..] else { panic!("{report}") };
    assert_eq!(error.what, "dial refused");
    assert!(error.text.as_ref().unwrap().contains(&nobody), "{report}");
    let text = unwrapped(&report);
    for part in [
        "no dial under way; waits for the end of the pause after failed dials, ",
        &format!("{nobody} healthy, 0 open, last attempt refused "),
        "s ago, left alone for ",
        "errors of late, the last first: dial refused, ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    pool.pause();
    assert_eq!(pool.report().dialer.waits_for, DialerWait::Resume);
    pool.close();
    assert_eq!(pool.report().dialer.waits_for, DialerWait::Closed);
    let failure = waiting.await.unwrap_err().failure();
    assert_eq!(failure, CheckoutFailure::Closed);
    drop(upstream);
}

#[tokio::test]
async fn a_dial_that_hangs_is_there_with_its_age() {
    let hole = Blackhole::start();
    let config = Config::new(hole.addr().to_string()).with_max_connecting(1);
    let pool = Pool::new(config).unwrap();
    let mut waiting = std::pin::pin!(pool.get());
    let mut second = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    let report = until_seen(
        || pool.report(),
        |report| report.dialer.under_way.first().is_some_and(|age| *age >= 20 * MS),
    )
    .await;
    assert_eq!(report.dialer.waits_for, DialerWait::Dials);
    // The rest of timeouts.connect.
    assert!(report.dialer.left < Some(5 * SECOND) && report.dialer.left > None, "{report}");
    assert!(unwrapped(&report).contains("1 under way, the longest for "), "{report}");
}

#[tokio::test]
async fn the_last_evidence_of_each_peer_is_said() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    fill(&pool, 2).await;
    let peer = pool.report().peers.remove(0);
    assert_eq!((peer.connections, peer.state), (2, PeerState::Healthy));
    assert_eq!(peer.attempt.map(|past| past.what), Some(DialOutcome::Ok));
    assert!(peer.heard < Some(10 * SECOND) && peer.heard > None && peer.death.is_none());
    upstream.order_all(&Order::Close);
    until(|| pool.status().idle == 0).await;
    let report = pool.report();
    let peer = &report.peers[0];
    assert_eq!(peer.death.map(|past| past.what), Some(CloseReason::PeerClosed), "{report}");
    assert_eq!((peer.connections, peer.heard), (0, None));
    let died = report.errors.iter().find(|error| error.what == "connection peer_closed").unwrap();
    assert_eq!((died.count, died.peer.as_ref()), (2, Some(&peer.addr)));
    assert!(unwrapped(&report).contains("0 open, last death peer_closed "), "{report}");
}

#[tokio::test]
async fn who_shares_and_what_is_being_reset_is_said() {
    let upstream = Upstream::start();
    let lines = Lines { reuse: Verdict::NeedsReset, reset: "HOLD".to_owned(), ..Lines::default() };
    for warning in [None, Some(60 * SECOND)] {
        let config = upstream.config().with_hold_warning(warning);
        let pool = Pool::builder(config).protocol(lines.clone()).build().unwrap();
        let shares = [pool.share().await.unwrap(), pool.share().await.unwrap()];
        let line = line!() - 1;
        let report = pool.report();
        let seen: Vec<_> = report
            .holders
            .iter()
            .map(|holder| (holder.holds, holder.taken_at.map(|place| place.line())))
            .collect();
        match warning {
            None => assert_eq!(seen, [(Holds::Share, None)], "nobody notes who they are"),
            Some(_) => assert_eq!(seen, [(Holds::Share, Some(line)); 2]),
        }
        drop(shares);
        let report = pool.report();
        assert_eq!(report.holders[0].holds, Holds::Reset, "{report}");
        assert!(unwrapped(&report).contains(", being reset"), "{report}");
    }
}

#[tokio::test]
async fn a_report_is_bounded_however_many_wait() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(1)).unwrap();
    let _held = pool.get().await.unwrap();
    let mut waiting: Vec<_> = (0..MOST + 50).map(|_| Box::pin(pool.get())).collect();
    for caller in &mut waiting {
        assert!(futures_util::poll!(caller.as_mut()).is_pending());
    }
    let report = pool.report();
    assert_eq!((report.waiting.len(), report.more_waiting), (MOST, 50));
    let text = text(&report);
    assert_eq!(text.matches("asked at").count(), 10);
    assert!(text.contains(&format!("and {} more", MOST + 40)), "{text}");
    assert!(text.lines().count() < 50, "it fits a screen or two:\n{text}");
}

#[tokio::test]
async fn words_of_a_peer_or_a_long_name_neither_break_a_line_nor_widen_it() {
    let upstream = Upstream::start();
    let lines = Lines { not_now: "no", hello: "ECHO no".to_owned(), ..Lines::default() };
    let name = format!("a\nb\u{1b}[31m{}", "long".repeat(60));
    let config = upstream.config().with_name(&name).with_first_connect(FirstConnect::Wait);
    let config = config.with_timeouts(Timeouts::default().with_checkout(2000 * MS));
    let pool = Pool::builder(config).protocol(lines).build().unwrap();
    pool.get().await.map(drop).unwrap_err();
    let text = text(&pool.report());
    assert!(text.contains(r"a\nb\u{1b}[31mlong"), "{text}");
    assert!(text.contains("dial handshake"), "{text}");
    assert!(text.contains("checkout timeout, "), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn as_json_it_has_times_in_seconds_and_places_and_names_as_text() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_name("orders").with_max_size(1)).unwrap();
    let mut held = pool.get().await.unwrap();
    assert_eq!(ask(&mut held, "ECHO x").await.unwrap(), "x");
    let mut waiting = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let json = serde_json::to_value(pool.report()).unwrap();
    assert_eq!(json["pool"], "orders");
    assert_eq!(json["status"]["in_use"], 1);
    let holder = &json["holders"][0];
    assert_eq!(holder["conn"], held.id().get());
    assert_eq!((&holder["holds"], &holder["span"]), (&"connection".into(), &None::<()>.into()));
    assert!(holder["held_seconds"].as_f64().unwrap() >= 0.0, "{json:#}");
    let place = holder["taken_at"].as_str().unwrap();
    assert!(place.starts_with(&format!("{}:", file!())), "{place}");
    assert!(json["waiting"][0]["left_seconds"].as_f64().unwrap() > 1.0, "{json:#}");
    let peer = &json["peers"][0];
    assert_eq!(peer["addr"], upstream.addr().to_string());
    assert_eq!((&peer["state"], &peer["attempt"]["what"]), (&"healthy".into(), &"ok".into()));
    assert!(peer["attempt"]["seconds_ago"].is_f64(), "{json:#}");
    assert_eq!(json["dialer"]["waits_for"], "slot");
    assert_eq!(json["errors"], serde_json::json!([]));
}

/// Whoever asks while everything happens gets an answer, and disturbs nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_may_be_asked_for_at_any_moment() {
    let upstream = Upstream::start();
    let pool = Pool::new(upstream.config().with_max_size(3)).unwrap();
    let users: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    assert_eq!(exchange(&pool, "ECHO x").await, "x");
                }
            })
        })
        .collect();
    while !users.iter().all(tokio::task::JoinHandle::is_finished) {
        let report = pool.report();
        assert!(report.holders.len() <= 3, "{report}");
        text(&report);
        tokio::task::yield_now().await;
    }
    for user in users {
        user.await.unwrap();
    }
    assert!(pool.report().holders.is_empty());
}
