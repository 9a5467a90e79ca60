//! Accounts and transfers between them, which were written on deadpool-postgres: with its hooks, its
//! timeouts, statements that are cached, and code for `GenericClient`.
//!
//! ```sh
//! cargo run -p livepool-postgres --example from_deadpool
//! cargo run -p livepool-postgres --example from_deadpool -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed. With it, it makes a table
//! `livepool_accounts` there, and drops it. What each place was before:
//!
//! | deadpool-postgres | here |
//! |---|---|
//! | `Config`, `ManagerConfig`, `PoolConfig`, `config.builder(NoTls)?..build()?` | `Postgres::from_url(url)?.with_config(..).builder()?..build()?` |
//! | `Timeouts { wait, create, recycle }` | `timeouts.checkout` (all of it), `connect`, `ping` |
//! | `RecyclingMethod::Verified`: a round trip before each use | `Validation::Ping` |
//! | `post_create(Hook::async_fn(..))` | `after_connect`; it is run again where a reset may have undone it |
//! | `pre_recycle`, `post_recycle` | `before_checkout`, for new connections, too |
//! | a hook that refuses what is too old | `max_lifetime` |
//! | `&impl GenericClient`, `prepare_cached` | the same, of `livepool_postgres` |
//! | `PoolError::Timeout(TimeoutType::Wait)` | `error.failure() == CheckoutFailure::Timeout(Phase::Queue)` |
//! | `client.statement_cache.size()` | `client.statement_cache().size()` |
//! | `pool.manager().statement_caches.clear()` | `postgres.clear_statement_caches()`, of the one that made the pool or a clone |
//!
//! Whoever would rather keep the deadpool: `examples/postgres_on_deadpool.rs`.

#[path = "support/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::error::{CheckoutFailure, Phase};
use livepool::{CheckoutError, Validation};
use livepool_postgres::tokio_postgres::{self, error::SqlState};
use livepool_postgres::{GenericClient, Pool, Postgres};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The pool, and what made it, which clears the caches of statements.
fn pool(url: &str, checks: Arc<AtomicUsize>) -> Result<(Pool, Postgres)> {
    let postgres = Postgres::from_url(url)?.with_config(|config| {
        let timeouts = config
            .timeouts
            .with_checkout(Duration::from_secs(2))
            .with_connect(Duration::from_secs(1))
            .with_ping(Duration::from_secs(1));
        config
            .with_timeouts(timeouts)
            .with_name("accounts")
            .with_max_size(8)
            .with_max_lifetime(Duration::from_secs(1800))
            .with_validation(Validation::Ping)
    });
    let pool = postgres
        .clone()
        .builder()?
        .after_connect(|client, _| {
            Box::pin(async { Ok(client.batch_execute("SET statement_timeout = '5s'").await?) })
        })
        // An error costs the connection: in the place of an idle one the caller gets another, with one that
        // was just made the checkout fails. (Of several hosts, `Target::ReadWrite` asks this at the dial.)
        .before_checkout(move |client, about| {
            checks.fetch_add(1, Ordering::Relaxed);
            let conn = about.conn();
            Box::pin(async move {
                let row = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await?;
                if row.get(0) { Ok(()) } else { Err(format!("{conn} is to a standby").into()) }
            })
        })
        .build()?;
    Ok((pool, postgres))
}

/// Of a client, and in a transaction.
async fn balance(client: &impl GenericClient, name: &str) -> Result<i64, tokio_postgres::Error> {
    let sql = "SELECT cents FROM livepool_accounts WHERE name = $1";
    let statement = client.prepare_cached(sql).await?;
    client.query_one(&statement, &[&name]).await?.try_get(0)
}

async fn add(
    client: &impl GenericClient,
    name: &str,
    cents: i64,
) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE livepool_accounts SET cents = cents + $2 WHERE name = $1";
    let statement = client.prepare_cached(sql).await?;
    client.execute(&statement, &[&name, &cents]).await?;
    Ok(())
}

enum Failed {
    /// Everything is in use.
    Busy,
    Poor,
    Other(String),
}

impl From<CheckoutError> for Failed {
    fn from(error: CheckoutError) -> Self {
        match error.failure() {
            CheckoutFailure::Timeout(Phase::Queue) | CheckoutFailure::QueueFull => Self::Busy,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(&SqlState::CHECK_VIOLATION) => Self::Poor,
            // With the server's words, which the text of the library's own error leaves out.
            _ => Self::Other(livepool_postgres::Error::from(error).to_string()),
        }
    }
}

/// Dropped in the middle, or left by `?`, the transaction is rolled back before anybody else has its
/// connection.
async fn transfer(pool: &Pool, from: &str, to: &str, cents: i64) -> Result<i64, Failed> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    add(&transaction, from, -cents).await?;
    add(&transaction, to, cents).await?;
    let left = balance(&transaction, from).await?;
    transaction.commit().await?;
    Ok(left)
}

#[tokio::main]
async fn main() -> Result {
    let url = std::env::args().skip_while(|arg| arg != "--url").nth(1);
    let (url, _own) = match url {
        Some(url) => (url, None),
        None => {
            let server = server::start()?;
            (server.url(), Some(server))
        }
    };
    let checks = Arc::new(AtomicUsize::new(0));
    let (pool, postgres) = pool(&url, Arc::clone(&checks))?;
    let table = "DROP TABLE IF EXISTS livepool_accounts; CREATE TABLE livepool_accounts (name text \
                 PRIMARY KEY, cents int8 NOT NULL CHECK (cents >= 0)); \
                 INSERT INTO livepool_accounts VALUES ('ada', 1000), ('bob', 0)";
    pool.get().await?.batch_execute(table).await?;

    for cents in [300, 3000] {
        match transfer(&pool, "ada", "bob", cents).await {
            Ok(left) => println!("ada gives {cents}, and has {left} left"),
            Err(Failed::Poor) => println!("ada gives {cents}: there is not so much"),
            Err(Failed::Busy) => println!("try again later"),
            Err(Failed::Other(why)) => return Err(why.into()),
        }
    }
    let client = pool.get().await?;
    let (ada, bob) = (balance(&client, "ada").await?, balance(&client, "bob").await?);
    println!("ada has {ada}, bob has {bob}; neither gave what is not there");
    let kept = client.statement_cache().size();
    drop(client);
    postgres.clear_statement_caches();
    let client = pool.get().await?;
    let now = client.statement_cache().size();
    println!("{kept} statements were kept, and {now} after the caches were cleared");
    let limit: String = client.query_one("SHOW statement_timeout", &[]).await?.try_get(0)?;
    let checks = checks.load(Ordering::Relaxed);
    println!(
        "the hook after connect has set {limit}; the one before a checkout ran {checks} times"
    );
    client.batch_execute("DROP TABLE livepool_accounts").await?;
    drop(client);

    pool.close();
    let error = pool.get().await.expect_err("it is closed");
    println!("closed: {error}");
    Ok(())
}
