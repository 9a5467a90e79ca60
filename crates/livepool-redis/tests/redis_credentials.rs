//! Credentials that are asked for at every dial, with a real server: tokens that expire, passwords that
//! rotate.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::{Pool, Timeouts};
use livepool_redis::cluster::Cluster;
use livepool_redis::redis::{RedisResult, cmd};
use livepool_redis::sentinel::Sentinel;
use livepool_redis::{Credentials, Redis as Adapter};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::servers::Redis;
use livepool_testkit::until;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// As of now `me` has this password.
fn rotate(redis: &Redis, password: &str) {
    let password = format!(">{password}");
    redis.cli(&["ACL", "SETUSER", "me", "on", "resetpass", &password, "~*", "+@all"]);
}

/// A server where nobody may do anything without a name.
fn server(password: &str) -> Redis {
    let redis = Redis::start();
    rotate(&redis, password);
    redis
}

fn pool(redis: Adapter, max_size: usize, timeouts: Timeouts) -> Pool<Adapter> {
    let config = redis.config().with_max_size(max_size).with_timeouts(timeouts);
    Pool::builder(config).protocol(redis).build().unwrap()
}

async fn who(conn: &mut livepool_redis::Client) -> RedisResult<String> {
    cmd("ACL").arg("WHOAMI").query_async(conn).await
}

#[tokio::test]
async fn a_password_that_rotates_is_asked_for_at_every_dial_and_no_connection_ends() {
    for protocol in ["resp2", "resp3"] {
        let redis = server("first");
        let password = Arc::new(Mutex::new("first"));
        let asked = Arc::new(Mutex::new(0));
        let (current, count) = (Arc::clone(&password), Arc::clone(&asked));
        let url = format!("{}?protocol={protocol}", redis.url());
        let adapter = Adapter::from_url(url).unwrap().with_credentials(move |request| {
            assert!(!request.was_refused());
            *count.lock().unwrap() += 1;
            let credentials = Credentials::new("me", *current.lock().unwrap());
            async move {
                tokio::task::yield_now().await;
                std::io::Result::Ok(credentials)
            }
        });
        let pool = pool(adapter, 2, Timeouts::default());
        let mut first = pool.get().await.unwrap();
        rotate(&redis, "second");
        *password.lock().unwrap() = "second";
        let mut second = pool.get().await.unwrap();
        assert_eq!(who(&mut second).await.unwrap(), "me");
        assert_eq!(who(&mut first).await.unwrap(), "me", "it stays logged in");
        assert_eq!(*asked.lock().unwrap(), 2, "once for each dial");
    }
}

#[tokio::test]
async fn a_user_of_the_url_without_a_password_has_that_of_the_callback_or_is_refused() {
    let redis = server("right");
    let url = redis.url().replace("://", "://me@");
    let adapter = Adapter::from_url(&url).unwrap();
    let built = Pool::builder(adapter.config()).protocol(adapter.clone()).build().unwrap();
    let cluster = Cluster::builder([&url]).unwrap();
    let sentinel = Sentinel::new("m", ["127.0.0.1:1"]).unwrap();
    for refused in [
        adapter.clone().builder().unwrap_err().to_string(),
        adapter.clone().pool().unwrap_err().to_string(),
        sentinel.pool(adapter.clone()).unwrap_err().to_string(),
        cluster.build().unwrap_err().to_string(),
        // A sentinel has no callback.
        Sentinel::new("m", [&url]).unwrap_err().to_string(),
        // However the pool was made: nobody is logged in as somebody else.
        built.get().await.unwrap_err().to_string(),
    ] {
        assert!(refused.contains("there is a user and no password"), "{refused}");
    }
    let adapter = adapter.with_credentials(|_| {
        std::future::ready(std::io::Result::Ok(Credentials::password_only("right")))
    });
    assert!(sentinel.pool(adapter.clone()).is_ok());
    assert!(Cluster::builder([&url]).unwrap().with_redis(|_| adapter.clone()).build().is_ok());
    let pool = pool(adapter, 1, Timeouts::default());
    assert_eq!(who(&mut pool.get().await.unwrap()).await.unwrap(), "me");
}

#[tokio::test]
async fn credentials_that_are_refused_are_asked_for_once_more_while_the_caller_waits() {
    let redis = server("right");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asks = Arc::clone(&asked);
    let adapter = Adapter::from_url(redis.url()).unwrap().with_credentials(move |request| {
        asks.lock().unwrap().push(request.was_refused());
        let password = if request.was_refused() { "right" } else { "stale" };
        std::future::ready(std::io::Result::Ok(Credentials::new("me", password)))
    });
    let pool = pool(adapter, 1, Timeouts::default());
    assert_eq!(who(&mut pool.get().await.unwrap()).await.unwrap(), "me");
    assert_eq!(*asked.lock().unwrap(), [false, true]);
}

