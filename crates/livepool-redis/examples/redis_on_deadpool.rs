//! A program that has deadpool-redis, and the same on our manager: three lines make the pool, the code
//! that uses it stays. Both meet the same troubles.
//!
//! ```sh
//! cargo run -p livepool-redis --example redis_on_deadpool
//! cargo run -p livepool-redis --example redis_on_deadpool -- --url redis://127.0.0.1:6379
//! ```
//!
//! Without `--url` it starts a `redis-server` of its own.

#[path = "support/server.rs"]
mod server;

use std::error::Error;
use std::time::{Duration, Instant};

use livepool::{Event, Manager, Pool};
use livepool_redis::Redis;
use livepool_redis::redis::aio::ConnectionLike;
use livepool_redis::redis::{AsyncCommands, RedisResult, cmd};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SIZE: usize = 1;

/// What the program has today.
fn before(url: &str) -> Result<deadpool_redis::Pool> {
    let manager = deadpool_redis::Manager::new(url)?;
    Ok(deadpool_redis::Pool::builder(manager).max_size(SIZE).build()?)
}

/// The pool is still deadpool's; its manager is ours.
type Ours = deadpool::managed::Pool<Manager<Redis>>;

fn after(url: &str) -> Result<Ours> {
    let redis = Redis::from_url(url)?;
    let builder = Pool::builder(redis.config().with_name("ours")).protocol(redis);
    let manager = builder.observer(tell).build_manager()?;
    let pool = Ours::builder(manager).max_size(SIZE).build()?;
    // Idle connections are looked after, too.
    Manager::watch(&pool);
    Ok(pool)
}

/// A handler of the program: it takes what deadpool-redis gives, and what we give.
async fn visit(conn: &mut impl AsyncCommands) -> RedisResult<u64> {
    conn.incr("livepool:visits", 1).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().skip_while(|arg| arg != "--url").nth(1);
    let (url, _server) = match url {
        Some(url) => (url, None),
        None => {
            let server = server::Server::start()?;
            println!("started a server of our own at {}", server.addr());
            (server.url(), Some(server))
        }
    };

    println!("\nbefore: deadpool-redis");
    let pool = before(&url)?;
    let mut conn = pool.get().await?;
    println!("    visits: {}", visit(&mut conn).await?);
    let _: () = conn.set("livepool:number", 1).await?;
    drop(conn);

    // A connection that was left in the middle of a transaction, in another database, is as it was left.
    let mut conn = pool.get().await?;
    let _: () = cmd("SELECT").arg(1).query_async(&mut conn).await?;
    drop(conn);
    let mut conn = pool.get().await?;
    let number: Option<u64> = conn.get("livepool:number").await?;
    println!("    one user left it in database 1: the next finds {number:?} in the place of 1");
    let _: () = cmd("SELECT").arg(0).query_async(&mut conn).await?;

    given_up(&mut conn).await;
    drop(conn);
    let began = Instant::now();
    let found = tokio::time::timeout(Duration::from_secs(3), async {
        visit(&mut pool.get().await?).await.map_err(Into::into)
    });
    let found: Result<Result<u64>> = found.await.map_err(Into::into);
    println!(
        "    a BLPOP was given up; the next one after {:.1?}: {}",
        began.elapsed(),
        said(found)
    );

    println!("\nafter: our manager in a deadpool");
    let pool = after(&url)?;
    let mut conn = pool.get().await?;
    // The one difference where it is used: `&mut **conn`, where a function takes the connection itself.
    println!("    visits: {}", visit(&mut **conn).await?);
    let _: () = conn.set("livepool:number", 1).await?;
    drop(conn);

    let mut conn = pool.get().await?;
    let _: () = cmd("SELECT").arg(1).query_async(&mut **conn).await?;
    drop(conn);
    let mut conn = pool.get().await?;
    let number: Option<u64> = conn.get("livepool:number").await?;
    println!("    one user left it in database 1: the next finds {number:?}, as new");

    given_up(&mut **conn).await;
    drop(conn);
    let began = Instant::now();
    let visits = visit(&mut **pool.get().await?).await?;
    println!("    a BLPOP was given up; the next one after {:.1?}: {visits}", began.elapsed());

    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut **pool.get().await?).await?;
    let mut admin = Redis::from_url(&url)?.pool()?.get().await?;
    let _: () = cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut *admin).await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    println!(
        "    the server has closed an idle one, and deadpool has it no more: {:?}",
        pool.status()
    );
    let _: () = admin.del(&["livepool:visits", "livepool:number"]).await?;
    Ok(())
}

/// Asks for what does not come, and gives up.
async fn given_up(conn: &mut impl ConnectionLike) {
    let mut blpop = cmd("BLPOP");
    let asked = blpop.arg("livepool:nothing").arg(2);
    let asked = asked.query_async::<Option<(String, String)>>(conn);
    let _ = tokio::time::timeout(Duration::from_millis(100), asked).await;
}

fn said(found: Result<Result<u64>>) -> String {
    match found {
        Ok(Ok(visits)) => visits.to_string(),
        Ok(Err(error)) | Err(error) => error.to_string(),
    }
}

fn tell(_: &str, event: &Event) {
    match event {
        Event::Opened { conn, peer, .. } => println!("    [connection {conn} to {peer}]"),
        Event::Closed { conn, reason, .. } => {
            println!("    [connection {conn} is closed: {reason}]");
        }
        _ => {}
    }
}
