//! Peers that vanish without a word: found by proof of life and probes, in the background and at
//! checkout, and never mistaken for peers that are only slow.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use livepool::CloseReason::{
    IdleTimeout, KeepaliveTimeout, OpTimeout, PeerClosed, ProbeTimeout, Superseded,
};
use livepool::event::{Check, CheckVerdict};
use livepool::{Config, Event, Keepalive, Pool, Release};
use livepool_testkit::lab::lab;
use livepool_testkit::peer::Peer;
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{
    Events, Order, Upstream, ask, exchange, fill, until, until_seen, until_status, watched,
};

const SECOND: Duration = Duration::from_secs(1);

/// Four chances of 550 ms and what the loopback adds to them.
const VERDICT: Duration = Duration::from_millis(2600);

fn config(upstream: &Upstream) -> Config {
    upstream.config().with_max_size(16).with_max_silence(Some(SECOND))
}

fn checks(events: &Events, check: Check, verdict: CheckVerdict) -> usize {
    let is = |event: &&Event| matches!(event, Event::Checked { check: c, verdict: v, .. } if *c == check && *v == verdict);
    events.all().iter().filter(is).count()
}

/// The keepalive settings of the pool's idle connection, as the kernel has them.
async fn keepalive_of(pool: &Pool) -> (Option<Duration>, Option<u32>, Option<Duration>) {
    let conn = pool.get().await.unwrap();
    let report = conn.socket_report().unwrap();
    (report.keepalive_idle, report.keepalive_retries, report.user_timeout)
}

#[tokio::test]
async fn silent_idle_connections_are_evicted_in_the_background() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 16).await;
    upstream.order_all(&Order::Silence);
    let start = Instant::now();
    let reasons = events.until_closed(16).await;
    assert_eq!(reasons, [ProbeTimeout; 16]);
    // Not before four chances have passed, and all together, not one after the other. The bound
    // leaves two verdicts for a busy machine.
    assert!(start.elapsed() >= Duration::from_millis(2200), "{:?}", start.elapsed());
    assert!(start.elapsed() < SECOND + SECOND + 3 * VERDICT, "{:?}", start.elapsed());
    assert_eq!(pool.status().quarantined, 0);
}

#[tokio::test]
async fn a_living_peer_that_has_nothing_to_say_is_proved_again_and_again() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 4).await;
    let before = keepalive_of(&pool).await;
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Alive), |seen| *seen >= 12).await;
    assert!(events.closed().is_empty());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(upstream.accepted(), 4);
    until_status(&pool, |now| now.quarantined == 0).await;
    assert_eq!(keepalive_of(&pool).await, before, "the user's settings are back");
}

/// Who was proved alive while it was idle is asked again without a look first.
#[tokio::test]
async fn a_peer_that_vanishes_after_it_was_proved_alive_again_and_again_is_found_as_soon() {
    let upstream = Upstream::start();
    let max_silence = Duration::from_millis(2200);
    let config = upstream.config().with_max_silence_after_use(None);
    let (pool, events) = watched(config.with_max_silence(Some(max_silence)));
    fill(&pool, 1).await;
    let before = keepalive_of(&pool).await;
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Alive), |seen| *seen >= 2).await;
    assert_eq!(checks(&events, Check::Life, CheckVerdict::Unproved), 1, "only the first time");
    assert_eq!(keepalive_of(&pool).await, before);
    upstream.order_all(&Order::Silence);
    let start = Instant::now();
    assert_eq!(events.until_closed(1).await, [ProbeTimeout]);
    assert!(start.elapsed() < max_silence + SECOND + 2 * VERDICT, "{:?}", start.elapsed());
}

