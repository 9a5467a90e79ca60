//! Subscriptions to real servers: after any end of a connection notifications come again, and nobody has
//! to guess where some are missing.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Instant;

use futures_util::{FutureExt, StreamExt};
use livepool::{CloseReason, Delivery, Event, ListenError, Subscription, SubscriptionConfig};
use livepool_postgres::{Error, Target};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::lab::lab;
use livepool_testkit::servers::PgBouncer;
use livepool_testkit::{until, until_status};
use tokio::time::timeout;
use tokio_postgres::Notification;

use super::*;

/// Within this a notification comes that has to come, on a machine that does other things as well.
const COMES: Duration = Duration::from_secs(20);

fn quick() -> SubscriptionConfig {
    SubscriptionConfig::default().with_heartbeat(2 * SECOND)
}

async fn next(subscription: &mut Subscription<Postgres>) -> Delivery<Notification> {
    let next = timeout(COMES, subscription.next()).await;
    next.unwrap_or_else(|_| panic!("nothing came: {subscription:?}")).expect("it goes on")
}

fn text(delivery: Delivery<Notification>) -> String {
    match delivery {
        Delivery::Message(message) => format!("{} {}", message.channel(), message.payload()),
        other => panic!("{other:?}"),
    }
}

async fn message(subscription: &mut Subscription<Postgres>) -> String {
    text(next(subscription).await)
}

async fn reconnected(subscription: &mut Subscription<Postgres>) -> CloseReason {
    match next(subscription).await {
        Delivery::Reconnected { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn notify(server: &Server, channel: &str, text: &str) {
    server.psql(&format!("SELECT pg_notify('{channel}', '{text}')"));
}

#[tokio::test]
async fn notifications_of_all_channels_come_in_order() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config);
    // A heartbeat between any two of them.
    let config = SubscriptionConfig::default().with_heartbeat(2 * SECOND);
    let channels = ["jobs", "A \"b\"", "ü"];
    let mut subscription = pool.listen_with(channels, config).await.unwrap();
    assert!(subscription.is_connected());
    let long = "x".repeat(7000);
    for (channel, payload) in [("jobs", "1"), ("A \"b\"", "2"), ("ü", &long), ("jobs", "")] {
        notify(&server, channel, payload);
        assert_eq!(message(&mut subscription).await, format!("{channel} {payload}"));
        tokio::time::sleep(SECOND * 5 / 2).await;
    }
    notify(&server, "JOBS", "another one");
    notify(&server, "jobs", "last");
    assert_eq!(message(&mut subscription).await, "jobs last");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_outlives_a_postgresql_that_is_killed_or_restarted() {
    let mut server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config);
    let mut subscription = pool.listen(["a", "b"]).await.unwrap();
    notify(&server, "a", "before");
    assert_eq!(message(&mut subscription).await, "a before");
    for kill in [true, false] {
        match kill {
            true => server.kill_9(),
            false => server.stop_fast(),
        }
        until(|| !subscription.is_connected()).await;
        assert!(subscription.try_next().is_none(), "nothing is said before all is well again");
        server.start_again();
        let reason = reconnected(&mut subscription).await;
        assert!(matches!(reason, CloseReason::PeerClosed | CloseReason::Reset), "{reason}");
        // From the word on nothing is missed.
        notify(&server, "a", "1");
        notify(&server, "b", "2");
        assert_eq!(message(&mut subscription).await, "a 1");
        assert_eq!(message(&mut subscription).await, "b 2");
    }
    // By an administrator, and as a stream.
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'postgres'");
    let said = timeout(COMES, StreamExt::next(&mut subscription)).await.unwrap();
    assert!(matches!(said, Some(Delivery::Reconnected { .. })), "{said:?}");
}

/// What `Reconnected` is for: whoever looks up then what there is, and otherwise believes what he is
/// told, knows all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_after_each_word_of_a_gap_misses_nothing() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE jobs (id int8 PRIMARY KEY)");
    let (pool, _) = pool(&server, |config| config);
    let config = SubscriptionConfig::default().with_max_messages(5);
    let mut subscription = pool.listen_with(["jobs"], config).await.unwrap();
    const JOBS: i64 = 600;
    let writer = tokio::spawn({
        let pool = pool.clone();
        async move {
            for id in 1..=JOBS {
                // It meets the end of its own session, too: once more then. What it said of a session
                // that ended it may have said or not.
                loop {
                    let Ok(conn) = pool.get().await else { continue };
                    let sql = format!(
                        "INSERT INTO jobs VALUES ({id}) ON CONFLICT DO NOTHING; NOTIFY jobs, '{id}'"
                    );
                    if conn.batch_execute(&sql).await.is_ok() {
                        break;
                    }
                }
                if id % 60 == 0 {
                    // Whoever is there: listener, writer, reader.
                    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                               WHERE usename = 'postgres' AND pid <> pg_backend_pid()";
                    if let Ok(conn) = pool.get().await {
                        let _ = conn.batch_execute(sql).await;
                    }
                }
            }
        }
    });
    let (mut known, mut gaps, mut missed) = (BTreeSet::new(), 0, 0);
    let began = Instant::now();
    while known.len() < JOBS as usize {
        assert!(began.elapsed() < 3 * COMES, "{} known, {gaps} gaps, {missed} missed", known.len());
        match next(&mut subscription).await {
            Delivery::Message(message) => {
                known.insert(message.payload().parse::<i64>().unwrap());
                if known.len() % 50 == 0 {
                    // Slow, now and then.
                    tokio::time::sleep(SECOND / 20).await;
                }
            }
            other => {
                match other {
                    Delivery::Missed { count, .. } => missed += count,
                    _ => gaps += 1,
                }
                loop {
                    let Ok(conn) = pool.get().await else { continue };
                    if let Ok(rows) = conn.query("SELECT id FROM jobs", &[]).await {
                        known.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
                        break;
                    }
                }
            }
        }
    }
    writer.await.unwrap();
    println!("{gaps} gaps, {missed} missed");
    assert!(gaps > 0, "its session was ended ten times");
}

