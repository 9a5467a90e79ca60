//! Subscriptions, whatever protocol they are of: their connections come and go, and what follows on them
//! may be at fault itself. (With servers: `crates/livepool-postgres/tests/postgres/listen.rs` and
//! `crates/livepool-redis/tests/redis_listen.rs`.)

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use livepool::config::Backoff;
use livepool::protocol::{Feed, Listen, Protocol, Wire};
use livepool::{
    CloseReason, Config, Delivery, Guard, ListenError, Pool, Subscription, SubscriptionConfig,
};
use livepool_testkit::{Events, Upstream, until, until_status};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);
const COMES: Duration = Duration::from_secs(20);

/// What following comes to.
const FOLLOWS: usize = 0;
const PANICS: usize = 1;
const FAILS: usize = 2;

/// Delivers the number of its connection.
#[derive(Clone, Default)]
struct Counting {
    mode: Arc<AtomicUsize>,
    followed: Arc<AtomicUsize>,
}

struct Client {
    _wire: Wire,
}

impl Protocol for Counting {
    type Client = Client;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Client> {
        Ok(Client { _wire: wire })
    }

    async fn ping(&self, _: &mut Client) -> io::Result<()> {
        Ok(())
    }
}

impl Listen for Counting {
    type Channel = String;
    type Message = usize;

    async fn follow(&self, _: &mut Guard<Self>, feed: &Feed<Self>) -> io::Error {
        let number = self.followed.fetch_add(1, SeqCst) + 1;
        match self.mode.load(SeqCst) {
            PANICS => panic!("on purpose"),
            FAILS => return io::Error::other("on purpose"),
            _ => {}
        }
        // Before anything is confirmed: it is given all the same, behind the word of the gap.
        feed.deliver(number);
        loop {
            feed.confirm(&feed.wanted());
            feed.changed().await;
            if self.mode.load(SeqCst) != FOLLOWS {
                return io::Error::other("changed its mind");
            }
        }
    }

    fn size_of(_: &usize) -> usize {
        size_of::<usize>()
    }
}

impl Counting {
    /// From now on; the connection that is followed ends.
    fn set(&self, mode: usize, subscription: &Subscription<Self>) {
        self.mode.store(mode, SeqCst);
        subscription.unlisten("a");
        subscription.unlisten("b");
    }
}

fn pool_of(config: Config, counting: &Counting) -> (Pool<Counting>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(counting.clone()).build().unwrap(), events)
}

async fn next(subscription: &mut Subscription<Counting>) -> Option<Delivery<usize>> {
    timeout(COMES, subscription.next()).await.expect("something comes")
}

fn reason(delivery: Option<Delivery<usize>>) -> CloseReason {
    match delivery {
        Some(Delivery::Reconnected { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_follows_may_panic_and_is_called_again() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let (pool, events) = pool_of(upstream.config(), &counting);
    counting.mode.store(PANICS, SeqCst);
    // From the start on: nobody is kept waiting.
    let error = timeout(COMES, pool.listen(["a"])).await.unwrap().unwrap_err();
    assert!(matches!(error, ListenError::Closed), "{error}");
    assert_eq!(events.until_closed(1).await, [CloseReason::Panicked]);
    counting.mode.store(FAILS, SeqCst);
    let error = timeout(COMES, pool.listen(["a"])).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "not subscribed: on purpose");
    counting.mode.store(FOLLOWS, SeqCst);
    let mut subscription = pool.listen(["a", "b"]).await.unwrap();
    assert_eq!(next(&mut subscription).await, Some(Delivery::Message(3)));
    counting.set(PANICS, &subscription);
    until(|| counting.followed.load(SeqCst) > 4).await;
    assert!(!subscription.is_connected());
    counting.mode.store(FOLLOWS, SeqCst);
    reason(next(&mut subscription).await);
    let last = counting.followed.load(SeqCst);
    assert_eq!(next(&mut subscription).await, Some(Delivery::Message(last)));
    assert!(events.closed().contains(&CloseReason::Panicked), "{:?}", events.closed());
}

#[tokio::test]
async fn a_subscription_that_comes_to_nothing_is_tried_again_in_no_hurry() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let backoff = Backoff::default().with_first(SECOND).with_most(SECOND);
    let (pool, _) = pool_of(upstream.config().with_backoff(backoff), &counting);
    let mut subscription = pool.listen(["a", "b"]).await.unwrap();
    next(&mut subscription).await;
    let before = counting.followed.load(SeqCst);
    counting.set(FAILS, &subscription);
    tokio::time::sleep(3 * SECOND).await;
    // Half a second on average between two of them; without pauses they are thousands.
    let tried = counting.followed.load(SeqCst) - before;
    assert!((1..40).contains(&tried), "{tried}");
}

#[tokio::test]
async fn a_pool_stays_open_for_a_subscription_and_ends_with_it() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let (pool, events) = pool_of(upstream.config(), &counting);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    drop(pool);
    assert_eq!(next(&mut subscription).await, Some(Delivery::Message(1)));
    subscription.listen("b").await.unwrap();
    assert!(subscription.is_connected());
    drop(subscription);
    events.until_closed(1).await;
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_the_pool_has_no_use_for_is_left_at_once() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let (pool, events) = pool_of(upstream.config().with_max_size(1), &counting);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    assert_eq!(next(&mut subscription).await, Some(Delivery::Message(1)));
    for round in 2..6 {
        pool.invalidate();
        assert_eq!(reason(next(&mut subscription).await), CloseReason::Invalidated);
        assert_eq!(next(&mut subscription).await, Some(Delivery::Message(round)));
    }
    assert_eq!(events.closed(), [CloseReason::Invalidated; 4]);
    // Whoever closes the pool waits for nobody who listens.
    let began = Instant::now();
    assert_eq!(pool.close_and_wait(Instant::now() + COMES).await, 0);
    assert!(began.elapsed() < COMES / 2, "{:?}", began.elapsed());
    assert_eq!(next(&mut subscription).await, None);
    assert_eq!(events.closed().last(), Some(&CloseReason::PoolClosed));
}