/// No probe can be sent over it, whatever is known of the TCP connections beside it.
#[tokio::test]
async fn a_unix_socket_beside_tcp_connections_is_asked_nothing() {
    let dir = std::env::temp_dir().join(format!("livepool-silence-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("upstream.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (tcp, unix) = (Upstream::start(), format!("unix:{}", path.display()));
    let config = Config::default().with_upstream([tcp.addr().to_string(), unix]);
    let (pool, events) = watched(config.with_max_silence(Some(Duration::from_millis(2200))));
    pool.warm_up(2).await.unwrap();
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Alive), |seen| *seen >= 3).await;
    assert!(checks(&events, Check::Life, CheckVerdict::Unproved) >= 2, "one of them is Unix");
    assert_eq!(checks(&events, Check::Probe, CheckVerdict::Unproved), 0);
    assert_eq!(events.closed(), []);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_peer_that_may_be_silent_for_a_year_is_never_asked_and_other_limits_hold() {
    let upstream = Upstream::start();
    let year = 365 * 24 * 60 * 60 * SECOND;
    let config = upstream.config().with_max_silence(Some(year)).with_max_silence_after_use(None);
    let (pool, events) = watched(config.with_idle_timeout(Some(Duration::from_millis(100))));
    fill(&pool, 1).await;
    assert_eq!(events.until_closed(1).await, [IdleTimeout]);
    assert_eq!(checks(&events, Check::Life, CheckVerdict::Unproved), 0);
}

#[tokio::test]
async fn a_peer_that_is_heard_again_in_time_stays_in_the_pool() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 1).await;
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 1).await;
    // Linux answers one probe per half a second; whatever was not heard before does not count.
    tokio::time::sleep(SECOND).await;
    upstream.order_all(&Order::Heal);
    until_status(&pool, |now| now.idle == 1).await;
    assert!(events.closed().is_empty());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_checkout_that_meets_only_silent_connections_costs_one_patience_and_a_dial() {
    let upstream = Upstream::start();
    // Idle checks far apart, so that it is the checkout that meets them.
    let (pool, events) =
        watched(upstream.config().with_max_size(16).with_max_silence(Some(2 * SECOND)));
    fill(&pool, 16).await;
    upstream.order_all(&Order::Silence);
    // All slots are taken by connections that nobody has found out yet, or is about to.
    std::thread::sleep(3 * SECOND);
    let (start, stalls) = (Instant::now(), Stalls::watch());
    let mut conn = pool.get().await.unwrap();
    let (took, stall) = (start.elapsed(), stalls.lost().await);
    println!("16 silent idle ones cost a checkout {took:.0?}, stall {stall:.0?}");
    assert_eq!(livepool_testkit::ask(&mut conn, "ECHO x").await.unwrap(), "x");
    assert!(took >= Duration::from_millis(240), "{took:?}: it did not wait for an answer");
    // Sixteen are 4 s.
    assert!(took < SECOND + stall, "{took:?}, stall {stall:?}: more than one patience");
    assert_eq!(events.closed(), [Superseded], "one made room");
    let reasons = events.until_closed(16).await;
    assert!(reasons[1..].iter().all(|reason| *reason == ProbeTimeout), "{reasons:?}");
}

#[tokio::test]
async fn whoever_has_waited_for_long_costs_no_connection_that_is_asked_when_it_comes_back() {
    let lab = lab!();
    let host = lab.host();
    // The answer comes after 40 ms.
    host.set_delay(Duration::from_millis(20));
    let upstream = host.upstream();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let held = pool.get().await.unwrap();
    let id = held.id();
    let wait = |_| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get().await.unwrap().id() })
    };
    let mut waits: Vec<_> = (0..3).map(wait).collect();
    // Longer than any peer may be unheard, and than anybody has patience.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(held.release(), Release::Reused);
    // One more comes while the connection is asked.
    until_status(&pool, |now| now.quarantined == 1).await;
    waits.push(wait(3));
    for served in waits {
        assert_eq!(served.await.unwrap(), id, "{:?}", events.closed());
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn whoever_has_waited_for_long_waits_one_patience_more_for_a_silent_one_that_comes_back() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let held = pool.get().await.unwrap();
    let id = held.id();
    let waits = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap().id() }
    });
    tokio::time::sleep(2 * SECOND).await;
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    let (start, stalls) = (Instant::now(), Stalls::watch());
    assert_eq!(held.release(), Release::Reused);
    assert_ne!(waits.await.unwrap(), id);
    let (took, stall) = (start.elapsed(), stalls.lost().await);
    assert!(took >= Duration::from_millis(240), "{took:?}: it did not wait for an answer");
    assert!(took < SECOND + stall, "{took:?}, stall {stall:?}: more than one patience");
    assert_eq!(events.closed(), [Superseded]);
}

