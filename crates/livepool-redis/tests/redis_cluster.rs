//! Redis Cluster: real nodes, whose slots move and whose masters are killed, stand still, and are replaced.
#![cfg(target_os = "linux")]

#[path = "redis_cluster/faults.rs"]
mod faults;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use livepool::{CloseReason, Config};
use livepool_redis::cluster::Cluster;
use livepool_redis::fuzzed::first_key;
use livepool_redis::redis::{AsyncCommands, RedisResult, cmd, pipe};
use livepool_redis::request_lost;
use livepool_testkit::crossing::requests;
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::servers::{Redis, RedisCluster};
use livepool_testkit::{Events, until_seen, until_status};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cluster(servers: &RedisCluster, events: &Events) -> Cluster {
    cluster_with(servers, events, |config| config)
}

fn cluster_with(
    servers: &RedisCluster,
    events: &Events,
    change: impl FnOnce(Config) -> Config,
) -> Cluster {
    let events = events.clone();
    let builder = Cluster::builder(servers.addrs().into_iter().take(2)).unwrap();
    let builder = builder.with_config(|config| change(config.with_max_size(4)));
    builder.with_pools(move |pool| pool.observer(events.observer())).build().unwrap()
}

/// The slot of a key, as a node says it.
fn slot_of(servers: &RedisCluster, key: &str) -> u16 {
    // The last one is killed by no test.
    servers.nodes.last().unwrap().cli(&["CLUSTER", "KEYSLOT", key]).parse().unwrap()
}

