//! Subscriptions to real servers: after any end of a connection its messages come again, and nobody has
//! to guess where some are missing.
#![cfg(target_os = "linux")]

use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use livepool::{
    CloseReason, Config, Delivery, Event, ListenError, Pool, Subscription, SubscriptionConfig,
    Timeouts,
};
use livepool_redis::redis::{AsyncCommands, Msg};
use livepool_redis::{Channel, Redis as Adapter, Role};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::lab::lab;
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, patient, until, until_seen, until_status};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);
/// Within this a message comes that has to come, on a machine that does other things as well.
const COMES: Duration = Duration::from_secs(20);

fn adapter(redis: &Redis) -> Adapter {
    Adapter::from_url(redis.url()).unwrap()
}

fn pool_of(config: Config, adapter: Adapter) -> (Pool<Adapter>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(adapter).build().unwrap(), events)
}

fn pool(redis: &Redis) -> (Pool<Adapter>, Events) {
    let adapter = adapter(redis);
    pool_of(patient(adapter.config().with_max_size(4).with_max_connecting(1)), adapter)
}

fn quick() -> SubscriptionConfig {
    SubscriptionConfig::default().with_heartbeat(2 * SECOND)
}

async fn next(subscription: &mut Subscription<Adapter>) -> Delivery<Msg> {
    let next = timeout(COMES, subscription.next()).await;
    next.unwrap_or_else(|_| panic!("nothing came: {subscription:?}")).expect("it goes on")
}