#[tokio::test]
async fn a_checkout_waits_only_for_the_answer_when_the_peer_lives() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_silence(Some(2 * SECOND)));
    fill(&pool, 1).await;
    // The runtime does nothing for three seconds: no idle check, and the proof grows old.
    std::thread::sleep(3 * SECOND);
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(upstream.accepted(), 1, "the answer to the probe was waited for");
    assert!(checks(&events, Check::Probe, CheckVerdict::Alive) >= 1);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn the_kernels_own_verdict_has_a_reason_of_its_own() {
    let upstream = Upstream::start();
    let keepalive = Keepalive::default().with_idle(SECOND).with_interval(SECOND).with_retries(2);
    let socket = livepool::config::SocketConfig::default().with_keepalive(keepalive);
    let config = upstream.config().with_max_silence(None).with_socket(socket);
    let (pool, events) = watched(config);
    fill(&pool, 3).await;
    upstream.order_all(&Order::Silence);
    assert_eq!(events.until_closed(3).await, [KeepaliveTimeout; 3]);
}

#[tokio::test]
async fn without_keepalive_nobody_can_ask_and_the_connection_stays() {
    let upstream = Upstream::start();
    let socket = livepool::config::SocketConfig::default().with_keepalive(None);
    let (pool, events) = watched(config(&upstream).with_socket(socket));
    fill(&pool, 1).await;
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Unproved), |seen| *seen >= 2).await;
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_connection_that_is_closed_while_it_is_asked_ends_with_that_reason() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 1).await;
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 1).await;
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(1).await, [PeerClosed]);
}

#[tokio::test]
async fn closing_the_pool_ends_quarantine_too() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 2).await;
    upstream.order_all(&Order::Silence);
    until_status(&pool, |now| now.quarantined == 2).await;
    drop(pool);
    assert_eq!(events.until_closed(2).await, [livepool::CloseReason::PoolClosed; 2]);
}

/// What a read says whose peer is dead.
async fn found_dead(conn: &mut livepool::Guard) -> livepool::PeerSilent {
    let error = livepool_testkit::answer(conn).await.unwrap_err();
    assert!(!livepool::is_timeout(&error), "{error}");
    *livepool::PeerSilent::of(&error).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn a_peer_that_vanishes_after_it_acknowledged_a_request_is_found_while_the_read_waits() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 3).await;
    let mut conn = pool.get().await.unwrap();
    let start = Instant::now();
    conn.write_all(b"HOLD\n").await.unwrap();
    // Acknowledged on loopback before the order reaches the upstream.
    upstream.order_all(&Order::Silence);
    let silent = found_dead(&mut conn).await;
    assert_eq!(silent.reason, ProbeTimeout);
    println!("max_silence 1 s, acknowledged: {:.1?} ({silent})", start.elapsed());
    assert!(start.elapsed() < SECOND + 3 * VERDICT, "far below the read timeout of 30 s");
    drop(conn);
    // The idle siblings are found too, before or after.
    let mut reasons = events.until_closed(3).await;
    reasons.sort_by_key(|reason| reason.as_str());
    assert_eq!(reasons, [livepool::CloseReason::PeerSilent, ProbeTimeout, ProbeTimeout]);
}

#[tokio::test]
async fn a_peer_that_vanished_before_a_request_is_found_by_its_retransmissions() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, _) = watched(config(&upstream));
    fill(&pool, 1).await;
    let mut conn = pool.get().await.unwrap();
    upstream.order_all(&Order::Silence);
    // The order has to be there before the request is sent.
    until(|| upstream.silenced() == 1).await;
    conn.write_all(b"ECHO x\n").await.unwrap();
    let start = Instant::now();
    let silent = found_dead(&mut conn).await;
    println!("max_silence 1 s, not acknowledged: {:.1?} ({silent})", start.elapsed());
    assert_eq!(silent.reason, livepool::CloseReason::RetransmitTimeout);
    assert!(start.elapsed() < SECOND + 3 * VERDICT, "far below the read timeout of 30 s");
}

