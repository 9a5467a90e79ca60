//! Pools that find their master through Redis Sentinel: real servers and sentinels, which fail over.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livepool::{CloseReason, Delivery, Pool, Timeouts};
use livepool_redis::redis::AsyncCommands;
use livepool_redis::sentinel::{Sentinel, SentinelError};
use livepool_redis::{Redis as Adapter, Role};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::servers::{Redis, RedisSentinel};
use livepool_testkit::{Events, until_seen};

const NAME: &str = "cache";
const SECOND: Duration = Duration::from_secs(1);

/// A master with replicas.
struct Servers(Vec<Redis>);

impl Servers {
    fn start(replicas: usize) -> Self {
        let master = Redis::start();
        let replicas: Vec<_> = (0..replicas).map(|_| master.replica()).collect();
        Self(std::iter::once(master).chain(replicas).collect())
    }

    fn addrs(&self) -> Vec<String> {
        self.0.iter().map(Redis::addr).collect()
    }
}

fn pool(sentinel: &Sentinel, events: &Events) -> Pool<Adapter> {
    let timeouts = Timeouts::default().with_checkout(20 * SECOND);
    let redis = Adapter::from_url("redis://any").unwrap();
    let redis = redis.with_config(|config| config.with_max_size(4).with_timeouts(timeouts));
    sentinel.pool_with(redis, |builder| builder.observer(events.observer())).unwrap()
}

/// A write that was served, or was not.
#[derive(Debug, Clone)]
struct Write {
    /// When its checkout began, and when all was over.
    began: Instant,
    ended: Instant,
    /// Where it was made, if there was a connection.
    peer: Option<String>,
    error: Option<String>,
}

/// Four tasks that write for as long as this lives.
struct Writers {
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
    /// What each is waiting for; nothing once it has ended.
    waits: [Arc<Mutex<Option<String>>>; 4],
}

