//! GETs.

use std::any::Any;

use livepool::config::Validation;
use livepool_redis::Redis as Adapter;
use livepool_testkit::servers::Redis;
use redis::AsyncCommands;
use tokio::runtime::Runtime;

use crate::rounds::contender;
use crate::{CONNECTIONS, Group};

/// Multiplexed connections of fred.
const SHARED: usize = 4;

pub fn groups(runtime: &Runtime) -> (Box<dyn Any>, Vec<Group>) {
    let server = Redis::start();
    server.cli(&["SET", "key", "value"]);
    let url = server.url();
    let _entered = runtime.enter();
    let adapter = Adapter::from_url(url.clone()).expect("a URL");
    let config = adapter.config().with_max_size(CONNECTIONS).with_max_waiting(None);
    let build = |config: livepool::Config| {
        livepool::Pool::builder(config).protocol(adapter.clone()).build().expect("a pool")
    };
    let plain = build(config.clone());
    let pinging = build(config.with_validation(Validation::Ping));
    let deadpool = deadpool_redis::Config::from_url(url.clone()).builder().expect("a URL");
    let deadpool = deadpool.max_size(CONNECTIONS).runtime(deadpool_redis::Runtime::Tokio1);
    let deadpool = deadpool.build().expect("a pool");
    let client = redis::Client::open(url.clone()).expect("a URL");
    let manager = runtime.block_on(client.get_connection_manager()).expect("a server");
    let fred = fred::types::config::Config::from_url(&url).expect("a URL");
    let fred = fred::types::Builder::from_config(fred).build_pool(SHARED).expect("a pool");
    runtime.block_on(fred::interfaces::ClientLike::init(&fred)).expect("a server");

    let ask = |pool: livepool::Pool<Adapter>| async move {
        let value: String = pool.get().await.expect("a connection").get("key").await.expect("it");
        assert_eq!(value, "value");
    };
    let exclusive = |name: &str, goal, ours| Group {
        name: name.to_owned(),
        callers: &[1, 16, 64],
        contenders: vec![
            ours,
            contender("deadpool-redis (pings)", &deadpool, |pool| async move {
                let mut connection = pool.get().await.expect("a connection");
                let value: String = connection.get("key").await.expect("it");
                assert_eq!(value, "value");
            })
            .with_goal(goal),
        ],
    };
    let groups = vec![
        exclusive("redis GET", 1.8, contender("livepool", &plain, ask)),
        exclusive("redis GET, with a ping", 1.05, contender("livepool, ping", &pinging, ask)),
        Group {
            name: "redis GET, shared".to_owned(),
            callers: &[16, 64, 256],
            contenders: vec![
                contender("livepool, shared", &plain, |pool| async move {
                    let mut shared = pool.share().await.expect("a share");
                    let value: String = shared.get("key").await.expect("it");
                    assert_eq!(value, "value");
                }),
                contender("ConnectionManager (1 connection)", &manager, |mut manager| async move {
                    let value: String = manager.get("key").await.expect("it");
                    assert_eq!(value, "value");
                })
                .with_goal(1.0)
                .with_cpu_goal(1.05),
                contender("fred (4 connections)", &fred, |pool| async move {
                    let value: String =
                        fred::interfaces::KeysInterface::get(&pool, "key").await.expect("it");
                    assert_eq!(value, "value");
                })
                .with_goal(1.0)
                .with_cpu_goal(1.05),
            ],
        },
    ];
    (Box::new(server), groups)
}
