//! A pool for PostgreSQL, and what it does when things go wrong: queries that are given up,
//! transactions that are dropped, a backend that is killed, notifications, a change of role.
//!
//! ```sh
//! cargo run -p livepool-postgres --example postgres
//! cargo run -p livepool-postgres --example postgres -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed: in a directory that
//! is gone afterwards, as another user if you are root.

#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use livepool::{Delivery, Event, Pool};
use livepool_postgres::{Client, Postgres};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let (url, _server) = match (args.next().as_deref(), args.next()) {
        (None, _) => {
            let server = server::start()?;
            (server.url(), Some(server))
        }
        (Some("--url"), Some(url)) => (url, None),
        _ => return Err("usage: postgres [--url postgres://user:password@host/database]".into()),
    };
    let closed = |_: &str, event: &Event| match event {
        Event::Opened { conn, peer, .. } => say(&format!("[{conn} is opened to {peer}]")),
        Event::Closed { conn, reason, .. } => say(&format!("[{conn} is closed: {reason}]")),
        _ => {}
    };
    let pool = Postgres::from_url(&url)?
        .with_config(|config| config.with_name("example").with_max_size(2))
        .builder()?
        .observer(closed)
        .build()?;

    title("a query");
    let conn = pool.get().await?;
    let statement = conn.prepare_cached("SELECT version(), $1::int8 * 2").await?;
    let row = conn.query_one(&statement, &[&21_i64]).await?;
    say(row.get(0));
    say(&format!("twice 21 is {}", row.get::<_, i64>(1)));
    drop((row, statement, conn));

    title("a query that its caller gives up after 100 ms");
    let (conn, other) = (pool.get().await?, pool.get().await?);
    let backend = pid(&conn).await?;
    let sleep = conn.batch_execute("SELECT pg_sleep(3600) /* for nobody */");
    let given_up = tokio::time::timeout(Duration::from_millis(100), sleep).await.is_err();
    say(if given_up { "given up; the connection goes back" } else { "it was quick" });
    drop(conn);
    let began = Instant::now();
    let conn = pool.get().await?;
    let next = pid(&conn).await?;
    say(&format!("the next user is served after {:.1?}", began.elapsed()));
    say(&format!("by the same backend: {}", backend == next));
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 \
               AND pid <> pg_backend_pid()";
    let left: i64 = conn.query_one(sql, &[&"%for nobody%"]).await?.get(0);
    say(&format!("and {left} such queries run at the server"));
    drop((conn, other));

    title("a transaction that is dropped");
    let mut conn = pool.get().await?;
    conn.batch_execute("CREATE TEMP TABLE notes (text text)").await?;
    let transaction = conn.transaction().await?;
    transaction.execute("INSERT INTO notes VALUES ('never mind')", &[]).await?;
    drop(transaction);
    let rows: i64 = conn.query_one("SELECT count(*) FROM notes", &[]).await?.get(0);
    say(&format!("{rows} rows are left of it"));
    drop(conn);

    title("a backend that an administrator terminates while it is idle");
    let (a, b) = (pool.get().await?, pool.get().await?);
    let victim = pid(&a).await?;
    drop(a);
    b.execute("SELECT pg_terminate_backend($1)", &[&victim]).await?;
    drop(b);
    tokio::time::sleep(Duration::from_millis(100)).await;
    say(&format!("nobody had to find out: {}", pool.status()));
    let conn = pool.get().await?;
    say(&format!("and nobody fails: {} is {}", "1 + 1", one_plus_one(&conn).await?));
    drop(conn);

    title("notifications, and the end of the session that listens");
    let mut subscription = pool.listen(["jobs"]).await?;
    let conn = pool.get().await?;
    conn.batch_execute("NOTIFY jobs, 'first'").await?;
    // Nobody has to read for it to listen again.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid() \
                  AND application_name = current_setting('application_name') \
                  AND query LIKE '%pg_listening_channels()'";
    conn.execute(others, &[]).await?;
    // A notification, the word of the gap, a notification.
    for _ in 0..3 {
        match subscription.next().await {
            Some(Delivery::Message(message)) => say(&format!("job {}", message.payload())),
            Some(Delivery::Reconnected { reason, gap, .. }) => {
                say(&format!("reconnected ({reason}, {gap:.0?}): look for what was missed"));
                conn.batch_execute("NOTIFY jobs, 'second'").await?;
            }
            other => say(&format!("{other:?}")),
        }
    }
    drop((subscription, conn));

    title("a write where only reading is allowed");
    let conn = pool.get().await?;
    conn.batch_execute("SET default_transaction_read_only = on").await?;
    if let Err(error) = conn.batch_execute("CREATE TABLE notes (text text)").await {
        let why = error.as_db_error().map_or("", |error| error.message());
        say(&format!("the server says: {why}"));
    }
    say("so all connections go, as if the server had become a standby");
    drop(conn);
    tokio::time::sleep(Duration::from_millis(50)).await;

    title("a wrong database");
    wrong_database(&url).await;
    Ok(())
}

async fn wrong_database(url: &str) {
    let Ok(mut config) = url.parse::<livepool_postgres::tokio_postgres::Config>() else { return };
    config.dbname("no such database");
    let pool: std::result::Result<Pool<Postgres>, _> = Postgres::new(config).pool();
    let Ok(pool) = pool else { return };
    if let Err(error) = pool.get().await {
        let why = error.connect_error().map(ToString::to_string).unwrap_or_default();
        say(&format!("after {:.1?}, without a second try: {why}", error.waited()));
    }
}

async fn pid(client: &Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0))
}

async fn one_plus_one(client: &Client) -> Result<i32> {
    Ok(client.query_one("SELECT 1 + 1", &[]).await?.get(0))
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(text: &str) {
    println!("    {text}");
}