#[tokio::test]
async fn credentials_that_are_refused_twice_are_told_at_once() {
    let redis = server("another");
    let adapter = Adapter::from_url(redis.url()).unwrap().with_credentials(|_| {
        std::future::ready(std::io::Result::Ok(Credentials::new("me", "hunter2")))
    });
    let shown = format!("{adapter:?}");
    let pool = pool(adapter, 1, Timeouts::default());
    // No caller has so much time.
    let error = pool.get_by(Instant::now() + 3600 * SECOND).await.unwrap_err();
    assert!(error.to_string().contains("refused the user or password"), "{error}");
    for text in [shown, error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_callback_that_fails_panics_or_hangs_is_named_and_shows_no_secret() {
    let redis = server("right");
    for (fault, text) in [
        "credentials failed: GET https://vault.example denied",
        "credentials panicked",
        "gave none within the time of the dial",
    ]
    .into_iter()
    .enumerate()
    {
        let is_well = Arc::new(AtomicBool::new(false));
        let well = Arc::clone(&is_well);
        let adapter = Adapter::from_url(redis.url()).unwrap().with_credentials(move |_| {
            let is_well = well.load(SeqCst);
            async move {
                match fault {
                    _ if is_well => Ok(Credentials::new("me", "right")),
                    0 => Err("GET https://me:hunter2@vault.example/hunter2 denied"),
                    1 => panic!("on purpose"),
                    _ => std::future::pending().await,
                }
            }
        });
        let limit = if fault == 2 { SECOND } else { 20 * SECOND };
        let pool = pool(adapter, 1, Timeouts::default().with_connect(limit));
        let error = pool.get_by(Instant::now() + 5 * SECOND).await.unwrap_err();
        assert!(error.to_string().contains(text), "{fault}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{fault}: {error}");
        // It costs nobody more than that dial.
        is_well.store(true, SeqCst);
        pool.reconfigure(|config| config.timeouts.connect = Some(20 * SECOND)).unwrap();
        let mut conn = pool.get_by(Instant::now() + 20 * SECOND).await.unwrap();
        assert_eq!(who(&mut conn).await.unwrap(), "me");
    }
}

#[tokio::test]
async fn a_caller_or_a_dial_that_is_given_up_while_the_callback_works_leaves_nothing_behind() {
    let redis = server("right");
    for drop_at in DROPS {
        for polls in 1..5 {
            for is_dial_dropped in [false, true] {
                let adapter = Adapter::from_url(redis.url()).unwrap().with_credentials(|_| async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    std::io::Result::Ok(Credentials::new("me", "right"))
                });
                let pool = pool(adapter, 1, Timeouts::default());
                // A timer wakes it, so that it can be dropped at every poll.
                let waits = async {
                    let ticks = async {
                        loop {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    tokio::select! {
                        conn = pool.get() => conn.map(drop),
                        () = ticks => Ok(()),
                    }
                };
                let between = |_| {
                    if is_dial_dropped {
                        pool.invalidate()
                    }
                };
                drop(cut(waits, polls, drop_at, between).await);
                let mut conn = pool.get().await.unwrap();
                assert_eq!(who(&mut conn).await.unwrap(), "me", "{drop_at:?} {polls}");
                drop(conn);
                assert!(pool.status().idle <= 1, "{}", pool.status());
            }
        }
    }
    until(|| !redis.cli(&["CLIENT", "LIST"]).contains("user=me")).await;
}

#[tokio::test]
async fn a_name_that_the_hook_after_connect_gives_is_no_users_doing() {
    let redis = Redis::start();
    let adapter = Adapter::from_url(redis.url()).unwrap();
    let pool = Pool::builder(adapter.config().with_max_size(1))
        .protocol(adapter)
        .after_connect(|client, _| {
            Box::pin(async move {
                Ok(cmd("CLIENT").arg("SETNAME").arg("orders").query_async(client).await?)
            })
        })
        .build()
        .unwrap();
    let name = async |conn: &mut livepool_redis::Client| -> String {
        cmd("CLIENT").arg("GETNAME").query_async(conn).await.unwrap()
    };
    for _ in 0..3 {
        let mut conn = pool.get().await.unwrap();
        assert_eq!(name(&mut conn).await, "orders");
        assert_eq!(conn.release(), livepool::Release::Reused);
    }
    // What a user does is his doing, as before.
    let mut conn = pool.get().await.unwrap();
    let () = cmd("CLIENT").arg("SETNAME").arg("else").query_async(&mut *conn).await.unwrap();
    assert!(matches!(conn.release(), livepool::Release::Discarded(_)));
}