#[tokio::test]
async fn a_slow_answer_from_a_living_peer_is_waited_for_in_full() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 1).await;
    let before = keepalive_of(&pool).await;
    let mut conn = pool.get().await.unwrap();
    // Several times max_silence and the verdict.
    assert_eq!(livepool_testkit::ask(&mut conn, "SLOW 7000 late").await.unwrap(), "late");
    let report = conn.socket_report().unwrap();
    let after = (report.keepalive_idle, report.keepalive_retries, report.user_timeout);
    assert_eq!(after, before, "the user's settings are back");
    assert_eq!(conn.release(), livepool::Release::Reused);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_read_that_is_dropped_while_its_peer_is_asked_leaves_the_users_settings_behind() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, _) = watched(config(&upstream));
    fill(&pool, 1).await;
    let before = keepalive_of(&pool).await;
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    upstream.order_all(&Order::Silence);
    let asked = tokio::time::timeout(2 * SECOND, livepool_testkit::answer(&mut conn)).await;
    assert!(asked.is_err(), "silent for a second, asked for another, no verdict yet");
    let stream = conn.detach();
    let report = stream.socket_report().unwrap();
    let after = (report.keepalive_idle, report.keepalive_retries, report.user_timeout);
    assert_eq!(after, before);
}

#[tokio::test]
async fn by_default_a_silent_peer_is_out_of_the_pool_after_five_seconds_and_a_verdict() {
    let upstream = Upstream::start();
    // As for connections that nobody has used for a minute.
    let config = upstream.config().with_max_silence_after_use(None);
    let (pool, events) = watched(config.with_max_size(16));
    fill(&pool, 16).await;
    upstream.order_all(&Order::Silence);
    let start = Instant::now();
    assert_eq!(events.until_closed(16).await, [ProbeTimeout; 16]);
    let took = start.elapsed();
    println!("by default, idle: {took:.1?}");
    assert!(took < 5 * SECOND + 2 * VERDICT, "{took:?}");
}

#[tokio::test]
async fn by_default_a_silent_peer_that_was_used_within_a_minute_is_out_after_a_second_and_a_verdict()
 {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(16));
    fill(&pool, 16).await;
    upstream.order_all(&Order::Silence);
    let start = Instant::now();
    assert_eq!(events.until_closed(16).await, [ProbeTimeout; 16]);
    let took = start.elapsed();
    println!("by default, used lately: {took:.1?}");
    assert!(took < SECOND + 2 * VERDICT, "{took:?}");
}

#[tokio::test]
async fn by_default_a_request_to_a_silent_peer_fails_after_a_second_and_a_verdict() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    fill(&pool, 1).await;
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    upstream.order_all(&Order::Silence);
    let start = Instant::now();
    let silent = found_dead(&mut conn).await;
    let took = start.elapsed();
    println!("by default, request acknowledged: {took:.1?} ({silent})");
    assert!(took < SECOND + 2 * VERDICT, "{took:?}");
}

#[tokio::test]
async fn by_default_a_request_that_is_not_acknowledged_fails_as_early() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    fill(&pool, 1).await;
    let mut conn = pool.get().await.unwrap();
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    conn.write_all(b"ECHO x\n").await.unwrap();
    let start = Instant::now();
    let silent = found_dead(&mut conn).await;
    let took = start.elapsed();
    println!("by default, not acknowledged: {took:.1?} ({silent})");
    assert!(took < SECOND + 2 * VERDICT, "{took:?}");
}

#[tokio::test]
async fn by_default_an_answer_after_twenty_seconds_is_waited_for_in_full() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    assert_eq!(livepool_testkit::ask(&mut conn, "SLOW 20000 late").await.unwrap(), "late");
    assert_eq!(conn.release(), livepool::Release::Reused);
}