fn text(delivery: Delivery<Msg>) -> String {
    match delivery {
        Delivery::Message(message) => message.get_payload().unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn message(subscription: &mut Subscription<Adapter>) -> String {
    text(next(subscription).await)
}

async fn reconnected(subscription: &mut Subscription<Adapter>) -> CloseReason {
    match next(subscription).await {
        Delivery::Reconnected { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// How many got it.
fn publish(redis: &Redis, channel: &str, text: &str) -> usize {
    let said = redis.cli(&["PUBLISH", channel, text]);
    said.parse().unwrap_or_else(|_| panic!("{said}"))
}

/// How many have subscribed to this channel by its name.
fn subscribers(redis: &Redis, channel: &str) -> usize {
    let said = redis.cli(&["PUBSUB", "NUMSUB", channel]);
    said.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test]
async fn messages_of_channels_and_patterns_come_in_order_in_both_protocols() {
    let redis = Redis::start();
    for protocol in ["resp2", "resp3"] {
        let adapter = Adapter::from_url(format!("{}?protocol={protocol}", redis.url())).unwrap();
        let (pool, events) = pool_of(adapter.config(), adapter);
        // A heartbeat between any two messages.
        let config = SubscriptionConfig::default().with_heartbeat(2 * SECOND);
        let channels = [Channel::named("jobs"), Channel::pattern("news.*")];
        let mut subscription = pool.listen_with(channels, config).await.unwrap();
        assert!(subscription.is_connected());
        let long = "x".repeat(100_000);
        for (channel, text) in [("jobs", "1"), ("news.a", "2"), ("jobs", &long), ("jobs", "")] {
            assert_eq!(publish(&redis, channel, text), 1);
            let Delivery::Message(message) = next(&mut subscription).await else { panic!() };
            assert_eq!(message.get_channel_name(), channel);
            assert_eq!(message.get_payload::<String>().unwrap(), text);
            assert_eq!(message.from_pattern(), channel == "news.a");
            tokio::time::sleep(SECOND * 5 / 2).await;
        }
        assert_eq!(subscription.try_next().map(text), None);
        assert_eq!((events.opened(), events.closed()), (1, vec![]), "{protocol}");
        assert_eq!(pool.status().in_use, 1);
        drop(subscription);
        until_status(&pool, |now| now.in_use == 0).await;
    }
}

#[tokio::test]
async fn a_subscription_outlives_a_server_that_is_killed_and_says_where_messages_may_be_missing() {
    let mut redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut subscription = pool.listen(["a", "b"]).await.unwrap();
    publish(&redis, "a", "before");
    until(|| subscription.is_connected()).await;
    assert_eq!(message(&mut subscription).await, "before");
    redis.kill_9();
    let reasons = events.until_closed(1).await;
    until(|| !subscription.is_connected()).await;
    assert_eq!(subscription.try_next().map(text), None, "nothing is said before all is well again");
    redis.start_again();
    let reason = reconnected(&mut subscription).await;
    assert_eq!(reasons, [reason]);
    assert!(matches!(reason, CloseReason::PeerClosed | CloseReason::Reset), "{reason}");
    // From the word on nothing is missed.
    for channel in ["a", "b"] {
        assert_eq!(publish(&redis, channel, channel), 1);
        assert_eq!(message(&mut subscription).await, channel);
    }
    // By its administrator, and as a stream.
    assert!(redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).ends_with('1'));
    let stream: &mut (dyn Stream<Item = Delivery<Msg>> + Unpin) = &mut subscription;
    let said = timeout(COMES, stream.next()).await.unwrap();
    assert!(matches!(said, Some(Delivery::Reconnected { .. })), "{said:?}");
    assert_eq!(publish(&redis, "a", "after"), 1);
    assert_eq!(message(&mut subscription).await, "after");
}

/// Its kernel answers for it: nothing but a question shows it.
#[tokio::test]
async fn a_subscription_leaves_a_server_that_stands_still() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut subscription = pool.listen_with(["a"], quick()).await.unwrap();
    redis.freeze();
    let began = Instant::now();
    assert_eq!(events.until_closed(1).await, [CloseReason::PingTimeout]);
    // Asked after half a second, and late after another; the rest is for a busy machine.
    assert!(began.elapsed() >= SECOND / 2, "{:?}", began.elapsed());
    redis.thaw();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::PingTimeout);
    assert_eq!(publish(&redis, "a", "1"), 1);
    assert_eq!(message(&mut subscription).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_leaves_a_host_that_is_gone_without_asking_its_program() {
    let lab = lab!();
    let host = lab.host();
    let redis = host.run(|| Redis::start_with(&["bind 0.0.0.0", "protected-mode no"]));
    let adapter = Adapter::from_url(format!("redis://{}", host.addr(redis.port()))).unwrap();
    let (pool, events) = pool_of(adapter.config(), adapter);
    let config = SubscriptionConfig::default().with_heartbeat(None);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    host.unplug();
    let began = Instant::now();
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerSilent]);
    // A second of silence and a verdict, about two; far below the 30 s of the kernel's keepalive.
    assert!(began.elapsed() < 9 * SECOND, "{:?}", began.elapsed());
    host.heal();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::PeerSilent);
    let port = redis.port().to_string();
    host.run(move || {
        let mut publish = std::process::Command::new("redis-cli");
        assert!(publish.args(["-p", &port, "PUBLISH", "a", "1"]).status().unwrap().success());
    });
    assert_eq!(message(&mut subscription).await, "1");
}

#[tokio::test]
async fn a_subscription_follows_its_pool_to_another_server() {
    let old = Redis::start();
    let new = old.replica();
    let adapter = adapter(&old).with_role(Role::Master);
    let config = adapter.config().with_upstream([old.addr(), new.addr()]).with_max_size(2);
    let (pool, _) = pool_of(config, adapter);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let mut writer = pool.get().await.unwrap();
    assert_eq!(new.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(old.cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]), "OK");
    // Whoever finds it out first: here a writer does.
    let refused = writer.set::<_, _, ()>("k", 1).await.unwrap_err().to_string();
    assert!(refused.contains("ReadOnly"), "{refused}");
    drop(writer);
    assert_eq!(reconnected(&mut subscription).await, CloseReason::Invalidated);
    assert!(publish(&new, "a", "1") >= 1);
    assert_eq!(message(&mut subscription).await, "1");
}