async fn served(cluster: &Cluster) -> Vec<(String, usize)> {
    let mut nodes: Vec<_> = cluster
        .nodes()
        .await
        .unwrap()
        .iter()
        .map(|node| (node.addr().to_owned(), node.slots()))
        .collect();
    nodes.sort_unstable();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_pipelines_go_to_the_nodes_of_their_keys() {
    let servers = RedisCluster::start(3, false);
    let events = Events::default();
    let cluster = cluster(&servers, &events);
    let mut conn = cluster.clone();
    for number in 0..100 {
        conn.set::<_, _, ()>(format!("k{number}"), number).await.unwrap();
    }
    let mut all = pipe();
    for number in 0..100 {
        all.get(format!("k{number}"));
    }
    let values: Vec<usize> = all.query_async(&mut conn).await.unwrap();
    assert_eq!(values, (0..100).collect::<Vec<_>>());
    let nodes = served(&cluster).await;
    let mut addrs = servers.addrs();
    addrs.sort_unstable();
    assert_eq!(nodes.iter().map(|(addr, _)| addr.clone()).collect::<Vec<_>>(), addrs);
    assert_eq!(nodes.iter().map(|(_, slots)| slots).sum::<usize>(), 16_384);
    // Metrics, events and logs of each have a name, of which there are as many as nodes.
    let pools = cluster.nodes().await.unwrap();
    let names: std::collections::BTreeSet<_> =
        pools.iter().map(|node| node.pool().name()).collect();
    assert!(names.len() == 3 && names.iter().all(|name| name.starts_with("cluster")), "{names:?}");
    // Every node has a part of them, and one connection each was enough.
    let keys = servers.nodes.iter().map(|node| node.cli(&["DBSIZE"]).parse::<usize>().unwrap());
    assert!(keys.clone().all(|count| count > 0) && keys.sum::<usize>() == 100);
    // A transaction is of one slot.
    let done: (u32, u32) =
        pipe().atomic().incr("{a}x", 1).incr("{a}y", 2).query_async(&mut conn).await.unwrap();
    assert_eq!(done, (1, 2));
    let mut wide = pipe();
    wide.atomic().incr("{a}x", 1).incr("{b}x", 1);
    let error = wide.query_async::<(u32, u32)>(&mut conn).await.unwrap_err().to_string();
    assert!(error.contains("several slots"), "{error}");
    // What the server refuses is the caller's.
    let error = conn.mget::<_, Vec<String>>(&["{a}x", "{b}x"]).await.unwrap_err();
    assert_eq!(error.code(), Some("CROSSSLOT"));
    let error = cmd("FLUSHALL").query_async::<()>(&mut conn).await.unwrap_err().to_string();
    assert!(error.contains("Cluster::nodes()"), "{error}");
    let pong: String = cmd("PING").query_async(&mut conn).await.unwrap();
    assert_eq!(pong, "PONG");
    // Scripts by their keys, and what needs a connection of its own.
    let said: String = cmd("EVAL")
        .arg("return redis.call('GET', KEYS[1])")
        .arg(1)
        .arg("k7")
        .query_async(&mut conn)
        .await
        .unwrap();
    assert_eq!(said, "7");
    conn.rpush::<_, _, ()>("jobs", "first").await.unwrap();
    let mut own = cluster.pool_for("jobs").await.unwrap().get().await.unwrap();
    let job: (String, String) = own.blpop("jobs", 1.0).await.unwrap();
    assert_eq!(job.1, "first");
    cmd("WATCH").arg("{a}x").query_async::<()>(&mut conn).await.unwrap_err();
    drop(own);
    cluster.close();
    let error = conn.get::<_, String>("k1").await.unwrap_err().to_string();
    assert!(error.contains("closed"), "{error}");
}

/// Ours is a table, and the server's word counts.
#[test]
fn a_command_goes_where_the_server_says_its_first_key_is() {
    let servers = Redis::start();
    let mut wrong = Vec::new();
    for text in [
        "BITOP AND k a b",
        "ZUNION 2 k b",
        "ZINTERCARD 1 k",
        "SINTERCARD 1 k",
        "LMPOP 1 k LEFT",
        "ZMPOP 1 k MIN",
        "EVAL s 1 k",
        "EVALSHA s 2 k b",
        "FCALL f 1 k",
        "XREAD COUNT 1 STREAMS k 0",
        "XREADGROUP GROUP g c STREAMS k >",
        "XGROUP CREATE k g 0",
        "XINFO STREAM k",
        "OBJECT ENCODING k",
        "MEMORY USAGE k",
    ] {
        check(&servers, text, &mut wrong);
    }
    // Whatever the server knows: its table says where the first key of each command is.
    let mut count = 0;
    for name in servers.cli(&["COMMAND", "LIST"]).lines() {
        let said = servers.cli(&["COMMAND", "INFO", name]);
        // Name, arity, flags, first key: redis-cli prints numbers so.
        let lines: Vec<&str> = said.lines().collect();
        let (arity, first) = command_info(&lines);
        let mut words: Vec<String> = name.split('|').map(str::to_owned).collect();
        words
            .extend((words.len()..arity.unsigned_abs().max(4) as usize).map(|at| format!("w{at}")));
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let ours = first_key(&words);
        count += 1;
        let theirs = (first > 0).then_some(first as usize);
        // Where keys are counted, or behind a word, there is no fixed place: those are above.
        let is_counted = said.contains("movablekeys");
        // Where there is none to ask, the word behind is no key of anything.
        let is_help = theirs.is_none() && name.ends_with("|help");
        if ours != theirs && !is_counted && !is_help && !EXCEPTIONS.contains(&name) {
            wrong.push(format!("{name}: ours is {ours:?}, the server's {theirs:?}"));
        }
    }
    assert!(count > 200, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Some have keys in their subcommands, of which the server says so for each; some are about a connection
/// though they have a key, and refused where connections are shared.
const EXCEPTIONS: [&str; 7] =
    ["object", "memory", "xgroup", "xinfo", "ssubscribe", "sunsubscribe", "restore-asking"];

fn check(servers: &Redis, text: &str, wrong: &mut Vec<String>) {
    let words: Vec<&str> = text.split(' ').collect();
    let said = servers.cli(&[&["COMMAND", "GETKEYS"][..], &words].concat());
    let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let ours = first_key(&bytes).map(|at| words[at]);
    if said.lines().next() != Some("k") || ours != Some("k") {
        wrong.push(format!("{text}: ours is {ours:?}, the server says {said}"));
    }
}

/// The arity, and the place of the first key.
fn command_info(lines: &[&str]) -> (i64, i64) {
    let arity = lines[1].parse().unwrap_or_else(|_| panic!("{lines:?}"));
    // The flags are words, and the numbers come behind them.
    let first = lines[2..].iter().find_map(|line| line.parse().ok());
    (arity, first.unwrap_or_else(|| panic!("{lines:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_half_moved_is_served_by_both_nodes_and_then_by_the_new_one() {
    let servers = RedisCluster::start(2, false);
    let events = Events::default();
    let cluster = cluster(&servers, &events);
    let tag = key_of(&servers, 0);
    let slot = slot_of(&servers, &tag);
    let key = |number: usize| format!("{{{tag}}}{number}");
    let mut conn = cluster.clone();
    for number in 0..4 {
        conn.set::<_, _, ()>(key(number), number).await.unwrap();
    }
    let before = served(&cluster).await;
    servers.begin_to_move(slot, 0, 1);
    // Two of four are there.
    assert_eq!(servers.move_keys(slot, 0, 1, 2), 2);
    for number in 0..4 {
        assert_eq!(conn.get::<_, usize>(key(number)).await.unwrap(), number);
        let twice: (usize, usize) =
            pipe().get(key(number)).get(key(number)).query_async(&mut conn).await.unwrap();
        assert_eq!(twice, (number, number));
        let mut both = pipe();
        both.atomic().incr(key(number), 10).decr(key(number), 10);
        let both: (usize, usize) = both.query_async(&mut conn).await.unwrap();
        assert_eq!(both, (number + 10, number));
    }
    // One that nobody has is made where the slot goes to.
    conn.set::<_, _, ()>(key(9), 9).await.unwrap();
    assert_eq!(served(&cluster).await, before, "the slot has not moved yet");
    // All together are nowhere, until they are.
    let all = {
        let (mut conn, keys) = (cluster.clone(), [key(0), key(1), key(2), key(3), key(9)]);
        tokio::spawn(async move { conn.mget::<_, Vec<usize>>(&keys).await })
    };
    tokio::time::sleep(SECOND / 10).await;
    assert!(!all.is_finished(), "TRYAGAIN is tried again");
    assert_eq!(servers.move_keys(slot, 0, 1, 10), 2);
    assert_eq!(all.await.unwrap().unwrap(), [0, 1, 2, 3, 9]);
    servers.end_move(slot, 0, 1);
    assert_eq!(conn.get::<_, usize>(key(0)).await.unwrap(), 0);
    let now = served(&cluster).await;
    let of = |all: &[(String, usize)], node: usize| {
        all.iter().find(|(addr, _)| *addr == servers.nodes[node].addr()).unwrap().1
    };
    assert_eq!(of(&now, 1), of(&before, 1) + 1);
    // What was asked for in between has left nothing behind on the connections.
    assert_eq!(events.closed(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_dropped_at_any_await_leaves_nothing_behind() {
    let servers = RedisCluster::start(2, false);
    let events = Events::default();
    let warm = cluster(&servers, &events);
    let tag = key_of(&servers, 0);
    let (here, gone) = (format!("{{{tag}}}here"), format!("{{{tag}}}gone"));
    let other = key_of(&servers, 1);
    let mut conn = warm.clone();
    conn.set::<_, _, ()>(&gone, "gone").await.unwrap();
    let slot = slot_of(&servers, &tag);
    servers.begin_to_move(slot, 0, 1);
    servers.move_keys(slot, 0, 1, 10);
    for polls in 1..=12 {
        for drop in DROPS {
            // From the first question on; and of one that knows the slots.
            let cold = cluster(&servers, &events);
            for cluster in [&cold, &warm] {
                let mut conn = cluster.clone();
                let one = cut(conn.get::<_, Option<String>>(&gone), polls, drop, |_| {}).await;
                assert!(one.is_none_or(|said| said.unwrap().as_deref() == Some("gone")));
                let mut two = pipe();
                two.set(&other, "other").get(&gone).get(&other);
                let two = two.query_async::<(String, String, String)>(&mut conn);
                let said = cut(two, polls, drop, |_| {}).await.map(Result::unwrap);
                assert!(said.is_none_or(|(_, gone, other)| (&*gone, &*other) == ("gone", "other")));
                let mut all = pipe();
                all.atomic().get(&gone).get(&gone);
                let all = all.query_async::<(String, String)>(&mut conn);
                let said = cut(all, polls, drop, |_| {}).await.map(Result::unwrap);
                assert!(said.is_none_or(|(first, second)| (&*first, &*second) == ("gone", "gone")));
            }
            let mut conn = cold;
            let said: (String, Option<String>) =
                pipe().get(&gone).get(&here).query_async(&mut conn).await.unwrap();
            assert_eq!(said, ("gone".to_owned(), None));
        }
    }
    for node in warm.nodes().await.unwrap() {
        until_status(node.pool(), |now| now.in_use == 0 && now.waiting == 0).await;
    }
    let is_theirs = |reason: &CloseReason| *reason != CloseReason::PoolClosed;
    assert_eq!(events.closed().into_iter().filter(is_theirs).collect::<Vec<_>>(), []);
    // With the last handle all of it ends.
    drop((warm, conn));
    let clients = || {
        let of = |node: &Redis| {
            let all = node.cli(&["CLIENT", "LIST", "TYPE", "normal"]);
            // Not who asks, nor the node that has moved keys.
            let others = all.lines().filter(|line| !line.contains("cmd=client"));
            others.filter(|line| !line.contains("cmd=restore")).count()
        };
        servers.nodes.iter().map(of).sum::<usize>()
    };
    until_seen(clients, |count| *count == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_slots_move_under_load_and_callers_go_away_nobody_gets_anothers_answer() {
    let servers = Arc::new(RedisCluster::start(3, false));
    let events = Events::default();
    let cluster = cluster(&servers, &events);
    // 64 keys in each of 8 slots, all of one node.
    let tags: Vec<String> = (0..)
        .map(|number| format!("t{number}"))
        .filter(|tag| servers.master_of(slot_of(&servers, tag)) == 0)
        .take(8)
        .collect();
    let mut conn = cluster.clone();
    for tag in &tags {
        let mut all = pipe();
        for number in 0..64 {
            all.set(format!("{{{tag}}}{number}"), 0).ignore();
        }
        all.exec_async(&mut conn).await.unwrap();
    }
    let is_over = Arc::<AtomicBool>::default();
    let rounds = Arc::<AtomicUsize>::default();
    let mover = {
        let (servers, is_over, tags) = (Arc::clone(&servers), Arc::clone(&is_over), tags.clone());
        let rounds = Arc::clone(&rounds);
        std::thread::spawn(move || {
            let slots: Vec<u16> = tags.iter().map(|tag| slot_of(&servers, tag)).collect();
            let (mut from, mut to) = (0, 1);
            while !is_over.load(Ordering::SeqCst) || rounds.load(Ordering::SeqCst) == 0 {
                for slot in &slots {
                    servers.begin_to_move(*slot, from, to);
                    // In parts, so that some keys are here and others there.
                    while servers.move_keys(*slot, from, to, 24) > 0 {}
                    servers.end_move(*slot, from, to);
                }
                (from, to) = (to, (to + 1) % 3);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let began = Instant::now();
    let errors = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tally = {
        let (cluster, tags, errors) = (cluster.clone(), tags.clone(), Arc::clone(&errors));
        requests(10_000, move |tag| {
            let mut conn = cluster.clone();
            let name = tags[tag % tags.len()].clone();
            let errors = Arc::clone(&errors);
            async move {
                let key = format!("{{{name}}}{}", tag % 64);
                let text = tag.to_string();
                let said: RedisResult<String> = match tag % 3 {
                    0 => cmd("ECHO").arg(&text).query_async(&mut conn).await,
                    // Its key exists, so that it is asked for where it is.
                    1 => {
                        let script = "redis.call('INCR', KEYS[1]) return ARGV[1]";
                        cmd("EVAL")
                            .arg(script)
                            .arg(1)
                            .arg(key)
                            .arg(&text)
                            .query_async(&mut conn)
                            .await
                    }
                    _ => {
                        let mut both = pipe();
                        both.atomic().incr(&key, 1).ignore();
                        both.cmd("EVAL").arg("return ARGV[1]").arg(1).arg(&key).arg(&text);
                        both.query_async::<(String,)>(&mut conn).await.map(|(said,)| said)
                    }
                };
                said.map_err(|error| {
                    errors.lock().unwrap().push(error.to_string());
                    error.to_string()
                })
            }
        })
        .await
    };
    is_over.store(true, Ordering::SeqCst);
    let took = began.elapsed();
    tokio::task::spawn_blocking(move || mover.join().unwrap()).await.unwrap();
    let moved = rounds.load(Ordering::SeqCst) * tags.len();
    println!("{moved} slots moved meanwhile: {tally:?} in {took:?}");
    let errors = errors.lock().unwrap().clone();
    assert_eq!(tally.crossed(), 0);
    assert_eq!(tally.failed(), 0, "{errors:#?}");
    assert!(tally.answered() > 6_000 && tally.cancelled() > 100, "{tally:?}");
    // The map is right again: no node is missing, and no key was lost.
    let mut conn = cluster.clone();
    for tag in &tags {
        let mut all = pipe();
        for number in 0..64 {
            all.get(format!("{{{tag}}}{number}"));
        }
        let values: Vec<u64> = all.query_async(&mut conn).await.unwrap();
        assert_eq!(values.len(), 64);
    }
    for node in cluster.nodes().await.unwrap() {
        until_status(node.pool(), |now| now.in_use == 0 && now.waiting == 0).await;
    }
}

/// What four writers to one slot see: how many were served, and what the others were told.
struct Writes {
    served: Arc<AtomicUsize>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

fn write_to(cluster: &Cluster, key: &str) -> Writes {
    let writes = Writes { served: Arc::default(), failed: Arc::default(), stop: Arc::default() };
    for writer in 0..4 {
        let mut conn = cluster.clone();
        let (served, failed) = (Arc::clone(&writes.served), Arc::clone(&writes.failed));
        let stop = Arc::clone(&writes.stop);
        let key = format!("{{{key}}}{writer}");
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                match conn.incr::<_, _, u64>(&key, 1).await {
                    Ok(_) => {
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        let lost = request_lost(&error).map(|lost| lost.maybe_done);
                        failed.lock().unwrap().push(format!("{lost:?}: {error}"));
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    writes
}

/// A key whose slot is served by this master.
fn key_of(servers: &RedisCluster, master: usize) -> String {
    let mut keys = (0..).map(|number| format!("k{number}"));
    keys.find(|key| servers.master_of(slot_of(servers, key)) == master).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_and_one_that_stands_still_are_replaced_and_their_pools_closed() {
    let mut servers = RedisCluster::start(3, true);
    let events = Events::default();
    // However long the others take to replace it: callers are told by that, not by a limit of theirs.
    let cluster = cluster_with(&servers, &events, |config| {
        let timeouts = config.timeouts.with_read(MINUTE).with_checkout(MINUTE);
        config.with_timeouts(timeouts)
    });
    for (what, master) in [("killed", 0), ("stands still", 1)] {
        let key = key_of(&servers, master);
        let old = servers.nodes[master].addr();
        let writes = write_to(&cluster, &key);
        until_seen(|| writes.served.load(Ordering::SeqCst), |served| *served > 20).await;
        let began = Instant::now();
        match master {
            0 => servers.nodes[0].kill_9(),
            _ => servers.nodes[1].freeze(),
        }
        // A few may have been answered before.
        let before = writes.served.load(Ordering::SeqCst) + 4;
        while writes.served.load(Ordering::SeqCst) <= before {
            assert!(began.elapsed() < MINUTE, "{what}: {:?}", writes.failed.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed();
        // Those that were in flight are told after the 2 s that a node has to drain.
        tokio::time::sleep(SECOND).await;
        writes.stop.store(true, Ordering::SeqCst);
        let nodes = served(&cluster).await;
        assert!(nodes.iter().all(|(addr, _)| *addr != old), "{what}: {nodes:?}");
        assert_eq!(nodes.iter().map(|(_, slots)| slots).sum::<usize>(), 16_384);
        let failed = writes.failed.lock().unwrap().clone();
        println!(
            "{what}: served again after {took:?}, {} of 4 callers failed: {failed:?}",
            failed.len()
        );
        assert!(failed.len() <= 4, "{what}: only what was in flight fails: {failed:#?}");
        assert!(failed.iter().all(|error| error.starts_with("Some(true)")), "{what}: {failed:#?}");
    }
    servers.nodes[1].thaw();
    // It comes back as a replica, and is no node of ours.
    let mut conn = cluster.clone();
    let key = key_of(&servers, 1);
    conn.set::<_, _, ()>(&key, 1).await.unwrap();
    assert_eq!(served(&cluster).await.len(), 3);
}
