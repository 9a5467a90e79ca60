//! PostgreSQL, always a real server that the test has started.
#![cfg(target_os = "linux")]

#[path = "postgres/bouncer.rs"]
mod bouncer;
#[path = "postgres/bounds.rs"]
mod bounds;
#[path = "postgres/cancel.rs"]
mod cancel;
#[path = "postgres/cancel_requests.rs"]
mod cancel_requests;
#[path = "postgres/copy.rs"]
mod copy;
#[path = "postgres/credentials.rs"]
mod credentials;
#[path = "postgres/deadpool.rs"]
mod deadpool_pools;
#[path = "../examples/support/dial.rs"]
mod dial;
#[path = "postgres/faults.rs"]
mod faults;
#[path = "postgres/left.rs"]
mod left;
#[path = "postgres/listen.rs"]
mod listen;
#[path = "postgres/patience.rs"]
mod patience;
#[path = "postgres/pool_queries.rs"]
mod pool_queries;
#[path = "postgres/retry.rs"]
mod retry;
#[path = "postgres/roles.rs"]
mod roles;
#[path = "postgres/session.rs"]
mod session;
#[path = "postgres/setup.rs"]
mod setup;
#[path = "postgres/sharing.rs"]
mod sharing;
#[path = "postgres/statements.rs"]
mod statements;
#[path = "postgres/storm.rs"]
mod storm;
#[path = "postgres/throughput.rs"]
mod throughput;
#[path = "postgres/tls.rs"]
mod tls;
#[path = "postgres/token.rs"]
mod token;

use std::task::Poll;
use std::time::Duration;

use livepool::{Config, Pool, Timeouts};
use livepool_postgres::{Client, Postgres};
use livepool_testkit::servers::Postgres as Server;
use livepool_testkit::{Events, patient};

const SECOND: Duration = Duration::from_secs(1);

/// A server that asks for no password. To check one takes a client that was not optimized half a
/// second.
fn trusting_server(settings: &[(&str, &str)]) -> Server {
    let server = Server::start_with(settings);
    server.trust_everybody();
    server
}

fn postgres(server: &Server) -> Postgres {
    Postgres::from_url(&server.url()).unwrap().with_config(patient)
}

/// A pool for `server`, and its events.
fn pool(server: &Server, change: impl FnOnce(Config) -> Config) -> (Pool<Postgres>, Events) {
    pool_of(postgres(server), change)
}

/// The adapter may be another one than [`postgres`] makes: it becomes [`patient`] here, too.
fn pool_of(postgres: Postgres, change: impl FnOnce(Config) -> Config) -> (Pool<Postgres>, Events) {
    let events = Events::default();
    let builder = postgres.with_config(|config| change(patient(config))).builder().unwrap();
    (builder.observer(events.observer()).build().unwrap(), events)
}

fn one(config: Config) -> Config {
    config.with_max_size(1)
}

/// A number that went to the server and back.
async fn echo(client: &Client, number: i64) -> Result<i64, tokio_postgres::Error> {
    let statement = client.prepare_cached("SELECT $1::int8").await?;
    Ok(client.query_one(&statement, &[&number]).await?.get(0))
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// How many sessions run a statement that contains this.
fn running(server: &Server, text: &str) -> usize {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE state = 'active' AND query LIKE '%{text}%' AND pid <> pg_backend_pid()"
    );
    server.psql(&sql).parse().unwrap()
}

/// Fills the pool with so many idle connections.
async fn fill(pool: &Pool<Postgres>, count: usize) {
    let mut conns = Vec::new();
    for number in 0..count {
        let conn = pool.get().await.unwrap();
        assert_eq!(echo(&conn, number as i64).await.unwrap(), number as i64);
        conns.push(conn);
    }
    drop(conns);
    livepool_testkit::until_status(pool, |now| now.idle == count).await;
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