#[tokio::test]
async fn a_subscription_ends_with_its_pool_when_everything_was_read() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let channels = subscription.channels();
    assert_eq!(publish(&redis, "a", "last"), 1);
    redis.cli(&["PING"]);
    let other = pool.listen(["b"]).await.unwrap();
    assert_eq!(message(&mut subscription).await, "last");
    // Nobody reads, and nobody has to.
    assert_eq!(pool.close_and_wait(Instant::now() + COMES).await, 0);
    assert_eq!(events.until_closed(2).await, [CloseReason::PoolClosed; 2]);
    assert!(timeout(COMES, subscription.next()).await.unwrap().is_none());
    assert!(timeout(COMES, subscription.next()).await.unwrap().is_none(), "for good");
    assert!(matches!(channels.listen("c").await, Err(ListenError::Closed)));
    assert!(!other.is_connected());
    assert!(matches!(pool.listen(["a"]).await, Err(ListenError::Checkout(_))));
}

#[tokio::test]
async fn a_subscription_that_is_dropped_gives_its_slot_back_and_leaves_nothing() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let (pool, _) = pool_of(adapter.config().with_max_size(1), adapter);
    for _ in 0..3 {
        let subscription = pool.listen(["a"]).await.unwrap();
        assert_eq!(publish(&redis, "a", "1"), 1);
        assert!(pool.try_get().is_none(), "it has the only connection");
        drop(subscription);
        drop(pool.get().await.unwrap());
        until(|| subscribers(&redis, "a") == 0).await;
    }
    // While it waits for a connection, too.
    let held = pool.get().await.unwrap();
    assert!(timeout(SECOND / 20, pool.listen(["a"])).await.is_err());
    drop(held);
    until_status(&pool, |now| now.idle == 1 && now.waiting == 0).await;
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_messages_were_dropped() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let config = SubscriptionConfig::default().with_max_messages(10);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    let mut publisher = pool.get().await.unwrap();
    let mut all = livepool_redis::redis::pipe();
    for number in 0..1000 {
        all.cmd("PUBLISH").arg("a").arg(number).ignore();
    }
    all.query_async::<()>(&mut *publisher).await.unwrap();
    let (mut missed, mut came) = (0, Vec::new());
    while came.last() != Some(&999) {
        match next(&mut subscription).await {
            Delivery::Message(message) => came.push(message.get_payload::<u64>().unwrap()),
            Delivery::Missed { count, .. } => missed += count,
            other => panic!("{other:?}"),
        }
        // All of it is there before the next one is read.
        tokio::time::sleep(SECOND / 4).await;
    }
    assert_eq!(missed + came.len() as u64, 1000, "each came, or was counted: {came:?}");
    assert!(missed >= 900 && came.is_sorted(), "{missed} {came:?}");
    // Nor is the server held up by a reader who does not read.
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn channels_come_and_go_while_another_task_reads() {
    let mut redis = Redis::start();
    let (pool, _) = pool(&redis);
    let mut subscription = pool.listen(Vec::<Channel>::new()).await.unwrap();
    let channels = subscription.channels();
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "end") {
            if let Delivery::Message(message) = next(&mut subscription).await {
                seen.push(message.get_payload::<String>().unwrap());
            }
        }
        (seen, subscription)
    });
    channels.listen("a").await.unwrap();
    channels.listen(Channel::pattern("b*")).await.unwrap();
    assert_eq!((publish(&redis, "a", "1"), publish(&redis, "bb", "2")), (1, 1));
    assert!(channels.unlisten("a") && !channels.unlisten("c"));
    until(|| subscribers(&redis, "a") == 0).await;
    // While the server is away: it waits, and what is not wanted any more is not asked for.
    redis.kill_9();
    channels.unlisten(Channel::pattern("b*"));
    let mut later = pin!(channels.listen("d"));
    assert!(timeout(SECOND / 10, later.as_mut()).await.is_err());
    redis.start_again();
    timeout(COMES, later).await.unwrap().unwrap();
    assert_eq!((publish(&redis, "bb", "no"), publish(&redis, "d", "end")), (0, 1));
    let (seen, _subscription) = reader.await.unwrap();
    assert_eq!(seen, ["1", "2", "end"]);
}

