//! Connections to a real Redis that many callers use at a time.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::{CloseReason, Config, Event, Pool, Timeouts};
use livepool_redis::redis::aio::ConnectionLike;
use livepool_redis::redis::{AsyncCommands, Cmd, RedisError, RedisResult, Value, cmd, pipe};
use livepool_redis::{Redis as Adapter, request_lost};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, ends, patient, until, until_status};
use tokio::task::JoinSet;

const MS: Duration = Duration::from_millis(1);

fn pool_of(redis: &Redis, change: impl FnOnce(Config) -> Config) -> (Pool<Adapter>, Events) {
    let events = Events::default();
    let adapter = Adapter::from_url(redis.url()).unwrap();
    let builder = Pool::builder(change(patient(adapter.config()))).observer(events.observer());
    (builder.protocol(adapter).build().unwrap(), events)
}

fn pool(redis: &Redis) -> (Pool<Adapter>, Events) {
    pool_of(redis, |config| config.with_max_size(4))
}

#[tokio::test]
async fn commands_pipelines_and_atomic_pipelines_work_on_a_share() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut shares = Vec::new();
    for _ in 0..16 {
        shares.push(pool.share().await.unwrap());
    }
    let sets = shares.iter_mut().enumerate().map(|(number, share)| async move {
        let _: () = share.set(format!("key {number}"), number).await.unwrap();
        let mut atomic = pipe();
        atomic.atomic().incr(format!("key {number}"), 1).ignore().get(format!("key {number}"));
        let (after,): (usize,) = atomic.query_async(share).await.unwrap();
        assert_eq!(after, number + 1);
    });
    futures_util::future::join_all(sets).await;
    assert_eq!((pool.status().shared, pool.status().shares), (1, 16));
    let mut plain = pipe();
    plain.get("key 1").get("key 2");
    let both: (usize, usize) = plain.query_async(&mut shares[0]).await.unwrap();
    assert_eq!(both, (2, 3));
    // An error of one is his own.
    let wrong: RedisResult<()> = cmd("LPUSH").arg("key 1").arg(1).query_async(&mut shares[1]).await;
    assert!(wrong.unwrap_err().to_string().contains("WRONGTYPE"));
    drop(shares);
    until_status(&pool, |now| now.idle == 1).await;
    let ended = |event: &Event| matches!(event, Event::SharingEnded { .. });
    assert_eq!(
        (events.closed(), events.all().iter().filter(|event| ended(event)).count()),
        (vec![], 0)
    );
}

