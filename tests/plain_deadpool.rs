//! `livepool::Manager` in a plain deadpool pool: proved connections for programs that have a pool
//! already.

use std::error::Error;
use std::time::Duration;

use deadpool::managed;
use futures_util::FutureExt;
use livepool::event::Operation;
use livepool::{CloseReason, Config, Connection, Event, Manager, OpTimeout, Timeouts};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::cut::{DROPS, Drop as When, cut};
use livepool_testkit::{Events, Order, Upstream, port, until, until_seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Plain = managed::Pool<Manager>;

/// A plain pool with our manager, and our events.
fn plain(config: &Config, size: usize) -> (Plain, Events) {
    let events = Events::default();
    let manager = Manager::with_observer(config, events.observer()).unwrap();
    (Plain::builder(manager).max_size(size).build().unwrap(), events)
}

async fn ask(conn: &mut Connection, line: &str) -> std::io::Result<String> {
    conn.write_all(format!("{line}\n").as_bytes()).await?;
    let mut text = Vec::new();
    loop {
        match conn.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(text).unwrap()),
            byte => text.push(byte),
        }
    }
}

/// A whole exchange, told to be complete.
async fn exchange(pool: &Plain, text: &str) -> livepool::ConnId {
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, &format!("ECHO {text}")).await.unwrap(), text);
    assert_eq!(conn.finish(), None);
    conn.id()
}

#[tokio::test]
async fn a_connection_whose_exchange_was_finished_is_reused() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 2);
    let first = exchange(&pool, "a").await;
    assert_eq!(exchange(&pool, "b").await, first);
    assert_eq!(exchange(&pool, "c").await, first);
    assert_eq!(upstream.accepted(), 1);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_connection_that_nobody_used_needs_no_finish() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 1);
    let first = pool.get().await.unwrap().id();
    assert_eq!(pool.get().await.unwrap().id(), first);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_connection_whose_exchange_was_not_finished_is_thrown_away_at_its_next_checkout() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 1);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO mine").await.unwrap(), "mine");
    let first = conn.id();
    drop(conn);
    assert!(events.closed().is_empty(), "deadpool tells nobody about a return");
    assert_ne!(exchange(&pool, "next").await, first);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

#[tokio::test]
async fn finish_is_checked_and_not_believed() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 1);
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"SLOW 5000 late\n").await.unwrap();
    assert_eq!(conn.finish(), Some(CloseReason::Unfinished), "nothing was read");
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"SLOW 5000 late\n").await.unwrap();
    assert!(conn.read_u8().now_or_never().is_none());
    assert_eq!(conn.finish(), Some(CloseReason::Cancelled), "a read was dropped");
    drop(conn);
    exchange(&pool, "next").await;
    assert_eq!(events.closed(), [CloseReason::Unfinished, CloseReason::Cancelled]);
}

