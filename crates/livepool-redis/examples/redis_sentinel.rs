//! A pool that follows the master of Redis Sentinel: it is killed, and a replica takes over.
//!
//! ```sh
//! cargo run -p livepool-redis --example redis_sentinel
//! ```
//!
//! It starts two servers and three sentinels of its own (`redis-server`) on private ports.

#[path = "support/server.rs"]
mod server;

use std::error::Error;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livepool::{Event, Pool};
use livepool_redis::Redis;
use livepool_redis::redis::{AsyncCommands, Value, cmd};
use livepool_redis::sentinel::Sentinel;
use server::Server;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let (first, second) = (Server::start()?, Server::start()?);
    say(&second.url(), &["REPLICAOF", "127.0.0.1", &first.port.to_string()]).await?;
    let sentinels = [start(&first)?, start(&first)?, start(&first)?];

    let sentinel = Sentinel::new("mymaster", sentinels.iter().map(|one| one.addr()))?;
    let began = Instant::now();
    let told = move |_: &str, event: &Event| match event {
        Event::Opened { conn, peer, .. } => {
            println!("  {:>6.1?}  connection {conn} to {peer}", began.elapsed());
        }
        Event::Closed { conn, reason, .. } => {
            println!("  {:>6.1?}  connection {conn} is closed: {reason}", began.elapsed());
        }
        _ => {}
    };
    let redis = Redis::from_url("redis://mymaster?pool_max_size=4")?;
    let pool = sentinel.pool_with(redis, |pool| pool.observer(told))?;

    println!("The master is {}.", write(&pool).await?);
    // The sentinels have to know each other and the replica.
    while !is_ready(&sentinels[0]).await? {
        if began.elapsed() > Duration::from_secs(20) {
            return Err("the sentinels do not find each other".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gone = first.addr();
    drop(first);
    println!("{gone} is gone.");
    until_elsewhere(&pool, &gone).await
}

/// Writes, and returns where.
async fn write(pool: &Pool<Redis>) -> Result<String> {
    let mut conn = pool.get().await?;
    let _: () = conn.set("greeting", "hello").await?;
    Ok(conn.peer_addr().to_string())
}

/// Writes until another server than this one has taken it.
async fn until_elsewhere(pool: &Pool<Redis>, old: &str) -> Result<()> {
    let (began, mut failed) = (Instant::now(), 0);
    loop {
        match write(pool).await {
            Ok(place) if place != old => {
                println!("Written at {place} {:.1?} later; {failed} failed.", began.elapsed());
                return Ok(());
            }
            Ok(_) => {}
            Err(_) => failed += 1,
        }
        if began.elapsed() > Duration::from_secs(30) {
            return Err("nobody takes over".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn say(url: &str, words: &[&str]) -> Result<Value> {
    let pool = Redis::from_url(url)?.pool()?;
    let mut conn = pool.get().await?;
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    Ok(command.query_async(&mut *conn).await?)
}

/// Whether a sentinel knows the two others and the replica.
async fn is_ready(sentinel: &OwnSentinel) -> Result<bool> {
    let count = async |what: &str| -> Result<usize> {
        match say(&sentinel.url(), &["SENTINEL", what, "mymaster"]).await? {
            Value::Array(all) => Ok(all.len()),
            other => Err(format!("{other:?}").into()),
        }
    };
    Ok(count("SENTINELS").await? == 2 && count("REPLICAS").await? == 1)
}

/// A sentinel of our own; killed when dropped.
struct OwnSentinel {
    process: Child,
    port: u16,
    config: PathBuf,
}

fn start(master: &Server) -> Result<OwnSentinel> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = std::env::temp_dir().join(format!("livepool-sentinel-{port}.conf"));
    std::fs::write(
        &config,
        format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor mymaster 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n",
            master.port
        ),
    )?;
    let mut command = Command::new("redis-server");
    let process = command.arg(&config).arg("--sentinel").stdout(Stdio::null()).spawn()?;
    Ok(OwnSentinel { process, port, config })
}

impl OwnSentinel {
    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

impl Drop for OwnSentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}
