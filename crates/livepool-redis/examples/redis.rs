//! A pool of Redis connections and what goes wrong with them: a caller who gives up a `BLPOP`, a
//! connection that the server kills, a transaction that is left open, a subscription whose connection
//! ends, and a failover.
//!
//! ```sh
//! cargo run -p livepool-redis --example redis
//! cargo run -p livepool-redis --example redis -- --url redis://127.0.0.1:6379
//! ```
//!
//! Without `--url` it starts two servers of its own (`redis-server`) on private ports, and the second
//! takes over from the first at the end.

#[path = "support/server.rs"]
mod server;

use std::error::Error;
use std::time::{Duration, Instant};

use livepool::{Delivery, Event, Pool};
use livepool_redis::redis::{AsyncCommands, Value, cmd, pipe};
use livepool_redis::{Redis, Role};
use server::Server;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != "--url").skip(1);
    let own = match args.next() {
        Some(url) => Err(url),
        None => Ok((Server::start()?, Server::start()?)),
    };
    let url = match &own {
        Ok((first, _)) => first.url(),
        Err(url) => url.clone(),
    };

    let redis = Redis::from_url(&url)?.with_role(Role::Master);
    let mut config = redis.config().with_name("example").with_max_size(4);
    if let Ok((first, second)) = &own {
        config = config.with_upstream([first.addr(), second.addr()]);
        say(second, &["REPLICAOF", "127.0.0.1", &first.port.to_string()]).await?;
    }
    let began = Instant::now();
    let closed = move |_: &str, event: &Event| match event {
        Event::Opened { conn, peer, .. } => {
            println!("  {:>6.0?}  connection {conn} to {peer}", began.elapsed());
        }
        Event::Closed { conn, reason, .. } => {
            println!("  {:>6.0?}  connection {conn} is closed: {reason}", began.elapsed());
        }
        _ => {}
    };
    let pool = Pool::builder(config).observer(closed).protocol(redis).build()?;

    a_command(&pool).await?;
    a_caller_who_gives_up(&pool).await?;
    a_transaction_left_open(&pool).await?;
    a_killed_connection(&pool).await?;
    a_subscription(&pool).await?;
    if let Ok((first, second)) = &own {
        a_failover(&pool, first, second).await?;
    }
    println!("\nthe end: {}", pool.status());
    Ok(())
}

async fn a_command(pool: &Pool<Redis>) -> Result<()> {
    println!("\na command, a pipeline, and the connection goes back by itself");
    let mut conn = pool.get().await?;
    let _: () = conn.set("livepool:greeting", "hello").await?;
    let (text, length): (String, usize) = pipe()
        .get("livepool:greeting")
        .cmd("STRLEN")
        .arg("livepool:greeting")
        .query_async(&mut *conn)
        .await?;
    println!("          {text:?} has {length} letters");
    drop(conn);
    println!("          {}", pool.status());
    Ok(())
}

async fn a_caller_who_gives_up(pool: &Pool<Redis>) -> Result<()> {
    println!("\na caller waits for a queue, and gives up");
    let mut conn = pool.get().await?;
    let waiting = conn.blpop::<_, Value>("livepool:queue", 0.0);
    if tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err() {
        println!("          nothing came within 100 ms");
    }
    drop(conn);
    let asked = Instant::now();
    let mut conn = pool.get().await?;
    let _: () = conn.rpush("livepool:queue", "a job").await?;
    let left: usize = conn.llen("livepool:queue").await?;
    println!("          the next caller waited {:.0?} and reads its own answer", asked.elapsed());
    println!("          the job is still there ({left}): nobody popped it for one who is gone");
    let _: () = conn.del("livepool:queue").await?;
    Ok(())
}

async fn a_transaction_left_open(pool: &Pool<Redis>) -> Result<()> {
    println!("\na transaction in database 3 is left open");
    let mut conn = pool.get().await?;
    let _: () = cmd("SELECT").arg(3).query_async(&mut *conn).await?;
    let _: () = cmd("MULTI").query_async(&mut *conn).await?;
    let _: () = cmd("SET").arg("livepool:never").arg(1).query_async(&mut *conn).await?;
    let id = conn.id();
    drop(conn);
    // It is put right in the background; whoever takes it now may get another one meanwhile.
    while pool.status().idle == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut conn = pool.get().await?;
    let text: String = conn.get("livepool:greeting").await?;
    println!("          connection {} (it was {id}) says {text:?}: as new", conn.id());
    let _: () = conn.del("livepool:greeting").await?;
    Ok(())
}

async fn a_killed_connection(pool: &Pool<Redis>) -> Result<()> {
    println!("\nthe server kills an idle connection");
    let (mut victim, mut other) = (pool.get().await?, pool.get().await?);
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut *victim).await?;
    drop(victim);
    let _: () = cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut *other).await?;
    drop(other);
    let mut conn = pool.get().await?;
    let pong: String = cmd("PING").query_async(&mut *conn).await?;
    println!("          the next caller never meets it: {pong}");
    Ok(())
}

async fn a_subscription(pool: &Pool<Redis>) -> Result<()> {
    println!("\na subscription whose connection the server kills");
    let mut subscription = pool.listen(["livepool:news"]).await?;
    let mut conn = pool.get().await?;
    let _: () = conn.publish("livepool:news", "first").await?;
    // No reader is needed for it to subscribe again.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let _: () = cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut *conn).await?;
    // A message, the word of the gap, a message.
    for _ in 0..3 {
        match subscription.next().await {
            Some(Delivery::Message(message)) => {
                println!("          message {:?}", message.get_payload::<String>()?);
            }
            Some(Delivery::Reconnected { reason, gap, .. }) => {
                println!("          reconnected ({reason}, {gap:.0?}): look for what was missed");
                let _: () = conn.publish("livepool:news", "second").await?;
            }
            other => println!("          {other:?}"),
        }
    }
    Ok(())
}

async fn a_failover(pool: &Pool<Redis>, first: &Server, second: &Server) -> Result<()> {
    println!("\na failover: the second server takes over");
    let mut conn = pool.get().await?;
    say(second, &["REPLICAOF", "NO", "ONE"]).await?;
    say(first, &["REPLICAOF", "127.0.0.1", &second.port.to_string()]).await?;
    if let Err(error) = conn.set::<_, _, ()>("livepool:key", 1).await {
        println!("          a write on an old connection: {error}");
    }
    drop(conn);
    let mut conn = pool.get().await?;
    let _: () = conn.set("livepool:key", 2).await?;
    println!("          the next one goes to {}", conn.peer_addr());
    Ok(())
}

/// Tells a server something, over a connection of its own.
async fn say(server: &Server, words: &[&str]) -> Result<()> {
    let mut conn = Redis::from_url(server.url())?.pool()?.get().await?;
    Ok(cmd(words[0]).arg(&words[1..]).query_async(&mut *conn).await?)
}