#[tokio::test]
async fn what_concerns_the_connection_or_may_wait_is_refused_before_it_is_sent() {
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let mut share = pool.share().await.unwrap();
    let calls = || redis.cli(&["INFO", "commandstats"]);
    for text in [
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH key",
        "UNWATCH",
        "SELECT 1",
        "AUTH secret",
        "HELLO 3",
        "RESET",
        "READONLY",
        "ASKING",
        "SUBSCRIBE news",
        "PSUBSCRIBE n*",
        "SSUBSCRIBE news",
        "UNSUBSCRIBE",
        "MONITOR",
        "CLIENT REPLY OFF",
        "client reply on",
        "CLIENT SETNAME me",
        "CLIENT TRACKING ON",
        "BLPOP list 0",
        "brpop list 0",
        "BLMOVE a b LEFT RIGHT 0",
        "BLMPOP 0 1 list LEFT",
        "BZPOPMIN set 0",
        "WAIT 1 0",
        "WAITAOF 1 0 0",
        "XREAD BLOCK 0 STREAMS s $",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
        "XREADGROUP COUNT 1 BLOCK 0 GROUP g c STREAMS s >",
        "SCRIPT DEBUG YES",
        "CLIENT CAPA redirect",
        "CLIENT IMPORT-SOURCE ON",
        "QUIT",
        "SYNC",
    ] {
        let mut words = text.split(' ');
        let mut command = cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        let named = |error: RedisError, within: &str| {
            let (error, name) = (error.to_string(), text.split(' ').next().unwrap().to_uppercase());
            assert!(
                error.contains(&name) && error.contains("Pool::get()"),
                "{within}{text}: {error}"
            );
        };
        named(command.query_async::<Value>(&mut share).await.unwrap_err(), "");
        let mut within = pipe();
        within.get("key").add_command(command);
        named(within.query_async::<Value>(&mut share).await.unwrap_err(), "in a pipeline: ");
    }
    // Nobody answers a command without words, and a wrong count would take the answers of others.
    let mut empty = pipe();
    empty.get("key").add_command(Cmd::new());
    assert!(empty.query_async::<Value>(&mut share).await.is_err());
    let mut one = pipe();
    one.get("key");
    let mut atomic = pipe();
    atomic.atomic().get("key").get("key");
    for (pipeline, offset, count) in [(&one, 0, 2), (&one, 2, 1), (&atomic, 0, 2), (&atomic, 3, 2)]
    {
        let wrong = share.req_packed_commands(pipeline, offset, count);
        let wrong =
            tokio::time::timeout(Duration::from_secs(20), wrong).await.expect("it is refused");
        assert!(wrong.is_err(), "{offset}, {count}: {wrong:?}");
    }
    let stats = calls();
    for sent in ["multi", "watch", "select", "subscribe", "blpop", "monitor", "quit", "get"] {
        assert!(!stats.contains(&format!("cmdstat_{sent}:")), "{sent} was sent: {stats}");
    }
    let nothing: Option<String> = share.get("key").await.unwrap();
    assert_eq!((nothing, events.closed()), (None, vec![]));
    assert_eq!(pool.status().shared, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_shared_commands_that_are_given_up_at_random_cross_no_answers() {
    const CALLERS: usize = 128;
    const EACH: usize = 100;
    let seed = livepool_testkit::seed::seed();
    let redis = Redis::start();
    let (pool, events) = pool(&redis);
    let given_up = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let (pool, given_up) = (pool.clone(), Arc::clone(&given_up));
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(caller as u64));
        tasks.spawn(async move {
            for number in 0..EACH {
                let tag = format!("{caller}-{number}");
                let mut share = pool.share().await.unwrap();
                let echo = |tag: &str| -> Cmd { cmd("ECHO").arg(tag).to_owned() };
                let mut both = pipe();
                both.atomic().add_command(echo(&tag)).add_command(echo(&tag));
                let polls = if rng.u8(0..3) == 0 { rng.usize(0..3) } else { usize::MAX };
                let drop_when = DROPS[rng.usize(0..2)];
                let answer = if rng.bool() {
                    let command = echo(&tag);
                    let one = command.query_async::<String>(&mut share);
                    cut(one, polls, drop_when, |_| {}).await
                } else {
                    let two = both.query_async::<(String, String)>(&mut share);
                    let two = cut(two, polls, drop_when, |_| {}).await;
                    two.map(|two| {
                        two.map(|(one, other)| {
                            assert_eq!(one, other);
                            one
                        })
                    })
                };
                match answer {
                    Some(answer) => assert_eq!(answer.unwrap(), tag, "seed {seed}"),
                    None => _ = given_up.fetch_add(1, Ordering::SeqCst),
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!("{} of {} given up, seed {seed}", given_up.load(Ordering::SeqCst), CALLERS * EACH);
    assert!(given_up.load(Ordering::SeqCst) > CALLERS * EACH / 20);
    until_status(&pool, |now| now.shares + now.shared + now.in_use == 0).await;
    assert_eq!(events.closed(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_a_shared_connection_under_256_commands_ends_each_of_them_once() {
    const COMMANDS: usize = 256;
    let mut redis = Redis::start();
    let (pool, events) = pool_of(&redis, |config| config.with_max_size(1));
    let mut tasks = JoinSet::new();
    drop(pool.get().await.unwrap());
    // It answers nobody meanwhile.
    redis.cli(&["CLIENT", "PAUSE", "60000", "ALL"]);
    for number in 0..COMMANDS {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut share = pool.share().await.unwrap();
            share.set::<_, _, ()>(format!("key {number}"), 1).await
        });
    }
    until_status(&pool, |now| now.shares == COMMANDS).await;
    tokio::time::sleep(50 * MS).await;
    redis.kill_9();
    let mut failed = 0;
    while let Some(ended) = ends(tasks.join_next()).await {
        let error = ended.unwrap().unwrap_err();
        let lost = request_lost(&error).unwrap_or_else(|| panic!("{error:?}"));
        assert!(
            lost.maybe_done && error.to_string().contains("may have been carried out"),
            "{error}"
        );
        failed += 1;
    }
    assert_eq!(failed, COMMANDS);
    until(|| events.closed().len() == 1).await;
    let reasons = [CloseReason::PeerClosed, CloseReason::Reset];
    assert!(reasons.contains(&events.closed()[0]), "{:?}", events.closed());
}

/// How often the server has read from a client, by its own count.
fn reads(redis: &Redis) -> usize {
    let stats = redis.cli(&["INFO", "stats"]);
    let count = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    count.unwrap_or_else(|| panic!("{stats}")).trim().parse().unwrap()
}

// The client's task runs as soon as the first caller has woken it, before the others have asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_callers_who_share_ask_at_the_same_time_goes_out_together() {
    const CALLERS: usize = 32;
    const ROUNDS: usize = 10;
    let redis = Redis::start();
    let (pool, _) = pool(&redis);
    let keeps_it_shared = pool.share().await.unwrap();
    let before = reads(&redis);
    let all = async move {
        for _ in 0..ROUNDS {
            let ask = |pool: Pool<Adapter>| async move {
                pool.share().await.unwrap().incr::<_, _, u64>("count", 1).await.unwrap()
            };
            let asked: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(ask(pool.clone()))).collect();
            for each in asked {
                each.await.unwrap();
            }
        }
    };
    // In the runtime's own thread.
    tokio::spawn(all).await.unwrap();
    let reads = reads(&redis) - before;
    println!("{} commands in {reads} reads", ROUNDS * CALLERS);
    // A busy machine may have a round in several.
    assert!(reads <= ROUNDS * CALLERS / 4, "{reads}");
    drop(keeps_it_shared);
}

#[tokio::test]
async fn a_command_that_takes_too_long_costs_its_own_caller_and_no_connection() {
    let redis = Redis::start();
    let timeouts = Timeouts::default().with_operation(2000 * MS);
    let (pool, events) = pool_of(&redis, |config| config.with_max_size(1).with_timeouts(timeouts));
    let mut share = pool.share().await.unwrap();
    let slow: RedisResult<()> = cmd("DEBUG").arg("SLEEP").arg("2.5").query_async(&mut share).await;
    let error = slow.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("timeouts.operation"), "{error}");
    drop(share);
    tokio::time::sleep(1000 * MS).await;
    let answer: String = {
        let mut share = ends(pool.share()).await.unwrap();
        cmd("ECHO").arg("mine").query_async(&mut share).await.unwrap()
    };
    assert_eq!((answer.as_str(), events.closed()), ("mine", vec![]));
}