#[test]
fn a_subscription_ends_with_the_runtime_it_was_made_in() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let (pool, _) = pool_of(upstream.config(), &counting);
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let mut subscription = first.block_on(pool.listen(["a"])).unwrap();
    drop(first);
    runtime().block_on(async {
        assert_eq!(next(&mut subscription).await, Some(Delivery::Message(1)));
        assert_eq!(next(&mut subscription).await, None);
        assert!(matches!(subscription.listen("b").await, Err(ListenError::Closed)));
        // The pool goes on.
        let mut other = pool.listen(["a"]).await.unwrap();
        assert_eq!(next(&mut other).await, Some(Delivery::Message(2)));
    });
}

#[tokio::test]
async fn a_subscription_that_waits_for_a_connection_waits_in_the_queue_and_gets_one() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let timeouts = livepool::Timeouts::default().with_checkout(SECOND);
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let (pool, _) = pool_of(config, &counting);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    next(&mut subscription).await;
    pool.pause();
    until_status(&pool, |now| now.in_use == 0).await;
    // Longer than one checkout takes.
    tokio::time::sleep(2 * SECOND).await;
    pool.resume();
    assert_eq!(reason(next(&mut subscription).await), CloseReason::Paused);
    assert_eq!(next(&mut subscription).await, Some(Delivery::Message(2)));
}

#[tokio::test]
async fn a_configuration_that_is_not_valid_is_refused_with_its_field() {
    let upstream = Upstream::start();
    let (pool, _) = pool_of(upstream.config(), &Counting::default());
    let config = SubscriptionConfig::default().with_max_messages(0);
    let error = pool.listen_with(["a"], config).await.unwrap_err();
    assert!(matches!(error, ListenError::Config(_)), "{error}");
    assert!(error.to_string().contains("max_messages = 0"), "{error}");
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn a_subscription_that_pauses_before_it_follows_again_ends_with_its_pool() {
    let upstream = Upstream::start();
    let counting = Counting::default();
    let backoff = Backoff::default().with_first(3600 * SECOND).with_most(3600 * SECOND);
    let (pool, _) = pool_of(upstream.config().with_backoff(backoff), &counting);
    let mut subscription = pool.listen(["a", "b"]).await.unwrap();
    next(&mut subscription).await;
    counting.set(FAILS, &subscription);
    until(|| counting.followed.load(SeqCst) >= 2).await;
    // Whether it pauses already or is about to.
    tokio::time::sleep(SECOND / 5).await;
    pool.close();
    while let Some(delivery) = next(&mut subscription).await {
        assert!(matches!(delivery, Delivery::Reconnected { .. }), "{delivery:?}");
    }
}