#[tokio::test]
async fn without_the_watch_the_operations_own_timeout_ends_the_wait() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start();
    let (pool, _) = watched(config(&upstream).with_max_silence(None));
    fill(&pool, 1).await;
    let mut conn = pool.get().await.unwrap();
    conn.set_read_timeout(Some(SECOND));
    upstream.order_all(&Order::Silence);
    until(|| upstream.silenced() == 1).await;
    conn.write_all(b"ECHO x\n").await.unwrap();
    let error = livepool_testkit::answer(&mut conn).await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
}

#[tokio::test]
async fn a_stopped_process_is_alive_to_every_check_and_the_operations_timeout_finds_it() {
    const NAME: &str =
        "a_stopped_process_is_alive_to_every_check_and_the_operations_timeout_finds_it";
    let Some(peer) = Peer::start(NAME) else { return };
    let config = Config::new(peer.addr().to_string()).with_max_silence(Some(SECOND));
    let (pool, events) = watched(config);
    fill(&pool, 4).await;
    peer.stop();
    // Its kernel answers for it.
    until_seen(|| checks(&events, Check::Probe, CheckVerdict::Alive), |seen| *seen >= 8).await;
    assert_eq!(events.closed(), []);
    for _ in 0..4 {
        let mut conn = pool.get().await.unwrap();
        conn.set_read_timeout(Some(SECOND / 10));
        let error = ask(&mut conn, "ECHO x").await.unwrap_err();
        assert!(livepool::is_timeout(&error), "{error}");
    }
    assert_eq!(events.closed(), [OpTimeout; 4]);
    // And its kernel takes new connections for it, until it goes on.
    peer.go_on();
    assert_eq!(exchange(&pool, "ECHO back").await, "back");
}

#[tokio::test]
async fn checks_of_life_and_probes_tell_how_long_ago_the_peer_was_heard() {
    let upstream = Upstream::start();
    let (pool, events) = watched(config(&upstream));
    fill(&pool, 1).await;
    upstream.order_all(&Order::Silence);
    events.until_closed(1).await;
    let heard = |check: Check| {
        let told = |event: &Event| match event {
            Event::Checked { check: of, heard, .. } if *of == check => *heard,
            _ => None,
        };
        events.all().iter().rev().find_map(told).unwrap()
    };
    assert!(heard(Check::Probe) > heard(Check::Life));
    assert!(heard(Check::Probe) >= Duration::from_millis(2200), "through four chances to answer");
}

#[tokio::test]
async fn a_connection_that_is_asked_while_its_pool_is_invalidated_or_paused_makes_room_at_once() {
    let upstream = Upstream::start();
    for (end, reason) in [
        (Pool::invalidate as fn(&Pool), livepool::CloseReason::Invalidated),
        (Pool::pause, livepool::CloseReason::Paused),
    ] {
        // Nobody gives up waiting for what is being asked.
        let config = config(&upstream).with_max_size(2).with_patience(3600 * SECOND);
        let (pool, events) = watched(config);
        fill(&pool, 1).await;
        upstream.order_all(&Order::Silence);
        until_status(&pool, |now| now.quarantined == 1).await;
        end(&pool);
        pool.resume();
        drop(pool.get().await.unwrap());
        assert_eq!(events.closed(), [reason], "and not by a verdict");
    }
}

#[tokio::test]
async fn a_user_who_has_nobody_watched_changes_that_for_no_later_one() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let upstream = Upstream::start();
    let (pool, _) = watched(config(&upstream).with_max_size(1));
    let mut first = pool.get().await.unwrap();
    first.watch_peer(None);
    assert_eq!(ask(&mut first, "ECHO x").await.unwrap(), "x");
    first.release();
    let mut second = pool.get().await.unwrap();
    second.write_all(b"HOLD\n").await.unwrap();
    upstream.order_all(&Order::Silence);
    let read = tokio::time::timeout(20 * SECOND, second.read_u8()).await.expect("it is watched");
    assert!(livepool::PeerSilent::of(&read.unwrap_err()).is_some());
}
