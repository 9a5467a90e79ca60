//! A program that has deadpool-postgres, and two steps to our connections: one line for our sockets
//! under its own manager, three for our manager in its own pool. Each step meets the same troubles.
//!
//! ```sh
//! cargo run -p livepool-postgres --example postgres_on_deadpool
//! cargo run -p livepool-postgres --example postgres_on_deadpool -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed.

#[path = "support/dial.rs"]
mod dial;
#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use deadpool_postgres::tokio_postgres::{self, NoTls};
use livepool::{Connector, Event, Manager};
use livepool_postgres::Postgres;

use dial::Dial;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZE: usize = 1;

/// What the program has today.
fn before(url: &str) -> Result<deadpool_postgres::Pool> {
    let config: tokio_postgres::Config = url.parse()?;
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    Ok(deadpool_postgres::Pool::builder(manager).max_size(SIZE).build()?)
}

/// The least change: another way to connect. Every address is raced, sockets have keepalive, each
/// connection that ends says why, and a server that vanishes is found while its answer is waited for. The
/// pool, its manager and its clients are what they were, and so is what users leave behind.
fn our_sockets(url: &str) -> Result<deadpool_postgres::Pool> {
    let config: tokio_postgres::Config = url.parse()?;
    let ours = Postgres::from_url(url)?.config().with_name("sockets");
    let dial = Dial(Connector::with_observer(&ours, tell)?, ours.timeouts.connect);
    // The line that changed.
    let manager = deadpool_postgres::Manager::from_connect(config, dial, Default::default());
    Ok(deadpool_postgres::Pool::builder(manager).max_size(SIZE).build()?)
}

/// Our manager: the pool is deadpool's, with its hooks and its `PoolError`, and what a connection is, and
/// how it is checked and made fit for its next user, is ours.
fn our_manager(url: &str) -> Result<deadpool::managed::Pool<Manager<Postgres>>> {
    let ours =
        Postgres::from_url(url)?.with_config(|config| config.with_name("manager")).builder()?;
    let manager = ours.observer(tell).build_manager()?;
    let pool = deadpool::managed::Pool::builder(manager).max_size(SIZE).build()?;
    // Idle connections are looked after, too.
    Manager::watch(&pool);
    Ok(pool)
}

#[tokio::main]
async fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let (url, _server) = match (args.next().as_deref(), args.next()) {
        (None, _) => {
            let server = server::start()?;
            (server.url(), Some(server))
        }
        (Some("--url"), Some(url)) => (url, None),
        _ => return Err("usage: [--url postgres://user:password@host/database]".into()),
    };

    println!("\nbefore: deadpool-postgres as it is");
    let pool = before(&url)?;
    troubles(async || Ok(pool.get().await?), |client| client).await?;
    drop(pool);

    println!("\nour sockets under deadpool-postgres");
    let pool = our_sockets(&url)?;
    troubles(async || Ok(pool.get().await?), |client| client).await?;
    drop(pool);
    tokio::time::sleep(Duration::from_millis(50)).await;

    println!("\nour manager in a deadpool");
    let pool = our_manager(&url)?;
    troubles(async || Ok(pool.get().await?), |client| client).await?;
    // It finds out that a connection came back within half a second.
    tokio::time::sleep(Duration::from_millis(600)).await;
    println!("    as deadpool sees it: {:?}", pool.status());
    println!("    as its manager does: {}", pool.manager().status());
    Ok(())
}

/// What a program meets sooner or later. `client` is how one gets to the client library's own client,
/// which all three have: `&conn`.
async fn troubles<C>(
    get: impl AsyncFn() -> Result<C>,
    client: impl Fn(&C) -> &tokio_postgres::Client,
) -> Result {
    let conn = get().await?;
    let sleep = client(&conn).batch_execute("SELECT pg_sleep(2)");
    let _ = tokio::time::timeout(Duration::from_millis(100), sleep).await;
    drop(conn);
    let began = Instant::now();
    let conn = get().await?;
    client(&conn).batch_execute("SELECT 1").await?;
    let waited = began.elapsed();
    println!(
        "    a query of 2 s was given up after 0.1 s; the next user had an answer {waited:.1?} later"
    );

    client(&conn).batch_execute("SET application_name = 'somebody else'").await?;
    drop(conn);
    let conn = get().await?;
    let row = client(&conn).query_one("SHOW application_name", &[]).await?;
    println!("    a setting that one user left is for the next: {:?}", row.get::<_, &str>(0));
    Ok(())
}

fn tell(_: &str, event: &Event) {
    match event {
        Event::Opened { conn, peer, took, .. } => {
            println!("    [connection {conn} to {peer}, made within {took:.1?}]");
        }
        Event::Closed { conn, reason, age, .. } => {
            println!("    [connection {conn} is closed after {age:.1?}: {reason}]");
        }
        _ => {}
    }
}