impl Writers {
    fn start(pool: &Pool<Adapter>) -> Self {
        let (stop, writes) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Write>>>::default());
        let waits = <[Arc<Mutex<Option<String>>>; 4]>::default();
        for (writer, waits) in waits.iter().cloned().enumerate() {
            let (pool, stop, writes) = (pool.clone(), Arc::clone(&stop), Arc::clone(&writes));
            let waits_for = move |what| *waits.lock().unwrap() = what;
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    waits_for(Some("a connection".to_owned()));
                    let (peer, error) = match pool.get().await {
                        Err(error) => (None, Some(error.to_string())),
                        Ok(mut conn) => {
                            let peer = conn.peer_addr().to_string();
                            waits_for(Some(format!("an answer by {peer} on {}", conn.id())));
                            let written = conn.set::<_, _, ()>(format!("w{writer}"), "1").await;
                            (Some(peer), written.err().map(|error| error.to_string()))
                        }
                    };
                    writes.lock().unwrap().push(Write {
                        began,
                        ended: Instant::now(),
                        peer,
                        error,
                    });
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                drop(pool);
                waits_for(None);
            });
        }
        Self { stop, writes, waits }
    }

    /// Waits until each has ended, and has nothing of this pool.
    async fn end(self, pool: &Pool<Adapter>) {
        self.stop.store(true, Ordering::SeqCst);
        let left = || {
            let waits: Vec<_> =
                self.waits.iter().filter_map(|wait| wait.lock().unwrap().clone()).collect();
            (waits, pool.report())
        };
        until_seen(left, |(waits, _)| waits.is_empty()).await;
    }

    fn all(&self) -> Vec<Write> {
        self.writes.lock().unwrap().clone()
    }

    /// Waits until one was served by a server that is not this one.
    async fn until_served_elsewhere(&self, old: &str) -> Write {
        let find = || {
            let served = |write: &&Write| {
                write.error.is_none() && write.peer.as_deref().is_some_and(|peer| peer != old)
            };
            self.all().iter().find(served).cloned()
        };
        let deadline = Instant::now() + 30 * SECOND;
        loop {
            if let Some(write) = find() {
                return write;
            }
            let last: Vec<_> = self.all().into_iter().rev().take(5).collect();
            assert!(Instant::now() < deadline, "no write was served elsewhere: {last:#?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// When the first of these sentinels published a switch.
async fn switches(sentinels: &[RedisSentinel], password: &str) -> Arc<Mutex<Option<Instant>>> {
    let first = Arc::<Mutex<Option<Instant>>>::default();
    for sentinel in sentinels {
        let url = format!("redis://{password}{}", sentinel.addr());
        let pool = Adapter::from_url(url).unwrap().pool().unwrap();
        let mut subscription = pool.listen(["+switch-master"]).await.unwrap();
        let first = Arc::clone(&first);
        tokio::spawn(async move {
            while let Some(delivery) = subscription.next().await {
                if matches!(delivery, Delivery::Message(_)) {
                    first.lock().unwrap().get_or_insert_with(Instant::now);
                }
            }
        });
    }
    first
}

/// How many pools follow this sentinel: on two channels each. (This test has one.)
fn followers(sentinel: &RedisSentinel) -> usize {
    sentinel.cli(&["CLIENT", "LIST"]).lines().filter(|line| line.contains(" sub=2 ")).count()
}

/// What a failover cost.
fn told(what: &str, writes: &[Write], switched: Instant, first: &Write, old: &str) {
    let after = |write: &&Write| write.began > switched;
    let old_late: Vec<_> = writes
        .iter()
        .filter(after)
        // Those that were handed out at the moment of the word itself are not counted.
        .filter(|write| write.began > switched + SECOND / 5 && write.peer.as_deref() == Some(old))
        .collect();
    let errors = writes.iter().filter(|write| write.error.is_some()).count();
    let late_errors = writes.iter().filter(after).filter(|write| write.error.is_some()).count();
    let took = first.ended.saturating_duration_since(switched);
    println!(
        "{what}: first write at the new master {took:?} after the word of the switch, {errors} writes failed \
         ({late_errors} that began after it) of {}",
        writes.len(),
    );
    // A dial to a server that stands still has 5 s, and nobody is to wait for the end of one.
    assert!(took < 3 * SECOND, "{what}: {took:?}");
    assert!(old_late.is_empty(), "handed out after the switch: {old_late:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_is_asked_for_is_followed_and_the_watch_ends_with_the_pool() {
    let servers = Servers::start(2);
    let sentinels = RedisSentinel::three(NAME, servers.0[0].port(), 2, &[]);
    let sentinel = Sentinel::new(NAME, sentinels.iter().map(RedisSentinel::addr)).unwrap();
    let (events, read_events) = (Events::default(), Events::default());
    let writes = pool(&sentinel, &events);
    let reads = pool(&sentinel.clone().replicas(), &read_events);
    let old = servers.0[0].addr();
    assert_eq!(writes.get().await.unwrap().peer_addr().to_string(), old);
    // Two of them, on different replicas.
    let (first, second) = (reads.get().await.unwrap(), reads.get().await.unwrap());
    let mut seen = [first.peer_addr().to_string(), second.peer_addr().to_string()];
    seen.sort_unstable();
    let mut replicas = servers.addrs().split_off(1);
    replicas.sort_unstable();
    assert_eq!(seen.to_vec(), replicas);
    drop((first, second));
    let switched = switches(&sentinels, "").await;
    // Both pools.
    until_seen(|| sentinels.each_ref().map(followers), |now| *now == [2; 3]).await;
    let writers = Writers::start(&writes);
    tokio::time::sleep(SECOND / 5).await;
    assert_eq!(sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]), "OK");
    let first = writers.until_served_elsewhere(&old).await;
    let at = until_seen(|| *switched.lock().unwrap(), Option::is_some).await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    told("asked for", &writers.all(), at, &first, &old);
    writers.end(&writes).await;
    // A word, or READONLY before it.
    assert!(events.closed().contains(&CloseReason::Invalidated), "{:?}", events.closed());
    assert_ne!(reads.get().await.unwrap().peer_addr().to_string(), first.peer.unwrap());
    drop((writes, reads));
    until_seen(|| sentinels.each_ref().map(followers), |now| *now == [0; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_is_replaced_though_the_only_sentinel_that_was_given_dies_with_it()
{
    let mut servers = Servers::start(1);
    let mut sentinels = RedisSentinel::three(
        NAME,
        servers.0[0].port(),
        1,
        &["requirepass secret", "sentinel sentinel-pass secret"],
    );
    let url = format!("redis://:secret@{}", sentinels[0].addr());
    let sentinel = Sentinel::new(NAME, [url]).unwrap();
    let events = Events::default();
    let pool = pool(&sentinel, &events);
    let old = servers.0[0].addr();
    assert_eq!(pool.get().await.unwrap().peer_addr().to_string(), old);
    // Those that were not given are found and followed.
    until_seen(|| sentinels.each_ref().map(followers), |now| *now == [1; 3]).await;
    let switched = switches(&sentinels[1..], ":secret@").await;
    let writers = Writers::start(&pool);
    tokio::time::sleep(SECOND / 5).await;
    sentinels[0].kill_9();
    servers.0[0].kill_9();
    let first = writers.until_served_elsewhere(&old).await;
    let at = until_seen(|| *switched.lock().unwrap(), Option::is_some).await.unwrap();
    told("killed", &writers.all(), at, &first, &old);
    let late = writers.all().into_iter().filter(|write| write.began > first.ended);
    assert_eq!(late.filter(|write| write.error.is_some()).count(), 0, "all is well again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_stands_still_is_left_at_the_word_of_the_sentinels_by_those_who_use_it_too() {
    let servers = Servers::start(1);
    let sentinels = RedisSentinel::three(NAME, servers.0[0].port(), 1, &[]);
    let sentinel = Sentinel::new(NAME, sentinels.iter().map(RedisSentinel::addr)).unwrap();
    let sentinel = sentinel.with_timeout(10 * SECOND);
    let events = Events::default();
    let pool = pool(&sentinel, &events);
    let old = servers.0[0].addr();
    let mut waiting = pool.get().await.unwrap();
    assert_eq!(waiting.peer_addr().to_string(), old);
    let switched = switches(&sentinels, "").await;
    until_seen(|| sentinels.each_ref().map(followers), |now| *now == [1; 3]).await;
    // The two others are a majority: nobody waits for one that stands still.
    sentinels[1].freeze();
    let began = Instant::now();
    pool.invalidate();
    drop(pool.get().await.unwrap());
    assert!(began.elapsed() < 5 * SECOND, "a silent sentinel is waited for: {:?}", began.elapsed());
    sentinels[1].thaw();
    let writers = Writers::start(&pool);
    tokio::time::sleep(SECOND / 5).await;
    servers.0[0].freeze();
    // Somebody waits for an answer that does not come.
    let waits = tokio::spawn(async move {
        let said = waiting.blpop::<_, Option<(String, String)>>("jobs", 0.0).await;
        (said.unwrap_err().to_string(), Instant::now())
    });
    let first = writers.until_served_elsewhere(&old).await;
    let at = until_seen(|| *switched.lock().unwrap(), Option::is_some).await.unwrap();
    told("stands still", &writers.all(), at, &first, &old);
    let (error, ended) = tokio::time::timeout(10 * SECOND, waits).await.unwrap().unwrap();
    let told = ended.saturating_duration_since(at);
    println!("who waited was told {told:?} after the word: {error}");
    assert!(told < 3 * SECOND && error.contains("interrupted"), "{told:?}: {error}");
    // When it goes on it is a master that nobody knows, until the sentinels have it follow.
    servers.0[0].thaw();
    tokio::time::sleep(SECOND).await;
    let late = writers.all().into_iter().filter(|write| write.began > first.ended);
    let late: Vec<_> = late
        .filter(|write| write.error.is_some() || write.peer.as_deref() == Some(old.as_str()))
        .collect();
    assert!(late.is_empty(), "{late:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_out_of_date_is_harmless_and_errors_name_who_said_what() {
    let servers = Servers::start(1);
    let sentinel = RedisSentinel::start(NAME, servers.0[0].port(), 1, &[]);
    // Behind its back the roles change.
    assert_eq!(servers.0[1].cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    let port = servers.0[1].port().to_string();
    assert_eq!(servers.0[0].cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    let redis = || Adapter::from_url("redis://any").unwrap().with_role(Role::Any);
    let found = Sentinel::new(NAME, [sentinel.addr()]).unwrap();
    let timeouts = Timeouts::default().with_checkout(3 * SECOND);
    let adapter = redis().with_config(|config| config.with_timeouts(timeouts));
    let pool = found.pool(adapter).unwrap();
    let error = pool.get().await.unwrap_err().to_string();
    assert!(error.contains("not a master, and one is wanted"), "{error}");
    assert!(error.contains(&servers.0[0].addr()) && error.contains("slave"), "{error}");
    // Whoever goes, at whatever await, leaves nothing behind.
    for polls in 1..=6 {
        for drop in DROPS {
            let adapter = redis().with_config(|config| config.with_timeouts(timeouts));
            let pool = found.pool(adapter).unwrap();
            let _ = tokio::time::timeout(SECOND / 10, cut(pool.get(), polls, drop, |_| {})).await;
            assert_eq!(pool.status().waiting, 0);
        }
    }
    // A name that it does not know.
    let unknown = Sentinel::new("sessions", [sentinel.addr()]).unwrap();
    let pool = unknown.pool(redis()).unwrap();
    let began = Instant::now();
    let error = pool.get().await.unwrap_err();
    assert!(began.elapsed() < 5 * SECOND, "that is told at once: {:?}", began.elapsed());
    let said: &SentinelError = error.connect_error().unwrap().find().unwrap();
    assert_eq!(said.master(), "sessions");
    let all: Vec<_> = said.said().collect();
    assert_eq!(all, [(sentinel.addr().as_str(), "it knows no such master")]);
    // One that says nothing at all.
    sentinel.freeze();
    let silent = Sentinel::new(NAME, [sentinel.addr()]).unwrap().with_timeout(SECOND / 4);
    let adapter = redis()
        .with_config(|config| config.with_timeouts(Timeouts::default().with_checkout(2 * SECOND)));
    let pool = silent.pool(adapter).unwrap();
    let error = pool.get().await.unwrap_err();
    let said: &SentinelError = error.connect_error().unwrap().find().unwrap();
    assert_eq!(said.said().count(), 1, "{said}");
    assert!(error.to_string().contains(&sentinel.addr()), "{error}");
}