/// Its kernel answers for it: nothing but a question shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_leaves_a_postgresql_that_stands_still() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config);
    let mut subscription = pool.listen_with(["a"], quick()).await.unwrap();
    server.freeze();
    let began = Instant::now();
    assert_eq!(events.until_closed(1).await, [CloseReason::PingTimeout]);
    // Asked within half a second, and late after another; the rest is for a busy machine.
    assert!(began.elapsed() >= SECOND / 2, "{:?}", began.elapsed());
    server.thaw();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::PingTimeout);
    notify(&server, "a", "1");
    assert_eq!(message(&mut subscription).await, "a 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_leaves_a_host_that_is_gone_without_asking_its_postgresql() {
    let lab = lab!();
    let host = lab.host();
    let server = host.run(|| {
        let server = Server::start_with(&[("listen_addresses", "*")]);
        server.admit("host all all 0.0.0.0/0 trust");
        server
    });
    let url = format!("postgres://postgres@{}/app", host.addr(server.port()));
    let (pool, events) = pool_of(Postgres::from_url(&url).unwrap(), |config| config);
    let config = SubscriptionConfig::default().with_heartbeat(None);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    host.unplug();
    let began = Instant::now();
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerSilent]);
    // A second of silence and a verdict, about two; far below the 30 s of the kernel's keepalive.
    assert!(began.elapsed() < 9 * SECOND, "{:?}", began.elapsed());
    host.heal();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::PeerSilent);
    notify(&server, "a", "1");
    assert_eq!(message(&mut subscription).await, "a 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_follows_its_pool_to_the_new_primary() {
    let old = trusting_server(&[]);
    let new = old.standby();
    new.trust_everybody();
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/app", new.port(), old.port());
    let postgres = Postgres::from_url(&url).unwrap().with_target(Target::ReadWrite);
    let (pool, _) = pool_of(postgres, |config| config);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    notify(&old, "a", "1");
    assert_eq!(message(&mut subscription).await, "a 1");
    new.promote();
    old.set_read_only(true);
    // Whoever finds it out.
    pool.invalidate();
    assert_eq!(reconnected(&mut subscription).await, CloseReason::Invalidated);
    notify(&new, "a", "2");
    assert_eq!(message(&mut subscription).await, "a 2");
}