#[tokio::test]
async fn a_channel_that_is_refused_costs_whoever_asked_for_it_and_nobody_else() {
    let redis = Redis::start();
    redis.cli(&["ACL", "SETUSER", "me", "on", ">secret", "+@all", "~*", "resetchannels", "&ok*"]);
    let url = format!("redis://me:secret@127.0.0.1:{}", redis.port());
    let adapter = Adapter::from_url(url).unwrap();
    let (pool, events) = pool_of(adapter.config(), adapter);
    let error = pool.listen(["ok1", "no"]).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, ListenError::Refused(_)) && said.contains("no permissions"), "{said}");
    until_status(&pool, |now| now.in_use == 0).await;
    let mut subscription = pool.listen(["ok1"]).await.unwrap();
    let opened = events.opened();
    assert!(matches!(subscription.listen("no").await, Err(ListenError::Refused(_))));
    subscription.listen("ok2").await.unwrap();
    // The server sees the end of the connection that was refused a moment later.
    until_seen(|| subscribers(&redis, "ok1"), |seen| *seen == 1).await;
    assert_eq!(publish(&redis, "ok1", "1") + publish(&redis, "ok2", "2"), 2);
    assert_eq!(message(&mut subscription).await, "1");
    assert_eq!(message(&mut subscription).await, "2");
    assert_eq!(events.opened(), opened, "on the same connection");
    // Taken away later on: it is tried again for as long as it takes, in no hurry, and not without it.
    redis.cli(&["ACL", "SETUSER", "me", "resetchannels", "&ok1"]);
    until(|| !subscription.is_connected()).await;
    tokio::time::sleep(SECOND).await;
    assert!(!subscription.is_connected() && subscription.try_next().is_none());
    let tried = events.opened() - opened;
    assert!(tried < 40, "{tried} in about a second");
    redis.cli(&["ACL", "SETUSER", "me", "&ok2"]);
    reconnected(&mut subscription).await;
    assert_eq!(publish(&redis, "ok2", "3"), 1);
    assert_eq!(message(&mut subscription).await, "3");
}

#[tokio::test]
async fn a_wait_for_the_next_message_that_is_given_up_at_any_moment_loses_none() {
    let redis = Redis::start();
    let (pool, _) = pool(&redis);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let mut expected = 0..;
    for drop in DROPS {
        for polls in 1..=3 {
            for _ in 0..3 {
                let number = expected.next().unwrap();
                let given_up = cut(subscription.next(), polls, drop, |poll| {
                    // With the first wait: somebody waits when it comes.
                    if poll == 1 {
                        publish(&redis, "a", &number.to_string());
                    }
                });
                let came = match given_up.await {
                    Some(delivery) => delivery.unwrap(),
                    None => next(&mut subscription).await,
                };
                assert_eq!(text(came), number.to_string());
            }
        }
    }
    assert!(subscription.next().now_or_never().is_none());
    // So is one that begins.
    for polls in 1..20 {
        for drop in DROPS {
            let given_up = timeout(SECOND, cut(pool.listen(["b"]), polls, drop, |_| {}));
            let _ = given_up.await;
        }
    }
    until_status(&pool, |now| now.in_use == 1).await;
    until_seen(|| subscribers(&redis, "b"), |seen| *seen == 0).await;
}

#[tokio::test]
async fn a_paused_pool_has_its_connection_back_until_it_is_resumed() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    pool.pause();
    assert_eq!(events.until_closed(1).await, [CloseReason::Paused]);
    until(|| subscribers(&redis, "a") == 0).await;
    assert_eq!(pool.status().in_use, 0);
    pool.resume();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::Paused);
    assert_eq!(publish(&redis, "a", "1"), 1);
    assert_eq!(message(&mut subscription).await, "1");
}

#[tokio::test]
async fn the_time_limits_of_the_pool_are_not_for_a_subscription() {
    let redis = Redis::start();
    let adapter = adapter(&redis);
    let limit = SECOND;
    let timeouts = Timeouts::default().with_read(limit).with_operation(limit);
    let config = adapter.config().with_timeouts(timeouts).with_hold_warning(limit);
    let (pool, events) = pool_of(config.with_max_lifetime(limit), adapter);
    let config = SubscriptionConfig::default().with_heartbeat(None);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(publish(&redis, "a", "1"), 1);
    assert_eq!(message(&mut subscription).await, "1");
    let told = events.all();
    assert!(!told.iter().any(|event| matches!(event, Event::HeldTooLong { .. })), "{told:?}");
    assert_eq!(events.closed(), []);
}
