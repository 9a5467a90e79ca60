//! A pool of clients: what a protocol says is done, and the pool keeps its hold on a connection whose
//! stream is in the hands of a client's own task.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::config::Validation;
use livepool::error::CheckoutFailure;
use livepool::event::{DialOutcome, Operation};
use livepool::protocol::{Ledger, Owed, Protocol, Verdict, Wire};
use livepool::{CloseReason, Config, Event, Guard, Interrupted, Pool, Release, Timeouts};
use livepool_testkit::lines::{Client, Lines};
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, Order, Upstream, until, until_seen, until_status};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn pool_of(config: Config, lines: &Lines) -> (Pool<Lines>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(lines.clone()).build().unwrap(), events)
}

fn pool(upstream: &Upstream, lines: &Lines) -> (Pool<Lines>, Events) {
    pool_of(upstream.config().with_max_size(2), lines)
}

async fn ask(pool: &Pool<Lines>, line: &str) -> io::Result<String> {
    pool.run(async |client: &mut Guard<Lines>| client.ask(line).await).await
}

#[tokio::test]
async fn callers_get_the_client_that_the_protocol_made() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    let client = pool.get().await.unwrap();
    assert_eq!(client.ask("ECHO a").await.unwrap(), "a");
    drop(client);
    assert_eq!(pool.status().idle, 1, "dropped with nothing owed, it is back");
    assert_eq!(ask(&pool, "ECHO b").await.unwrap(), "b");
    assert_eq!((upstream.accepted(), events.opened()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_its_caller_did_not_wait_for_is_nobody_elses() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    let client = pool.get().await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(20), client.ask("SLOW 5000 mine"));
    given_up.await.unwrap_err();
    drop(client);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    assert_eq!(ask(&pool, "ECHO yours").await.unwrap(), "yours");
}