#[tokio::test]
async fn a_subscription_ends_with_its_pool_and_gives_back_what_it_has_when_it_is_dropped() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let subscription = pool.listen(["a"]).await.unwrap();
    assert!(pool.try_get().is_none(), "it has the only connection");
    drop(subscription);
    let conn = pool.get().await.unwrap();
    let rows = conn.query("SELECT pg_listening_channels()", &[]).await.unwrap();
    assert!(rows.is_empty(), "{rows:?}");
    assert_eq!((events.opened(), events.closed()), (1, vec![]), "the same session");
    drop(conn);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let channels = subscription.channels();
    notify(&server, "a", "last");
    assert_eq!(message(&mut subscription).await, "a last");
    // Nobody reads, and nobody has to.
    assert_eq!(pool.close_and_wait(Instant::now() + COMES).await, 0);
    assert_eq!(events.until_closed(1).await, [CloseReason::PoolClosed]);
    assert!(timeout(COMES, subscription.next()).await.unwrap().is_none());
    assert!(matches!(channels.listen("b").await, Err(ListenError::Closed)));
    assert!(matches!(pool.listen(["a"]).await, Err(ListenError::Checkout(_))));
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_notifications_were_dropped() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config);
    let config = SubscriptionConfig::default().with_max_messages(10);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    // More than the client keeps for whoever has called notifications().
    server.psql("SELECT pg_notify('a', n::text) FROM generate_series(1, 5000) AS n");
    let (mut missed, mut came) = (0, Vec::new());
    while came.last() != Some(&5000) {
        match next(&mut subscription).await {
            Delivery::Message(message) => came.push(message.payload().parse::<u64>().unwrap()),
            Delivery::Missed { count, .. } => missed += count,
            other => panic!("{other:?}"),
        }
        // All of it is there before the next one is read.
        tokio::time::sleep(SECOND / 4).await;
    }
    assert_eq!(missed + came.len() as u64, 5000, "each came, or was counted: {came:?}");
    assert!(missed >= 4900 && came.is_sorted(), "{missed} {came:?}");
    assert_eq!(events.closed(), []);
    // With room enough, as many come at once.
    let config = SubscriptionConfig::default().with_max_messages(5000);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    server.psql("SELECT pg_notify('a', n::text) FROM generate_series(1, 5000) AS n");
    for number in 1..=5000 {
        assert_eq!(message(&mut subscription).await, format!("a {number}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_come_and_go_while_another_task_reads_notifications() {
    let mut server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config);
    let mut subscription = pool.listen(Vec::<String>::new()).await.unwrap();
    let channels = subscription.channels();
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "d end") {
            if let Delivery::Message(message) = next(&mut subscription).await {
                seen.push(text(Delivery::Message(message)));
            }
        }
        seen
    });
    channels.listen("a").await.unwrap();
    channels.listen("b").await.unwrap();
    notify(&server, "a", "1");
    notify(&server, "b", "2");
    assert!(channels.unlisten("a") && !channels.unlisten("c"));
    // The next one is confirmed after that was done.
    channels.listen("c").await.unwrap();
    notify(&server, "a", "no");
    // While the server is away: it waits, and what is not wanted any more is not asked for.
    server.kill_9();
    channels.unlisten("b");
    let mut later = pin!(channels.listen("d"));
    assert!(timeout(SECOND / 10, later.as_mut()).await.is_err());
    server.start_again();
    timeout(COMES, later).await.unwrap().unwrap();
    notify(&server, "b", "no");
    notify(&server, "d", "end");
    assert_eq!(reader.await.unwrap(), ["a 1", "b 2", "d end"]);
}

