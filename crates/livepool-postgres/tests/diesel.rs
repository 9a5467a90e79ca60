//! diesel-async on a pool's sessions, with a real PostgreSQL that the test has started.
#![cfg(target_os = "linux")]

#[path = "diesel/faults.rs"]
mod faults;
#[path = "diesel/given_up.rs"]
mod given_up;
#[path = "../examples/support/diesel.rs"]
mod library;
#[path = "diesel/queries.rs"]
mod queries;
#[path = "diesel/statements.rs"]
mod statements;
#[path = "diesel/storm.rs"]
mod storm;

use std::task::Poll;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use library::{Diesel, DieselPool, diesel};
use livepool::{Config, Timeouts};
use livepool_postgres::{LibraryPostgres, Postgres};
use livepool_testkit::Events;
use livepool_testkit::servers::Postgres as Server;
use schema::orders;

type Guard = livepool::Guard<LibraryPostgres<Diesel>>;

const SECOND: Duration = Duration::from_secs(1);

#[allow(missing_docs)]
mod schema {
    diesel::table! {
        orders (id) {
            id -> Int8,
            customer -> Text,
            amount -> Int4,
        }
    }
}

/// A server that asks for no password, with an empty table of orders. Its sessions begin in a time zone that
/// diesel does not want.
fn server() -> Server {
    let server = Server::start_with(&[("timezone", "Asia/Tokyo"), ("max_connections", "60")]);
    server.trust_everybody();
    server.psql(
        "CREATE TABLE orders (id int8 PRIMARY KEY, customer text NOT NULL, amount int4 NOT NULL)",
    );
    server
}

fn postgres(server: &Server) -> Postgres {
    Postgres::from_url(&server.url()).unwrap()
}

/// A pool for `server`, and its events.
fn pool(server: &Server, change: impl FnOnce(Config) -> Config) -> (DieselPool, Events) {
    pool_of(postgres(server), change)
}

fn pool_of(postgres: Postgres, change: impl FnOnce(Config) -> Config) -> (DieselPool, Events) {
    let events = Events::default();
    // A request to cancel is a connection, for which the server starts a process: on a busy machine it
    // may take longer than the second that a reset has by default.
    let timeouts = Timeouts::default().with_reset(20 * SECOND);
    let builder = diesel(postgres)
        .with_config(|config| change(config.with_timeouts(timeouts)))
        .builder()
        .unwrap();
    (builder.observer(events.observer()).build().unwrap(), events)
}

fn one(config: Config) -> Config {
    config.with_max_size(1)
}

/// A number that went to the server and back, by a statement that diesel keeps.
async fn echo(conn: &mut Guard, number: i64) -> QueryResult<i64> {
    diesel::select(number.into_sql::<BigInt>()).get_result(conn).await
}

async fn pid(conn: &mut Guard) -> i32 {
    sql::<Integer>("SELECT pg_backend_pid()").get_result(conn).await.unwrap()
}

async fn insert(
    conn: &mut impl AsyncConnection<Backend = diesel::pg::Pg>,
    id: i64,
) -> QueryResult<usize> {
    let order = (orders::id.eq(id), orders::customer.eq("somebody"), orders::amount.eq(1));
    diesel::insert_into(orders::table).values(order).execute(conn).await
}

async fn count(conn: &mut Guard) -> i64 {
    orders::table.count().get_result(conn).await.unwrap()
}

/// How many sessions run a statement that contains this.
fn running(server: &Server, text: &str) -> usize {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE state = 'active' AND query LIKE '%{text}%' AND pid <> pg_backend_pid()"
    );
    server.psql(&sql).parse().unwrap()
}

/// What the work comes to, or `None`: it was given up when it had to wait once more than so often.
async fn given_up_after<T>(waits: usize, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut left) = (std::pin::pin!(work), waits);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}