/// On this runtime the client's task cannot run between the two.
#[tokio::test]
async fn a_question_that_was_not_even_sent_is_nobody_elses_either() {
    let upstream = Upstream::start();
    let (pool, events) = pool_of(upstream.config().with_max_size(1), &Lines::default());
    let client = pool.get().await.unwrap();
    {
        let mut asked = std::pin::pin!(client.ask("SLOW 5000 mine"));
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
    }
    assert_eq!(client.ledger.debt(), 0, "nobody knows of it yet");
    drop(client);
    let began = Instant::now();
    assert_eq!(ask(&pool, "ECHO yours").await.unwrap(), "yours");
    assert!(began.elapsed() < 5 * SECOND, "it did not wait for the other's answer");
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

/// The end of its task may come at any moment of a return. Here it comes between the pool's looks.
#[tokio::test]
async fn a_connection_whose_task_ends_while_it_comes_back_reaches_nobody() {
    struct Fragile;
    impl Protocol for Fragile {
        type Client = Mutex<Option<Wire>>;
        type Error = io::Error;

        async fn connect(&self, wire: Wire) -> io::Result<Self::Client> {
            Ok(Mutex::new(Some(wire)))
        }

        async fn ping(&self, _: &mut Self::Client) -> io::Result<()> {
            Ok(())
        }

        fn idle_limit(&self, client: &Self::Client) -> Option<Duration> {
            drop(client.lock().unwrap().take());
            None
        }
    }

    let upstream = Upstream::start();
    for waits in [true, false] {
        let events = Events::default();
        let builder = Pool::builder(upstream.config().with_max_size(1));
        let pool = builder.observer(events.observer()).protocol(Fragile).build().unwrap();
        let first = pool.get().await.unwrap();
        let mut next = std::pin::pin!(pool.get());
        if waits {
            assert!(futures_util::poll!(next.as_mut()).is_pending());
        }
        drop(first);
        assert_eq!(events.closed(), [CloseReason::Discarded], "a caller waits: {waits}");
        assert!(next.await.unwrap().lock().unwrap().is_some());
    }
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_connect_deadline() {
    let upstream = Upstream::start();
    let lines = Lines { hello: "HOLD".to_owned(), ..Lines::default() };
    let limit = Duration::from_millis(200);
    let timeouts = Timeouts::default().with_connect(limit);
    let (pool, events) = pool_of(upstream.config().with_timeouts(timeouts), &lines);
    let error = pool.get().await.unwrap_err();
    let connect = error.connect_error().unwrap();
    assert!(connect.is_timeout(), "{connect}");
    assert!(connect.to_string().contains("no answer yet"), "{connect}");
    assert!(events.timed_out().contains(&Operation::Handshake));
    assert_eq!((events.opened(), events.closed().len()), (0, 0), "nothing was opened");
    drop(pool);
    until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_refusal_that_lasts_is_told_to_every_caller_at_once_and_not_tried_again() {
    let upstream = Upstream::start();
    let lines = Lines { hello: "ECHO never".to_owned(), ..Lines::default() };
    let config = upstream.config().with_max_connecting(1);
    let (pool, events) = pool_of(config, &lines);
    let (began, stalls) = (Instant::now(), Stalls::watch());
    let (a, b) = tokio::join!(pool.get(), pool.get());
    let (took, stall) = (began.elapsed(), stalls.lost().await);
    assert!(took < SECOND + stall, "{took:?}, stall {stall:?}: long before the deadline");
    for error in [a.unwrap_err(), b.unwrap_err()] {
        assert_eq!(error.failure(), CheckoutFailure::Connect);
        assert!(!error.is_retryable());
        assert!(error.connect_error().unwrap().is_denied());
        assert!(error.connect_error().unwrap().to_string().contains("never"), "{error:?}");
    }
    let outcome = |event: &Event| match event {
        Event::DialFailed { outcome, .. } => Some(*outcome),
        _ => None,
    };
    let outcomes: Vec<_> = events.all().iter().filter_map(outcome).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == DialOutcome::Handshake), "{outcomes:?}");
    assert!(outcomes.len() <= 2, "{outcomes:?}");
}

#[tokio::test]
async fn who_refuses_for_now_is_passed_over_for_the_next_address() {
    let (standby, primary) = (Upstream::start(), Upstream::start());
    // Each answers with its own address: the one says "not now", the other does not.
    let lines = Lines { hello: "ECHO not now".to_owned(), ..Lines::default() };
    let config =
        Config::new("").with_upstream([standby.addr().to_string(), primary.addr().to_string()]);
    let (pool, _) = pool_of(config, &lines);
    let error = pool.get_by(Instant::now() + 2 * SECOND).await.unwrap_err();
    let text = error.connect_error().unwrap().to_string();
    for addr in [standby.addr(), primary.addr()] {
        assert!(text.contains(&addr.to_string()), "{text}");
    }
    assert!(error.is_retryable());
    until(|| standby.accepted() > 0 && primary.accepted() > 0).await;
}

#[tokio::test]
async fn a_ping_is_made_before_an_idle_client_is_handed_out() {
    let upstream = Upstream::start();
    let lines = Lines { ping: "HOLD".to_owned(), ..Lines::default() };
    let timeouts = Timeouts::default().with_ping(Duration::from_millis(50));
    let config = upstream.config().with_validation(Validation::Ping).with_timeouts(timeouts);
    let (pool, events) = pool_of(config, &lines);
    ask(&pool, "ECHO a").await.unwrap();
    ask(&pool, "ECHO b").await.unwrap();
    assert_eq!(events.closed(), [CloseReason::PingTimeout]);
    assert_eq!(events.opened(), 2);
}

#[tokio::test]
async fn a_connection_that_came_back_is_reset_before_the_next_caller_has_it() {
    let upstream = Upstream::start();
    let lines =
        Lines { reuse: Verdict::NeedsReset, reset: "SLOW 200 done".to_owned(), ..Lines::default() };
    let (pool, events) = pool_of(upstream.config().with_max_size(1), &lines);
    let client = pool.get().await.unwrap();
    let began = Instant::now();
    let given_up = tokio::time::timeout(Duration::from_millis(10), client.ask("SLOW 1000 mine"));
    given_up.await.unwrap_err();
    assert_eq!(client.release(), Release::Resetting);
    let client = pool.get().await.unwrap();
    assert!(began.elapsed() >= SECOND * 6 / 5, "both answers were waited for");
    assert_eq!(client.ledger.debt(), 0);
    assert_eq!(client.ask("ECHO yours").await.unwrap(), "yours");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_connection_that_an_answer_or_an_error_has_stained_is_reset_before_the_next_caller_has_it()
 {
    let upstream = Upstream::start();
    let lines = Lines { reset: "SLOW 100 done".to_owned(), ..Lines::default() };
    let (pool, events) = pool_of(upstream.config().with_max_size(1), &lines);
    let client = pool.get().await.unwrap();
    assert_eq!(client.ask("ECHO stain").await.unwrap(), "stain");
    assert_eq!(client.release(), Release::Resetting);
    let began = Instant::now();
    let mut client = pool.get().await.unwrap();
    assert!(began.elapsed() >= SECOND / 20, "it was reset once");
    assert_eq!(client.report(&io::Error::other("stain")), Verdict::NeedsReset);
    assert_eq!(client.release(), Release::Resetting);
    // The next use is judged for itself.
    assert_eq!(pool.get().await.unwrap().release(), Release::Reused);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn what_bytes_that_nobody_asked_for_mean_is_for_the_protocol_to_say() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    // The idle one is told of a change of role: both go, also the one in use, when it comes back.
    drop(a);
    upstream.order_all(&Order::Say(b"*role\n".to_vec()));
    assert_eq!(events.until_closed(1).await, [CloseReason::Invalidated]);
    drop(b);
    assert_eq!(events.until_closed(2).await, [CloseReason::Invalidated; 2]);
    // A reset takes no bytes back.
    ask(&pool, "ECHO a").await.unwrap();
    upstream.order_all(&Order::Say(b"~stain\n".to_vec()));
    assert_eq!(events.until_closed(3).await[2..], [CloseReason::Dirty]);
}

/// Something is asked on its connection just as it comes back, or is reset, as what outlives an earlier
/// user may do.
struct Overtaken {
    at_reset: bool,
    resets: Arc<AtomicUsize>,
}

struct Asking {
    ledger: Ledger,
    owed: Mutex<Option<Owed>>,
    asked: AtomicUsize,
    _wire: Wire,
}

impl Asking {
    /// The first time.
    fn asks(&self) {
        if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
            *self.owed.lock().unwrap() = Some(self.ledger.owe());
        }
    }
}

impl Protocol for Overtaken {
    type Client = Asking;
    type Error = std::io::Error;

    async fn connect(&self, wire: Wire) -> std::io::Result<Asking> {
        let ledger = wire.count_debt();
        Ok(Asking { ledger, owed: Mutex::default(), asked: AtomicUsize::new(0), _wire: wire })
    }

    async fn ping(&self, _: &mut Asking) -> std::io::Result<()> {
        Ok(())
    }

    fn reuse(&self, client: &Asking) -> Verdict {
        if self.at_reset || client.ledger.debt() > 0 {
            return Verdict::NeedsReset;
        }
        client.asks();
        Verdict::Keep
    }

    async fn reset(&self, client: &mut Asking) -> std::io::Result<()> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        *client.owed.lock().unwrap() = None;
        if self.at_reset {
            client.asks();
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_is_asked_while_a_connection_comes_back_or_is_reset_is_for_its_protocol_to_say() {
    for (at_reset, expected) in [(false, 1), (true, 2)] {
        let upstream = Upstream::start();
        let (events, resets) = (Events::default(), Arc::new(AtomicUsize::new(0)));
        let protocol = Overtaken { at_reset, resets: Arc::clone(&resets) };
        let builder = Pool::builder(upstream.config()).observer(events.observer());
        let pool = builder.protocol(protocol).build().unwrap();
        drop(pool.get().await.unwrap());
        until_status(&pool, |now| now.in_use == 0).await;
        assert_eq!(events.closed(), [], "at its reset: {at_reset}");
        assert_eq!((pool.status().idle, resets.load(Ordering::SeqCst)), (1, expected));
    }
}

/// Says this of connections that come back, the last word first; then, that they are fine.
struct Undecided {
    words: Mutex<Vec<Verdict>>,
}

impl Protocol for Undecided {
    type Client = (Ledger, Wire);
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<(Ledger, Wire)> {
        Ok((wire.count_debt(), wire))
    }

    async fn ping(&self, _: &mut (Ledger, Wire)) -> io::Result<()> {
        Ok(())
    }

    fn reuse(&self, _: &(Ledger, Wire)) -> Verdict {
        self.words.lock().unwrap().pop().unwrap_or(Verdict::Keep)
    }
}

#[tokio::test]
async fn what_a_protocol_says_of_a_connection_when_its_reset_begins_is_done() {
    use CloseReason::{Invalidated, PeerClosed};
    let table = [
        (Verdict::PeerCloses, vec![PeerClosed]),
        (Verdict::InvalidatePool, vec![Invalidated, Invalidated]),
    ];
    for (verdict, expected) in table {
        let (upstream, events) = (Upstream::start(), Events::default());
        // In this order from the end: of the first that comes back, of the second, and at its reset.
        let words = Mutex::new(vec![verdict, Verdict::NeedsReset, Verdict::Keep]);
        let builder = Pool::builder(upstream.config().with_max_size(2)).observer(events.observer());
        let pool = builder.protocol(Undecided { words }).build().unwrap();
        let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        assert_eq!(first.release(), Release::Reused);
        assert_eq!(second.release(), Release::Resetting);
        assert_eq!(events.until_closed(expected.len()).await, expected, "{verdict:?}");
        assert_eq!(pool.status().idle, 2 - expected.len(), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_reset_that_fails_or_hangs_closes_the_connection() {
    for reset in ["ECHO error", "HOLD"] {
        let upstream = Upstream::start();
        let lines =
            Lines { reuse: Verdict::NeedsReset, reset: reset.to_owned(), ..Lines::default() };
        let timeouts = Timeouts::default().with_reset(3 * SECOND);
        let (pool, events) = pool_of(upstream.config().with_timeouts(timeouts), &lines);
        ask(&pool, "ECHO a").await.unwrap();
        assert_eq!(events.until_closed(1).await, [CloseReason::ResetFailed], "{reset}");
        let timed_out = events.timed_out().contains(&Operation::Reset);
        assert_eq!(timed_out, reset == "HOLD");
        until(|| upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn a_pool_that_is_dropped_during_a_reset_ends_it() {
    let upstream = Upstream::start();
    let lines = Lines { reuse: Verdict::NeedsReset, reset: "HOLD".to_owned(), ..Lines::default() };
    let (pool, events) = pool(&upstream, &lines);
    ask(&pool, "ECHO a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(pool);
    assert_eq!(events.until_closed(1).await, [CloseReason::PoolClosed]);
    until(|| upstream.open() == 0).await;
    until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
}

#[test]
fn a_client_may_come_back_outside_a_runtime() {
    let upstream = Upstream::start();
    let lines = Lines { reuse: Verdict::NeedsReset, ..Lines::default() };
    let (pool, events) = pool(&upstream, &lines);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = runtime.block_on(pool.get()).unwrap();
    drop(client);
    let client = runtime.block_on(pool.get()).unwrap();
    assert_eq!(runtime.block_on(client.ask("ECHO a")).unwrap(), "a");
    drop(client);
    drop(runtime);
    drop(pool);
    assert_eq!(events.closed().len(), events.opened());
}

#[tokio::test]
async fn a_protocol_may_refuse_to_have_a_connection_reused() {
    let upstream = Upstream::start();
    let lines = Lines { reuse: Verdict::Close, ..Lines::default() };
    let (pool, events) = pool(&upstream, &lines);
    ask(&pool, "ECHO a").await.unwrap();
    assert_eq!(events.closed(), [CloseReason::NotReusable]);
}

#[tokio::test]
async fn what_follows_from_an_error_is_for_the_protocol_to_say() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    let (mut a, mut b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(a.report(&io::Error::other("whatever")), Verdict::Keep);
    drop(a);
    assert_eq!(pool.status().idle, 1);
    a = pool.get().await.unwrap();
    assert_eq!(a.report(&io::Error::other("evict")), Verdict::Close);
    drop(a);
    assert_eq!(events.closed(), [CloseReason::ProtocolError]);
    a = pool.get().await.unwrap();
    assert_eq!(a.report(&io::Error::other("invalidate")), Verdict::InvalidatePool);
    drop(a);
    assert_eq!(b.report(&io::Error::other("invalidate")), Verdict::InvalidatePool);
    drop(b);
    let (closed, open) = (events.closed(), pool.get().await.unwrap());
    assert_eq!(closed[1..], [CloseReason::Invalidated, CloseReason::Invalidated]);
    // A late error of an old connection does no harm to a new one.
    drop(open);
    assert_eq!(pool.status().idle, 1);
}

/// What is wrong with the session is told by the peer's own word, where the end itself is told.
#[tokio::test]
async fn the_peers_word_for_an_end_is_in_its_event_on_one_line_and_cut() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    ask(&pool, "ECHO evict \x1b[31m").await.unwrap();
    let long = format!("invalidate {}", "x".repeat(100));
    ask(&pool, &format!("ECHO {long}")).await.unwrap();
    ask(&pool, "ECHO whatever").await.unwrap();
    pool.get().await.unwrap().report(&io::Error::other("goodbye"));
    ask(&pool, "ECHO whatever").await.unwrap();
    pool.close();
    let said = |text: &str| Some(text.to_owned());
    assert_eq!(
        events.codes(),
        [said(r"evict \u{1b}[31m"), said(&long[..40]), said("goodbye"), None]
    );
    use CloseReason::{Invalidated, PeerClosed, PoolClosed, ProtocolError};
    assert_eq!(events.closed(), [ProtocolError, Invalidated, PeerClosed, PoolClosed]);
}

#[tokio::test]
async fn a_scanner_that_sees_a_change_of_role_ends_every_connection_at_once() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(b);
    assert_eq!(a.ask("ECHO invalidate").await.unwrap(), "invalidate");
    // The idle one goes while the other is still held.
    assert_eq!(events.until_closed(1).await, [CloseReason::Invalidated]);
    drop(a);
    assert_eq!(events.closed(), [CloseReason::Invalidated; 2]);
    assert_eq!(ask(&pool, "ECHO evict").await.unwrap(), "evict");
    assert_eq!(events.closed()[2..], [CloseReason::ProtocolError]);
}

#[tokio::test]
async fn a_peer_that_says_it_ends_the_connection_is_taken_at_its_word() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    assert_eq!(ask(&pool, "ECHO goodbye").await.unwrap(), "goodbye");
    let mut client = pool.get().await.unwrap();
    assert_eq!(client.report(&io::Error::other("goodbye")), Verdict::PeerCloses);
    drop(client);
    assert_eq!(events.closed(), [CloseReason::PeerClosed; 2]);
}

/// A statement that is closed when its last row is dropped, say: long after its connection came back.
#[tokio::test]
async fn an_answer_that_is_owed_is_no_dirt_though_nobody_uses_the_connection() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    for round in 0..50 {
        let client = pool.get().await.unwrap();
        let later = client.asks_later();
        drop(client);
        let answered = later("ECHO late");
        if round % 2 == 0 {
            assert_eq!(answered.await.unwrap(), "late");
        } else {
            // Whoever comes next is asked about the bytes that wait before the task has read them.
            tokio::task::yield_now().await;
            livepool_testkit::loopback_delivered();
            assert_eq!(ask(&pool, "ECHO mine").await.unwrap(), "mine");
        }
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn an_idle_connection_that_its_peer_ends_is_evicted_though_a_task_reads_it() {
    for (order, reason) in [
        (Order::Close, CloseReason::PeerClosed),
        (Order::Reset, CloseReason::Reset),
        (Order::HalfClose, CloseReason::PeerClosed),
        (Order::Say(b"stray\n".to_vec()), CloseReason::Dirty),
        (Order::SayAndClose(b"!bye\n".to_vec()), CloseReason::PeerClosed),
    ] {
        let upstream = Upstream::start();
        let lines = Lines::default();
        let (pool, events) = pool(&upstream, &lines);
        ask(&pool, "ECHO a").await.unwrap();
        upstream.order_all(&order);
        assert_eq!(events.until_closed(1).await, [reason], "{order:?}");
        until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
        assert_eq!(ask(&pool, "ECHO b").await.unwrap(), "b");
    }
}

#[tokio::test]
async fn what_may_wait_is_left_for_the_client_and_the_end_behind_it_is_noticed() {
    let upstream = Upstream::start();
    let lines = Lines { notice: Some(b'#'), ..Lines::default() };
    let (pool, events) = pool(&upstream, &lines);
    ask(&pool, "ECHO a").await.unwrap();
    for round in 0..20 {
        upstream.order_all(&Order::Say(b"#news\n".to_vec()));
        let client = pool.get().await.unwrap();
        assert_eq!(client.ask("ECHO b").await.unwrap(), "b");
        until_seen(|| client.notices.lock().unwrap().len(), |seen| *seen > round).await;
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    upstream.order_all(&Order::SayAndClose(b"#news\n".to_vec()));
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
}

#[tokio::test]
async fn a_client_is_never_handed_out_dead_even_if_nobody_had_the_time_to_notice() {
    let upstream = Upstream::start();
    let (pool, events) = pool(&upstream, &Lines::default());
    for _ in 0..100 {
        let client = pool.get().await.unwrap();
        assert_eq!(client.ask("ECHO a").await.unwrap(), "a");
        drop(client);
        upstream.order_all(&Order::Close);
        // Without an await, the client's task has no chance to read.
        livepool_testkit::until_blocking(|| upstream.open() == 0);
        livepool_testkit::loopback_delivered();
    }
    assert_eq!(events.opened(), 100);
    assert!(events.closed().iter().all(|reason| *reason == CloseReason::PeerClosed));
}

#[tokio::test]
async fn closing_a_pool_ends_the_tasks_of_its_clients() {
    let upstream = Upstream::start();
    let lines = Lines::default();
    let (pool, events) = pool(&upstream, &lines);
    let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    drop(b);
    assert_eq!(lines.drivers.load(Ordering::SeqCst), 2);
    assert_eq!(pool.close_and_wait(Instant::now()).await, 1);
    a.ask("ECHO a").await.unwrap_err();
    assert_eq!(a.tainted(), Some(CloseReason::PoolClosed));
    drop(a);
    until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
    until(|| upstream.open() == 0).await;
    assert_eq!(events.closed(), [CloseReason::PoolClosed; 2]);
}

#[tokio::test]
async fn a_detached_client_lives_on_and_ends_with_its_owner() {
    let upstream = Upstream::start();
    let lines = Lines::default();
    let (pool, events) = pool(&upstream, &lines);
    let client: Client = pool.get().await.unwrap().detach();
    drop(pool);
    assert_eq!(events.closed(), [CloseReason::Detached]);
    assert_eq!(client.ask("ECHO mine").await.unwrap(), "mine");
    drop(client);
    until(|| lines.drivers.load(Ordering::SeqCst) == 0 && upstream.open() == 0).await;
}

#[tokio::test]
async fn a_read_timeout_runs_only_while_an_answer_is_owed() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, events) = pool_of(upstream.config().with_timeouts(timeouts), &Lines::default());
    let client = pool.get().await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(client.ask("ECHO a").await.unwrap(), "a", "silence that nobody minds");
    client.ask("HOLD").await.unwrap_err();
    drop(client);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    assert_eq!(events.timed_out(), [Operation::Read]);
}

#[tokio::test]
async fn a_call_that_may_wait_longer_says_so_while_its_task_reads_already() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, events) = pool_of(upstream.config().with_timeouts(timeouts), &Lines::default());
    let mut client = pool.get().await.unwrap();
    client.set_read_timeout(None);
    assert_eq!(client.ask("SLOW 3000 late").await.unwrap(), "late");
    client.deadline(Duration::from_millis(100));
    client.ask("HOLD").await.unwrap_err();
    drop(client);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
}

#[tokio::test]
async fn a_caller_who_is_interrupted_learns_why() {
    let upstream = Upstream::start();
    let lines = Lines::default();
    let (pool, events) = pool(&upstream, &lines);
    let client = pool.get().await.unwrap();
    let (asked, ()) = tokio::join!(client.ask("HOLD"), async { pool.invalidate_and_interrupt() });
    asked.unwrap_err();
    assert_eq!(client.tainted(), Some(CloseReason::Invalidated));
    drop(client);
    assert_eq!(events.closed(), [CloseReason::Invalidated]);
    until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
    let _ = Interrupted::of(&io::Error::other("a wire says it as a stream does"));
}

/// The client, the task behind it and the pool hold each other in none but weak ways.
#[tokio::test]
async fn nothing_is_left_of_a_pool_of_clients() {
    let upstream = Upstream::start();
    let lines = Lines::default();
    let token = Arc::downgrade(&lines.drivers);
    for _ in 0..10 {
        let (pool, _) = pool(&upstream, &lines);
        let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        a.ask("ECHO a").await.unwrap();
        drop((a, b));
    }
    until(|| upstream.open() == 0).await;
    until_seen(|| lines.drivers.load(Ordering::SeqCst), |seen| *seen == 0).await;
    drop(lines);
    until_seen(|| token.strong_count(), |seen| *seen == 0).await;
}

#[tokio::test]
async fn a_connection_that_nobody_is_to_have_again_is_closed_and_not_reset() {
    let upstream = Upstream::start();
    // A reset would take all of its time.
    let lines = Lines { reset: "HOLD".to_owned(), ..Lines::default() };
    for end in [Pool::invalidate, Pool::pause] {
        let timeouts = Timeouts::default().with_reset(60 * SECOND);
        let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
        let (pool, events) = pool_of(config, &lines);
        let client = pool.get().await.unwrap();
        assert_eq!(client.ask("ECHO stain").await.unwrap(), "stain");
        end(&pool);
        let Release::Discarded(reason) = client.release() else { panic!("it is being reset") };
        assert!(matches!(reason, CloseReason::Invalidated | CloseReason::Paused), "{reason}");
        assert_eq!(events.closed(), [reason]);
        pool.resume();
        drop(pool.get_by(Instant::now() + 10 * SECOND).await.unwrap());
    }
}
