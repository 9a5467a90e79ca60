//! What nodes refuse, what they do not know yet, and what scripts say that looks like it.

use livepool_redis::checkout_error;
use livepool_redis::redis::{RedisError, Script};

use super::*;

/// A cluster that is found through these nodes, and gives up soon.
fn hasty<S: AsRef<str>>(seeds: impl IntoIterator<Item = S>) -> Cluster {
    let timeouts = livepool::Timeouts::default().with_checkout(SECOND);
    let builder = Cluster::builder(seeds).unwrap();
    builder.with_config(|config| config.with_timeouts(timeouts)).build().unwrap()
}

/// The error that a server makes of this line.
fn said(line: &str) -> RedisError {
    match livepool_redis::redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap() {
        livepool_redis::redis::Value::ServerError(error) => error.into(),
        other => panic!("{other:?}"),
    }
}

/// Moves an empty slot, of which no client is told.
fn move_slot(servers: &RedisCluster, slot: u16, from: usize, to: usize) {
    servers.begin_to_move(slot, from, to);
    servers.end_move(slot, from, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_the_majority_does_not_say_who_serves_what_while_another_answers() {
    let mut cut_off = RedisCluster::start(3, false);
    let servers = RedisCluster::start(1, false);
    cut_off.nodes[1].kill_9();
    cut_off.nodes[2].kill_9();
    let state = || cut_off.nodes[0].cli(&["CLUSTER", "INFO"]);
    until_seen(state, |info| info.contains("cluster_state:fail")).await;
    let (stale, well) = (cut_off.nodes[0].addr(), servers.nodes[0].addr());
    for _ in 0..12 {
        // It is asked as well, and may be the first to answer.
        let cluster = hasty([&stale, &well]);
        assert_eq!(served(&cluster).await, [(well.clone(), 16_384)]);
    }
    // Where no other answers, what it knows is better than nothing.
    let cluster = hasty([&stale]);
    assert_eq!(served(&cluster).await.iter().map(|(_, slots)| slots).sum::<usize>(), 16_384);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_a_script_makes_itself_is_the_callers_and_the_script_runs_once() {
    let servers = RedisCluster::start(2, false);
    let cluster = hasty([servers.nodes[0].addr()]);
    let mut conn = cluster.clone();
    let other = slot_of(&servers, "k").wrapping_add(1) % 16_384;
    let script = "redis.call('INCR', KEYS[1]) return redis.error_reply(ARGV[1])";
    let lines = [
        "TRYAGAIN it is not there yet",
        "CLUSTERDOWN says the script",
        "MASTERDOWN says the script",
        "LOADING says the script",
        &format!("MOVED {other} 127.0.0.1:1"),
        &format!("ASK {other} 127.0.0.1:1"),
    ];
    for (number, line) in (1_usize..).zip(lines) {
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg("k").arg(line);
        let error = eval.query_async::<()>(&mut conn).await.unwrap_err();
        assert_eq!(error.code(), line.split(' ').next(), "{error}");
        let mut many = pipe();
        many.get("other").ignore().add_command(eval.clone()).get("k");
        let error = many.query_async::<()>(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains(line.split_once(' ').unwrap().1), "{error}");
        let mut all = pipe();
        all.atomic().get("k").add_command(eval);
        all.query_async::<()>(&mut conn).await.unwrap_err();
        assert_eq!(conn.get::<_, usize>("k").await.unwrap(), 3 * number, "after {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_refuses_its_guests_is_left_for_the_one_that_has_the_slot() {
    let servers = RedisCluster::start(2, false);
    let cluster = hasty([servers.nodes[0].addr()]);
    let mut conn = cluster.clone();
    let (first, second) = (key_of(&servers, 0), key_of(&servers, 1));
    conn.set::<_, _, ()>(&first, 1).await.unwrap();
    // The other node was not connected to yet: whoever does is refused from now on.
    let slot = slot_of(&servers, &second);
    move_slot(&servers, slot, 1, 0);
    assert_eq!(servers.nodes[1].cli(&["CONFIG", "SET", "requirepass", "secret"]), "OK");
    conn.set::<_, _, ()>(&second, 2).await.unwrap();
    assert_eq!(servers.nodes[0].cli(&["GET", &second]), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_which_a_part_was_done_says_so_and_not_that_nothing_was_sent() {
    let servers = RedisCluster::start(2, false);
    let cluster = hasty([servers.nodes[0].addr()]);
    let mut conn = cluster.clone();
    let (first, second) = (key_of(&servers, 0), key_of(&servers, 1));
    conn.get::<_, Option<String>>(&first).await.unwrap();
    assert_eq!(servers.nodes[1].cli(&["CONFIG", "SET", "requirepass", "secret"]), "OK");
    // Of one that goes to that node alone, nothing was.
    let error = conn.set::<_, _, ()>(&second, 2).await.unwrap_err();
    assert!(checkout_error(&error).is_some(), "{error}");
    let mut both = pipe();
    both.set(&first, 1).set(&second, 2);
    let error = both.query_async::<()>(&mut conn).await.unwrap_err();
    assert_eq!(servers.nodes[0].cli(&["GET", &first]), "1");
    assert!(checkout_error(&error).is_none(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("part of the pipeline was done") && text.contains("a password"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_connection_of_his_own_tells_what_became_of_it_and_the_nodes_are_asked() {
    let servers = RedisCluster::start(2, false);
    let events = Events::default();
    let cluster = cluster(&servers, &events);
    let late = livepool::Pool::builder(livepool::Config::new("127.0.0.1:1"))
        .protocol(livepool_redis::Redis::from_url("redis://127.0.0.1:1").unwrap())
        .build()
        .unwrap();
    let no_connection = std::io::Error::from(late.get().await.unwrap_err());
    let errors = [
        RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        RedisError::from(no_connection),
        said("CLUSTERDOWN The cluster is down"),
        said("LOADING Redis is loading the dataset in memory"),
        said("READONLY You can't write against a read only replica."),
        said("UNBLOCKED force unblock from blocking operation, instance state changed"),
    ];
    for (slot, error) in errors.iter().enumerate() {
        let before = served(&cluster).await;
        move_slot(&servers, slot as u16, 0, 1);
        assert!(!cluster.learn_from(error), "it does not say where the slot is");
        let began = Instant::now();
        while served(&cluster).await == before {
            assert!(began.elapsed() < 5 * SECOND, "{error}: nobody was asked");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // The caller's own mistakes are nobody's news.
    assert!(!cluster.learn_from(&said("WRONGTYPE Operation against a key")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_loaded_on_every_node_and_then_runs_by_its_name() {
    let servers = RedisCluster::start(3, false);
    let events = Events::default();
    let mut conn = cluster(&servers, &events);
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for node in 0..3 {
        let key = key_of(&servers, node);
        assert_eq!(script.key(&key).arg(7).invoke_async::<u64>(&mut conn).await.unwrap(), 7);
    }
    let exists = |node: &Redis| node.cli(&["SCRIPT", "EXISTS", script.get_hash()]);
    assert!(servers.nodes.iter().all(|node| exists(node) == "1"));
    let mut asks = cmd("SCRIPT");
    asks.arg("EXISTS").arg(script.get_hash()).arg("0000000000000000000000000000000000000000");
    assert_eq!(asks.query_async::<Vec<u8>>(&mut conn).await.unwrap(), [1, 0]);
    // One that a node has lost is not there.
    servers.nodes[2].cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(asks.query_async::<Vec<u8>>(&mut conn).await.unwrap(), [0, 0]);
    // In a pipeline it is loaded before what uses it.
    let mut many = pipe();
    many.cmd("SCRIPT").arg("LOAD").arg("return 5").ignore();
    many.cmd("EVALSHA").arg(Script::new("return 5").get_hash()).arg(1).arg("k");
    assert_eq!(many.query_async::<(u64,)>(&mut conn).await.unwrap(), (5,));
    cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut conn).await.unwrap();
    assert!(servers.nodes.iter().all(|node| exists(node) == "0"));
    let error = cmd("SCRIPT").arg("KILL").query_async::<()>(&mut conn).await.unwrap_err();
    assert!(error.to_string().contains("Cluster::nodes()"), "{error}");
    let mut all = pipe();
    all.atomic().add_command(asks);
    let error = all.query_async::<()>(&mut conn).await.unwrap_err();
    assert!(error.to_string().contains("no transaction"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_about_a_slot_goes_to_its_node_and_what_is_about_a_node_is_refused() {
    let servers = RedisCluster::start(3, false);
    let events = Events::default();
    let mut conn = cluster(&servers, &events);
    for node in 0..3 {
        let key = key_of(&servers, node);
        conn.set::<_, _, ()>(&key, 1).await.unwrap();
        let mut count = cmd("CLUSTER");
        count.arg("COUNTKEYSINSLOT").arg(slot_of(&servers, &key));
        assert_eq!(count.query_async::<u64>(&mut conn).await.unwrap(), 1);
        let mut keys = cmd("cluster");
        keys.arg("getkeysinslot").arg(slot_of(&servers, &key)).arg(10);
        assert_eq!(keys.query_async::<Vec<String>>(&mut conn).await.unwrap(), [key]);
    }
    for words in ["INFO", "NODES", "SLOTS", "SHARDS", "KEYSLOT k"] {
        let mut asks = cmd("CLUSTER");
        words.split(' ').for_each(|word| {
            asks.arg(word);
        });
        asks.query_async::<livepool_redis::redis::Value>(&mut conn).await.unwrap();
    }
    for words in [
        "RESET",
        "FORGET 1",
        "FAILOVER",
        "BUMPEPOCH",
        "SETSLOT 1 STABLE",
        "MYID",
        "COUNTKEYSINSLOT x",
    ] {
        let mut asks = cmd("CLUSTER");
        words.split(' ').for_each(|word| {
            asks.arg(word);
        });
        let error = asks.query_async::<()>(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("Cluster::nodes()"), "{words}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_nobody_wants_is_not_lost_with_a_slot_that_has_moved() {
    let servers = RedisCluster::start(2, false);
    let events = Events::default();
    let mut conn = cluster(&servers, &events);
    let key = key_of(&servers, 0);
    conn.get::<_, Option<String>>(&key).await.unwrap();
    move_slot(&servers, slot_of(&servers, &key), 0, 1);
    cmd("SET").arg(&key).arg("here").set_no_response(true).exec_async(&mut conn).await.unwrap();
    assert_eq!(servers.nodes[1].cli(&["GET", &key]), "here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_an_error_that_names_the_nodes_and_why() {
    let servers = RedisCluster::start(1, false);
    let nobody = Cluster::builder(["127.0.0.1:1"]).unwrap().build().unwrap();
    let began = Instant::now();
    let error = nobody.clone().get::<_, String>("k").await.unwrap_err().to_string();
    assert!(error.contains("no node says") && error.contains("127.0.0.1:1"), "{error}");
    assert!(began.elapsed() < 5 * SECOND, "it is told at once: {:?}", began.elapsed());
    // A server that is no node.
    let alone = Redis::start();
    let alone = Cluster::builder([alone.addr()]).unwrap().build().unwrap();
    let error = alone.clone().get::<_, String>("k").await.unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
    // Slots that nobody serves.
    let events = Events::default();
    let served = Cluster::builder(servers.addrs()).unwrap();
    let timeouts = livepool::Timeouts::default().with_checkout(SECOND);
    let served = served.with_config(|config| config.with_timeouts(timeouts)).build().unwrap();
    let slot = slot_of(&servers, "k").to_string();
    assert_eq!(servers.nodes[0].cli(&["CLUSTER", "DELSLOTS", &slot]), "OK");
    let error = served.clone().get::<_, String>("k").await.unwrap_err().to_string();
    assert!(error.contains(&format!("slot {slot}")), "{error}");
    // More nodes than there may be.
    let servers = RedisCluster::start(3, false);
    let few = Cluster::builder([servers.nodes[0].addr()]).unwrap().with_max_nodes(2);
    let few = few.with_pools(move |pool| pool.observer(events.observer())).build().unwrap();
    let error = few.clone().get::<_, String>("k").await.unwrap_err().to_string();
    assert!(error.contains("max_nodes is 2"), "{error}");
}
