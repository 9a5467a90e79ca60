//! Orders and a worker that hears of them, which were written on sqlx' pool and its `PgListener`.
//!
//! ```sh
//! cargo run -p livepool-postgres --example from_sqlx
//! cargo run -p livepool-postgres --example from_sqlx -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed. With it, it makes a table
//! `livepool_orders` there, and drops it. What each place was before:
//!
//! | sqlx | here |
//! |---|---|
//! | `PgPoolOptions::new()..connect(url).await?` | `Postgres::from_url(url)?.with_config(..).builder()?..build()?`, then `pool.warm_up_or_fail(1).await?` |
//! | `.after_connect(..)`, `.before_acquire(..)` | `.after_connect(..)`, `.before_checkout(..)`, of `builder()` |
//! | `#[derive(FromRow)]`, `query_as` | a `TryFrom<&Row>` by hand |
//! | `.bind(cents)` | `&[&cents]`, of the very type of the column: an `i32` is no `int8` |
//! | `pool.begin().await?` | `pool.get().await?`, then `client.transaction().await?` |
//! | `PgListener::connect_with(&pool)`, `try_recv` | `pool.listen(..)`, `next`, within `max_size` |
//! | `Error::Database(error)`, `error.is_check_violation()` | `error.code() == Some(&SqlState::CHECK_VIOLATION)` |
//! | `pool.size()`, `pool.num_idle()` | `pool.status()` |

#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use livepool::Delivery;
use livepool_postgres::tokio_postgres::{self, Row, error::SqlState};
use livepool_postgres::{Error, Pool, PoolExt as _, Postgres};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

struct Order {
    id: i64,
    customer: String,
    cents: i64,
    note: Option<String>,
}

impl TryFrom<&Row> for Order {
    type Error = tokio_postgres::Error;

    fn try_from(row: &Row) -> Result<Self, Self::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            customer: row.try_get("customer")?,
            cents: row.try_get("cents")?,
            note: row.try_get("note")?,
        })
    }
}

async fn pool(url: &str) -> Result<Pool> {
    let postgres = Postgres::from_url(url)?.with_config(|config| {
        // sqlx' acquire_timeout.
        let timeouts = config.timeouts.with_checkout(Duration::from_secs(3));
        config
            .with_timeouts(timeouts)
            .with_name("orders")
            .with_max_size(8)
            .with_min_idle(1)
            .with_max_lifetime(Duration::from_secs(1800))
    });
    let pool = postgres
        .builder()?
        .after_connect(|client, _| {
            // What it sets is how every user finds the session.
            Box::pin(async {
                Ok(client
                    .batch_execute("SET statement_timeout = '5s'; SET TimeZone = 'UTC'")
                    .await?)
            })
        })
        .build()?;
    // A wrong address or password ends the program here, as `connect` does. A server that is not up yet
    // does so, too, where sqlx tries again until its acquire_timeout: that is `warm_up`, with
    // `FirstConnect::Wait`.
    pool.warm_up_or_fail(1).await?;
    Ok(pool)
}

/// The order, and the word of it, or neither: dropped in the middle, the transaction is rolled back.
async fn place(pool: &Pool, customer: &str, cents: i64) -> Result<i64, Error> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO livepool_orders (customer, cents) VALUES ($1, $2) RETURNING id";
    let id: i64 = transaction.query_one(insert, &[&customer, &cents]).await?.try_get(0)?;
    let notify = "SELECT pg_notify('livepool_orders', $1)";
    transaction.execute(notify, &[&id.to_string()]).await?;
    transaction.commit().await?;
    Ok(id)
}

async fn orders_of(pool: &Pool, customer: &str) -> Result<Vec<Order>, Error> {
    let sql =
        "SELECT id, customer, cents, note FROM livepool_orders WHERE customer = $1 ORDER BY id";
    let rows = pool.query(sql, &[&customer]).await?;
    Ok(rows.iter().map(Order::try_from).collect::<Result<_, _>>()?)
}

#[tokio::main]
async fn main() -> Result {
    let url = std::env::args().skip_while(|arg| arg != "--url").nth(1);
    let (url, _own) = match url {
        Some(url) => (url, None),
        None => {
            let server = server::start().map_err(|error| error.to_string())?;
            (server.url(), Some(server))
        }
    };
    let pool = pool(&url).await?;
    let table = "DROP TABLE IF EXISTS livepool_orders; CREATE TABLE livepool_orders (id bigserial \
                 PRIMARY KEY, customer text NOT NULL, cents int8 CHECK (cents > 0), note text)";
    // Several statements in one text, as `raw_sql` of sqlx.
    pool.get().await?.batch_execute(table).await?;

    // It listens when `listen` has returned, and has a connection of the pool while it does.
    let mut subscription = pool.listen(["livepool_orders"]).await?;
    let worker = tokio::spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < 3 {
            match subscription.next().await {
                Some(Delivery::Message(message)) => heard.push(message.payload().to_owned()),
                // `None` of `try_recv`: the connection had ended. Also: some were not read in time.
                Some(missed) => println!("look into the table: {missed:?}"),
                // The pool was closed.
                None => break,
            }
        }
        heard
    });
    for cents in [100, 250, 999] {
        place(&pool, "ada", cents).await?;
    }
    println!("the worker heard of {:?}", worker.await?);
    match place(&pool, "ada", -1).await {
        Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {
            println!("refused: {error}")
        }
        other => println!("that was to be refused: {other:?}"),
    }
    for order in orders_of(&pool, "ada").await? {
        let Order { id, customer, cents, note } = order;
        println!("{id}: {cents} cents of {customer}, note {note:?}");
    }
    let limit: String = pool.query_one("SHOW statement_timeout", &[]).await?.try_get(0)?;
    println!("every session has a statement_timeout of {limit}: {}", pool.status());

    // A query that is given up is cancelled at the server. sqlx leaves it running there.
    let sleep = pool.execute("SELECT pg_sleep(4)", &[]);
    let _ = tokio::time::timeout(Duration::from_millis(100), sleep).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' \
                  AND state = 'active'";
    let count: i64 = pool.query_one(sleeps, &[]).await?.try_get(0)?;
    println!("a statement of 4 s was given up after 0.1 s; {count} of them run 0.2 s later");

    pool.get().await?.batch_execute("DROP TABLE livepool_orders").await?;
    // For those in use it waits until then, and says how many it had to interrupt.
    let interrupted = pool.close_and_wait(Instant::now() + Duration::from_secs(2)).await;
    println!("closed, {interrupted} interrupted");
    Ok(())
}