async fn is_found_dead(order: Order, reason: CloseReason) {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 1);
    let first = exchange(&pool, "a").await;
    upstream.order_all(&order);
    // Checkouts that use nothing, until the order has arrived at this end.
    let start = std::time::Instant::now();
    while events.closed().is_empty() {
        drop(pool.get().await.unwrap());
        assert!(start.elapsed() < Duration::from_secs(10), "{order:?} was not noticed");
        tokio::task::yield_now().await;
    }
    assert_ne!(exchange(&pool, "b").await, first);
    assert_eq!(events.closed(), [reason]);
    assert_eq!(upstream.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_the_peer_closed_is_found_at_its_next_checkout() {
    is_found_dead(Order::Close, CloseReason::PeerClosed).await;
}

#[tokio::test]
async fn a_connection_that_the_peer_reset_is_found_at_its_next_checkout() {
    is_found_dead(Order::Reset, CloseReason::Reset).await;
}

#[tokio::test]
async fn a_connection_with_unasked_bytes_is_found_at_its_next_checkout() {
    is_found_dead(Order::Say(b"late\n".to_vec()), CloseReason::Dirty).await;
}

#[tokio::test]
async fn a_whole_pool_of_dead_connections_costs_one_checkout() {
    // deadpool walks them one after the other; each costs a look, and none is handed out.
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 8);
    let mut guards = Vec::new();
    for _ in 0..8 {
        let mut conn = pool.get().await.unwrap();
        ask(&mut conn, "ECHO x").await.unwrap();
        assert_eq!(conn.finish(), None);
        guards.push(conn);
    }
    drop(guards);
    upstream.order_all(&Order::Close);
    until(|| upstream.open() == 0).await;
    #[cfg(target_os = "linux")]
    until_seen(
        || livepool_testkit::sockets_to(upstream.addr(), livepool_testkit::CLOSE_WAIT),
        |seen| *seen == 8,
    )
    .await;
    exchange(&pool, "next").await;
    assert_eq!(events.closed(), [CloseReason::PeerClosed; 8]);
    assert_eq!(pool.status().size, 1);
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_thrown_away_at_its_next_checkout() {
    let upstream = Upstream::start();
    let config = upstream.config().with_max_lifetime(Duration::from_secs(1000));
    let (pool, events) = plain(&config, 1);
    let first = exchange(&pool, "a").await;
    let later = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    // Up to a quarter is taken off at random.
    later(740).await;
    assert_eq!(exchange(&pool, "b").await, first);
    later(262).await;
    assert_ne!(exchange(&pool, "c").await, first);
    assert_eq!(events.closed(), [CloseReason::MaxLifetime]);
}

#[tokio::test]
async fn its_sockets_have_the_options_of_the_configuration() {
    let upstream = Upstream::start();
    let (pool, _) = plain(&upstream.config(), 1);
    let conn = pool.get().await.unwrap();
    let report = conn.socket_report().unwrap();
    assert!(report.keepalive);
    assert_eq!(report.nodelay, Some(true));
    if cfg!(target_os = "linux") {
        assert_eq!(report.keepalive_idle, Some(Duration::from_secs(15)));
        assert_eq!(report.keepalive_interval, Some(Duration::from_secs(5)));
        assert_eq!(report.keepalive_retries, Some(3));
        assert_eq!(report.user_timeout, Some(Duration::from_secs(30)));
    }
}

#[tokio::test]
async fn timeouts_of_one_user_are_not_those_of_the_next() {
    let upstream = Upstream::start();
    let (pool, _) = plain(&upstream.config(), 1);
    for finished in [true, false] {
        let mut conn = pool.get().await.unwrap();
        conn.stream_mut().set_read_timeout(Some(Duration::from_millis(1)));
        conn.stream_mut().set_write_timeout(None);
        conn.stream_mut().set_deadline(Some(tokio::time::Instant::now()));
        if finished {
            assert_eq!(conn.finish(), None);
        }
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        let own = upstream.config().timeouts.with_read(Duration::from_secs(30));
        assert_eq!(conn.timeouts(), own, "finished: {finished}");
        assert_eq!(ask(&mut conn, "SLOW 20 x").await.unwrap(), "x");
        assert_eq!(conn.finish(), None);
    }
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn an_operation_that_times_out_ends_the_connection() {
    let upstream = Upstream::start();
    let config = upstream.config();
    let config = config.with_timeouts(Timeouts::default().with_read(Duration::from_secs(3)));
    let (pool, events) = plain(&config, 1);
    let mut conn = pool.get().await.unwrap();
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
    drop(conn);
    exchange(&pool, "next").await;
    assert_eq!(events.timed_out(), [Operation::Read]);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
}

#[tokio::test]
async fn a_use_has_the_time_that_is_configured_for_all() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_operation(Duration::from_millis(2200));
    let (pool, events) = plain(&upstream.config().with_timeouts(timeouts), 1);
    // A new one and one that came back, each from its own checkout on.
    for number in 0..4 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        exchange(&pool, &number.to_string()).await;
    }
    assert_eq!(events.opened(), 1);
    let mut conn = pool.get().await.unwrap();
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
    assert!(error.to_string().contains("cut by timeouts.operation after 2.2s"), "{error}");
    drop(conn);
    // One that takes another time has that.
    let mut conn = pool.get().await.unwrap();
    conn.deadline(Duration::from_millis(50));
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    assert!(error.to_string().contains("its exchange after 50.0ms"), "{error}");
    assert_eq!(OpTimeout::of(&error).unwrap().after, Duration::from_millis(50), "as it was set");
    drop(conn);
    exchange(&pool, "next").await;
    assert_eq!(events.closed(), [CloseReason::OpTimeout; 2]);
}

