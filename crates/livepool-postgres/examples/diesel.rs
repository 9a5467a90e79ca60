//! diesel-async on a pool of livepool: queries that are given up, transactions that are dropped, a backend
//! that is killed.
//!
//! ```sh
//! cargo run -p livepool-postgres --example diesel
//! cargo run -p livepool-postgres --example diesel -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed: in a directory that
//! is gone afterwards, as another user if you are root. What joins the two is `support/diesel.rs`.
//!
//! Before, with the pool that diesel-async makes of a deadpool:
//!
//! ```ignore
//! let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);
//! let pool = diesel_async::pooled_connection::deadpool::Pool::builder(manager).max_size(2).build()?;
//! let mut conn = pool.get().await?;
//! ```

#[path = "support/diesel.rs"]
mod library;
#[path = "support/server.rs"]
mod server;

use std::time::{Duration, Instant};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};
use library::{Diesel, DieselPool, diesel};
use livepool::Event;
use livepool_postgres::{LibraryPostgres, Postgres};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
type Guard = livepool::Guard<LibraryPostgres<Diesel>>;

#[allow(missing_docs)]
mod schema {
    diesel::table! {
        livepool_notes (id) {
            id -> Int8,
            author -> Text,
            text -> Text,
        }
    }
}
use schema::livepool_notes as notes;

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = notes)]
struct Note {
    id: i64,
    author: String,
    text: String,
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
        _ => return Err("usage: diesel [--url postgres://user:password@host/database]".into()),
    };
    let closed = |_: &str, event: &Event| match event {
        Event::Opened { conn, peer, .. } => say(&format!("[{conn} is opened to {peer}]")),
        Event::Closed { conn, reason, .. } => say(&format!("[{conn} is closed: {reason}]")),
        _ => {}
    };
    let pool: DieselPool = diesel(Postgres::from_url(&url)?)
        .with_config(|config| config.with_name("example").with_max_size(2))
        .builder()?
        .observer(closed)
        .build()?;

    title("queries of a schema");
    // The table is this session's own, and gone with the next reset.
    let mut conn = pool.get().await?;
    conn.batch_execute(TABLE).await?;
    let note = Note { id: 1, author: "ann".into(), text: "buy milk".into() };
    diesel::insert_into(notes::table).values(&note).execute(&mut conn).await?;
    let of_ann = notes::table.filter(notes::author.eq("ann")).select(Note::as_select());
    for Note { id, author, text } in of_ann.load(&mut conn).await? {
        say(&format!("{id}: {author} says {text}"));
    }

    title("a transaction whose future is dropped");
    let work = conn.transaction(async |conn| {
        diesel::update(notes::table).set(notes::text.eq("never mind")).execute(conn).await?;
        conn.batch_execute("SELECT pg_sleep(3600) /* for nobody */").await
    });
    let given_up = tokio::time::timeout(Duration::from_millis(100), work).await.is_err();
    say(if given_up { "given up after 100 ms; the connection goes back" } else { "it was quick" });
    let (before, began) = (conn.id(), Instant::now());
    drop(conn);
    let (mut conn, mut other) = (pool.get().await?, pool.get().await?);
    if other.id() == before {
        std::mem::swap(&mut conn, &mut other);
    }
    say(&format!("the next user is served after {:.1?}", began.elapsed()));
    say(&format!("by the same session: {}", conn.id() == before));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%for nobody%' \
                   AND pid <> pg_backend_pid()";
    let left: i64 = sql::<BigInt>(running).get_result(&mut conn).await?;
    say(&format!("and {left} such queries run at the server"));
    let zone: String = sql::<Text>("SHOW timezone").get_result(&mut conn).await?;
    say(&format!("its time zone is {zone}, as diesel wants it"));
    conn.transaction(async |conn| conn.batch_execute("SELECT 1").await).await?;
    say("and it begins a transaction of its own");

    title("a backend that an administrator terminates while it is idle");
    let victim = pid(&mut conn).await?;
    drop(conn);
    sql::<diesel::sql_types::Bool>(&format!("SELECT pg_terminate_backend({victim})"))
        .execute(&mut other)
        .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut conn = pool.get().await?;
    say(&format!("the next user has another one: {}", pid(&mut conn).await? != victim));
    Ok(())
}

const TABLE: &str = "CREATE TEMP TABLE livepool_notes (id int8 PRIMARY KEY, author text NOT NULL, \
                     text text NOT NULL)";

async fn pid(conn: &mut Guard) -> Result<i32> {
    Ok(sql::<Integer>("SELECT pg_backend_pid()").get_result(conn).await?)
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(text: &str) {
    println!("    {text}");
}
