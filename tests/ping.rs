//! A round trip of the protocol before an idle connection is handed out: the only check that sees a
//! program that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::CloseReason::{PingFailed, PingTimeout};
use livepool::config::Validation;
use livepool::event::{Check, CheckVerdict, Operation};
use livepool::{BoxFuture, Config, Event, Ping, Pool, Release, Stream, Timeouts};
use livepool_testkit::{Events, Upstream, exchange, fill};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MS: Duration = Duration::from_millis(1);
/// Idle connections are pinged, new ones are not.
const IDLE: Validation = Validation::PingIfIdle(Duration::ZERO);

/// Asks this, expects `pong`, and counts.
#[derive(Clone)]
struct Line {
    asks: &'static str,
    asked: Arc<AtomicUsize>,
}

impl Line {
    fn asking(asks: &'static str) -> Self {
        Self { asks, asked: Arc::default() }
    }

    fn count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Ping for Line {
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            stream.write_all(self.asks.as_bytes()).await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await?;
            let expected = &answer == b"pong\n";
            if expected { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
        })
    }
}

fn pinged(config: Config, ping: &Line) -> (Pool, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).ping(ping.clone()).observer(events.observer());
    (builder.build().unwrap(), events)
}

fn verdicts(events: &Events) -> Vec<CheckVerdict> {
    let verdict = |event: &Event| match event {
        Event::Checked { check: Check::Ping, verdict, .. } => Some(*verdict),
        _ => None,
    };
    events.all().iter().filter_map(verdict).collect()
}

#[tokio::test]
async fn every_connection_is_pinged_before_every_checkout_if_so_configured() {
    let upstream = Upstream::start();
    let ping = Line::asking("ECHO pong\n");
    let (pool, events) = pinged(upstream.config().with_validation(Validation::Ping), &ping);
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(ping.count(), 1, "it was just made, and nothing was heard over it");
    assert_eq!(exchange(&pool, "ECHO y").await, "y");
    assert_eq!(verdicts(&events), [CheckVerdict::Alive; 2]);
    // The ping is the pool's business: a connection that its user did not use goes back.
    drop(pool.get().await.unwrap());
    assert_eq!((ping.count(), events.closed().len(), pool.status().idle), (3, 0, 1));
}

#[tokio::test]
async fn only_a_connection_that_was_idle_for_long_is_pinged_if_so_configured() {
    let upstream = Upstream::start();
    let ping = Line::asking("ECHO pong\n");
    let validation = Validation::PingIfIdle(2000 * MS);
    let (pool, _) = pinged(upstream.config().with_validation(validation), &ping);
    fill(&pool, 1).await;
    exchange(&pool, "ECHO x").await;
    assert_eq!(ping.count(), 0);
    tokio::time::sleep(2100 * MS).await;
    exchange(&pool, "ECHO x").await;
    assert_eq!(ping.count(), 1);
}

#[tokio::test]
async fn connections_whose_ping_fails_are_closed_and_the_caller_gets_another() {
    let upstream = Upstream::start();
    for (asks, answer) in [("ECHO pang\n", "wrong"), ("QUIT\n", "none"), ("ECHO pong!\n", "more")] {
        let ping = Line::asking(asks);
        let (pool, events) = pinged(upstream.config().with_validation(IDLE), &ping);
        fill(&pool, 3).await;
        assert_eq!(exchange(&pool, "ECHO x").await, "x", "{answer}");
        assert_eq!(events.closed(), [PingFailed; 3], "{answer}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stopped_process_is_found_by_a_ping() {
    let Some(peer) = livepool_testkit::peer::Peer::start("a_stopped_process_is_found_by_a_ping")
    else {
        return;
    };
    let ping = Line::asking("ECHO pong\n");
    let timeouts = Timeouts::default().with_ping(50 * MS);
    let config = Config::new(peer.addr().to_string()).with_timeouts(timeouts);
    let (pool, events) = pinged(config.with_validation(IDLE), &ping);
    fill(&pool, 4).await;
    peer.stop();
    let conn = pool.get().await.unwrap();
    assert_eq!(events.closed(), [PingTimeout; 4]);
    assert_eq!(events.timed_out(), [Operation::Ping; 4]);
    // Its kernel takes new connections for it, and they work as soon as it goes on.
    peer.go_on();
    drop(conn);
    assert_eq!(exchange(&pool, "ECHO back").await, "back");
}

#[tokio::test]
async fn a_caller_may_go_away_in_the_middle_of_a_ping() {
    let upstream = Upstream::start();
    let ping = Line::asking("HOLD\n");
    let own = Timeouts::default().with_ping(Duration::from_secs(1));
    let config = upstream.config().with_max_size(1).with_validation(IDLE).with_timeouts(own);
    let (pool, events) = pinged(config, &ping);
    fill(&pool, 1).await;
    assert!(tokio::time::timeout(20 * MS, pool.get()).await.is_err());
    // It goes on for the pool, in its own time.
    assert_eq!(events.until_closed(1).await, [PingTimeout]);
    // Nobody reads the answer to that ping, and the slot is free.
    let conn = pool.get().await.unwrap();
    assert_eq!(conn.release(), Release::Reused);
}

#[test]
fn a_ping_that_nobody_gave_is_refused_when_the_pool_is_made() {
    let config = Config::new("db:5432").with_validation(Validation::Ping);
    let error = Pool::new(config).unwrap_err().to_string();
    assert!(
        error.contains("validation") && error.contains("Pool::builder(config).ping("),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_that_answers_a_ping_while_the_pool_is_invalidated_reaches_nobody() {
    let upstream = Upstream::start();
    let ping = Line::asking("SLOW 1000 pong\n");
    let (pool, events) = pinged(upstream.config().with_max_size(1).with_validation(IDLE), &ping);
    fill(&pool, 1).await;
    let (conn, ()) = tokio::join!(pool.get(), async {
        livepool_testkit::until(|| ping.count() == 1).await;
        pool.invalidate();
    });
    assert_eq!(conn.unwrap().release(), Release::Reused);
    assert_eq!(events.closed(), [livepool::CloseReason::Invalidated]);
}