#[tokio::test]
async fn a_name_that_postgresql_does_not_take_costs_whoever_asked_for_it_and_nobody_else() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config);
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let (long, nothing) = ("x".repeat(64), String::new());
    for name in [&long, &nothing, &"with\0zero".to_owned()] {
        let error = subscription.listen(name).await.unwrap_err();
        assert!(matches!(error, ListenError::Refused(_)), "{name:?}: {error}");
        assert!(matches!(pool.listen([name]).await, Err(ListenError::Refused(_))), "{name:?}");
    }
    let longest = "y".repeat(63);
    subscription.listen(&longest).await.unwrap();
    notify(&server, "a", "1");
    notify(&server, &longest, "2");
    assert_eq!(message(&mut subscription).await, "a 1");
    assert_eq!(message(&mut subscription).await, format!("{longest} 2"));
    assert!(!events.closed().contains(&CloseReason::PeerClosed), "{:?}", events.closed());
}

#[tokio::test]
async fn a_wait_for_the_next_notification_that_is_given_up_at_any_moment_loses_none() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config.with_max_size(2));
    let mut subscription = pool.listen(["a"]).await.unwrap();
    let mut expected = 0..;
    for drop in DROPS {
        for polls in 1..=3 {
            let number = expected.next().unwrap();
            let given_up = cut(subscription.next(), polls, drop, |poll| {
                // With the first wait: somebody waits when it comes.
                if poll == 1 {
                    notify(&server, "a", &number.to_string());
                }
            });
            let came = match given_up.await {
                Some(delivery) => delivery.unwrap(),
                None => next(&mut subscription).await,
            };
            assert_eq!(text(came), format!("a {number}"));
        }
    }
    assert!(subscription.next().now_or_never().is_none());
    // So is one that begins: the place is free again, and no session listens for nobody.
    for polls in 1..20 {
        for drop in DROPS {
            let _ = timeout(SECOND, cut(pool.listen(["b"]), polls, drop, |_| {})).await;
        }
    }
    until_status(&pool, |now| now.in_use == 1).await;
    let conn = pool.get().await.unwrap();
    let rows = conn.query("SELECT pg_listening_channels()", &[]).await.unwrap();
    assert!(rows.is_empty(), "{rows:?}");
}

/// In transaction mode the session that was told to listen is soon somebody else's, and the proxy
/// throws away what it is told.
#[tokio::test]
async fn a_subscription_through_a_proxy_that_changes_sessions_is_found_out() {
    let server = trusting_server(&[]);
    let bouncer = PgBouncer::start(&server, &[("pool_mode", "transaction")]);
    let (pool, events) = pool_of(Postgres::from_url(&bouncer.url()).unwrap(), |config| config);
    let subscription = pool.listen_with(["a"], quick()).await.unwrap();
    let mut other = pool.get().await.unwrap();
    let held = other.transaction().await.unwrap();
    // With the session that listens, the last one that was used.
    held.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(events.until_closed(1).await, [CloseReason::ProtocolError]);
    until(|| !subscription.is_connected()).await;
    let error = Error::NotListening("a".to_owned()).to_string();
    assert!(error.contains("a proxy gives each transaction another session"), "{error}");
}

#[tokio::test]
async fn the_time_limits_of_the_pool_are_not_for_a_subscription_to_notifications() {
    let server = trusting_server(&[]);
    let limit = SECOND;
    let timeouts = Timeouts::default().with_read(limit).with_operation(limit);
    let (pool, events) = pool(&server, |config| {
        config.with_timeouts(timeouts).with_hold_warning(limit).with_max_lifetime(limit)
    });
    let config = SubscriptionConfig::default().with_heartbeat(None);
    let mut subscription = pool.listen_with(["a"], config).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    notify(&server, "a", "1");
    assert_eq!(message(&mut subscription).await, "a 1");
    let told = events.all();
    assert!(!told.iter().any(|event| matches!(event, Event::HeldTooLong { .. })), "{told:?}");
    assert_eq!(events.closed(), []);
}
