//! The cache of a link shortener, which was written on bb8 and bb8-redis: what it does is what it did.
//!
//! ```sh
//! cargo run -p livepool-redis --example from_bb8
//! cargo run -p livepool-redis --example from_bb8 -- --url redis://127.0.0.1:6379
//! ```
//!
//! Without `--url` it starts a `redis-server` of its own. What each place was before:
//!
//! | bb8-redis | here |
//! |---|---|
//! | `Pool::builder()..build(RedisConnectionManager::new(url)?).await?` | `Redis::from_url(url)?.with_config(..).builder()?..build()?`, then `pool.warm_up_or_fail(1).await?` |
//! | `CustomizeConnection::on_acquire`, a trait for a type of its own | the closure of `after_connect` |
//! | `RunError::TimedOut`, `RunError::User(error)` | `CheckoutError`, with `is_timeout()`, and `is_retryable()`, which says what a handler wants to know |
//! | `pool.get().await?`, then `query_async(&mut *conn)` | `pool.connection().await?`, then `query_async(&mut conn)` |
//! | `pool.get_owned().await?` | `pool.connection().await?`: it borrows nothing |
//! | `pool.state()` | `pool.status()` |

#[path = "support/server.rs"]
mod server;

use std::error::Error;
use std::time::Duration;

use livepool::{CheckoutError, Validation};
use livepool_redis::redis::{self, AsyncCommands, RedisError};
use livepool_redis::{Pool, PoolExt as _, Redis};

fn pool(url: &str) -> Result<Pool, Box<dyn Error>> {
    let redis = Redis::from_url(url)?.with_config(|config| {
        // bb8's connection_timeout.
        let timeouts = config.timeouts.with_checkout(Duration::from_secs(2));
        config
            .with_timeouts(timeouts)
            .with_name("shortener")
            .with_max_size(8)
            .with_min_idle(1)
            .with_max_lifetime(Duration::from_secs(1800))
            // bb8's test_on_check_out, which is on there. The default here asks nobody.
            .with_validation(Validation::Ping)
    });
    let builder = redis.builder()?.after_connect(|conn, _| {
        // The `?` makes of Redis' error that of a hook.
        Box::pin(async {
            Ok(redis::cmd("CLIENT").arg("SETNAME").arg("shortener").query_async(conn).await?)
        })
    });
    Ok(builder.build()?)
}

/// What a handler answers with.
#[derive(Debug)]
enum CacheError {
    /// To be tried again: all connections are in use, or the server is away.
    Later(CheckoutError),
    /// Somebody has to change something: a password, say.
    Broken(CheckoutError),
    Redis(RedisError),
}

impl From<CheckoutError> for CacheError {
    fn from(error: CheckoutError) -> Self {
        if error.is_retryable() { Self::Later(error) } else { Self::Broken(error) }
    }
}

impl From<RedisError> for CacheError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// The text of each has its cause.
impl std::fmt::Display for CacheError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(error) => write!(f, "try again later: {error}"),
            Self::Broken(error) => write!(f, "broken: {error}"),
            Self::Redis(error) => write!(f, "refused: {error}"),
        }
    }
}

impl Error for CacheError {}

async fn store(pool: &Pool, code: &str, link: &str) -> Result<(), CacheError> {
    let key = format!("livepool:link:{code}");
    let mut conn = pool.connection().await?;
    let mut pipe = redis::pipe();
    pipe.atomic().set(&key, link).expire(&key, 3600).incr("livepool:links", 1);
    Ok(pipe.query_async(&mut conn).await?)
}

async fn visit(pool: &Pool, code: &str) -> Result<Option<(String, u64)>, CacheError> {
    let mut conn = pool.connection().await?;
    let link: Option<String> = conn.get(format!("livepool:link:{code}")).await?;
    let Some(link) = link else { return Ok(None) };
    let visits: u64 = conn.incr(format!("livepool:visits:{code}"), 1).await?;
    Ok(Some((link, visits)))
}

/// A command of the wrong kind: an error of Redis, which costs no connection.
async fn mistake(pool: &Pool) -> Result<(), CacheError> {
    Ok(pool.connection().await?.lpush("livepool:links", 1).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().skip_while(|arg| arg != "--url").nth(1);
    let (url, own) = match url {
        Some(url) => (url, None),
        None => {
            let server = server::Server::start()?;
            (server.url(), Some(server))
        }
    };
    let pool = pool(&url)?;
    // A wrong address or password ends the program here, as `build(..).await?` of bb8 does.
    pool.warm_up_or_fail(1).await?;

    store(&pool, "lp", "https://docs.rs/livepool").await?;
    let mut visits = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let pool = pool.clone();
        visits.spawn(async move { visit(&pool, "lp").await });
    }
    while let Some(visited) = visits.join_next().await {
        visited??;
    }
    println!("after 20 visits at once, one more: {:?}", visit(&pool, "lp").await?);
    println!("a link that nobody stored: {:?}", visit(&pool, "nothing").await?);
    println!("a mistake: {}", mistake(&pool).await.expect_err("a number is no list"));
    // One command by itself.
    let name: String = pool.query(redis::cmd("CLIENT").arg("GETNAME")).await?;
    println!("every connection is called {name:?}: {}", pool.status());
    let keys = ["livepool:link:lp", "livepool:visits:lp", "livepool:links"];
    let _: () = pool.query(redis::cmd("DEL").arg(&keys)).await?;

    if let Some(server) = own {
        drop(server);
        let error = visit(&pool, "lp").await.expect_err("the server is gone");
        println!("without a server: {error}");
    }
    Ok(())
}