#[tokio::test]
async fn a_dial_that_fails_says_why_through_deadpools_error() {
    let nobody = port::nobody();
    let (pool, events) = plain(&Config::new(nobody.to_string()), 1);
    let error = pool.get().await.unwrap_err();
    let managed::PoolError::Backend(connect) = &error else { panic!("{error}") };
    assert!(connect.to_string().contains("is the upstream running"), "{connect}");
    assert!(error.to_string().contains("connection refused"), "{error}");
    assert_eq!(events.opened(), 0);
}

#[tokio::test]
async fn a_dial_ends_within_the_connect_timeout_without_a_timeout_of_deadpools() {
    let blackhole = Blackhole::start();
    let limit = Timeouts::default().with_connect(Duration::from_millis(40));
    let config = Config::new(blackhole.addr().to_string()).with_timeouts(limit);
    let (pool, events) = plain(&config, 1);
    for when in DROPS {
        // And whoever gives up takes nothing along.
        assert!(cut(pool.get(), 1, when, |_| {}).await.is_none());
    }
    let error = pool.get().await.unwrap_err();
    let managed::PoolError::Backend(connect) = &error else { panic!("{error}") };
    assert!(connect.is_timeout() && error.source().is_some(), "{error}");
    assert_eq!(events.timed_out().last(), Some(&Operation::Connect));
    assert_eq!(pool.status().size, 0);
}

#[test]
fn a_configuration_that_is_no_good_is_refused_before_the_pool_is_made() {
    let error = Manager::new(&Config::new("nonsense")).unwrap_err();
    assert_eq!(error.problems()[0].field, "upstream[0]");
}

#[tokio::test]
async fn requests_that_were_given_up_are_not_answered_to_the_next_caller() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 4);
    for round in 0..24 {
        for number in 0..4 {
            let mut conn = pool.get().await.unwrap();
            let request = format!("SLOW 5000 secret-{round}-{number}");
            assert!(cut(ask(&mut conn, &request), 1, When::AtOnce, |_| {}).await.is_none());
        }
        let asked: Vec<_> = (0..4).map(|number| format!("mine-{round}-{number}")).collect();
        futures_util::future::join_all(asked.iter().map(|text| exchange(&pool, text))).await;
    }
    assert_eq!(events.closed(), [CloseReason::Cancelled; 96]);
}

#[tokio::test]
async fn every_connection_ends_with_one_event_when_its_pool_is_dropped() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 4);
    let seed = livepool_testkit::seed::seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..200 {
        let mut conn = pool.get().await.unwrap();
        match rng.u8(0..5) {
            0 => assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x"),
            1 => drop(managed::Object::take(conn)),
            2 => {
                conn.write_all(b"HOLD\n").await.unwrap();
                conn.finish();
            }
            _ => {
                drop(conn);
                exchange(&pool, &round.to_string()).await;
            }
        }
    }
    drop(pool);
    let mut ends = std::collections::BTreeMap::new();
    for event in events.all() {
        match event {
            Event::Opened { conn, .. } => assert_eq!(ends.insert(conn, 0), None),
            Event::Closed { conn, .. } => *ends.get_mut(&conn).unwrap() += 1,
            _ => {}
        }
    }
    assert!(ends.len() > 20 && ends.values().all(|closes| *closes == 1), "{ends:?}");
    assert!(!events.closed().is_empty());
    until(|| upstream.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_it() {
    let upstream = Upstream::start();
    let (pool, events) = plain(&upstream.config(), 4);
    let tasks = (0..16).map(|task| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                exchange(&pool, &format!("{task}-{round}")).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(events.closed().is_empty() && events.opened() <= 4);
}
