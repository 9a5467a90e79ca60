//! Faults that are PostgreSQL's, with real servers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use livepool::{Config, Pool, Timeouts};
use livepool_postgres::Postgres;
use livepool_testkit::servers::Postgres as Server;
use tokio::time::{sleep, timeout};

use super::faults::{Faults, LONG, MS};

pub fn add_all(faults: &mut Faults) {
    let start = || {
        let server = Server::start();
        server.trust_everybody();
        Arc::new(server)
    };
    let (server, hangs) = (start(), start());
    let of = |server: &Arc<Server>| Arc::clone(server);
    faults.add("sessions", "LivepoolProtocolErrors", &[], |config| {
        unknown_statements(of(&server), config)
    });
    faults.add("sharing", "LivepoolSharingEnded", &[], |config| begins(of(&server), config));
    faults.add("in-clear", "LivepoolUnencrypted", &[], |config| in_clear(of(&server), config));
    faults.add("cancels", "LivepoolCancelsFail", OF_A_SERVER_THAT_HANGS, |config| {
        hangs_while_cancelled(hangs, config)
    });
}

const OF_A_SERVER_THAT_HANGS: &[&str] = &[
    "LivepoolUpstreamSlow",
    "LivepoolProtocolErrors",
    "LivepoolDialsFail",
    "LivepoolUpstreamUnreachable",
    "LivepoolCheckoutsFail",
    "LivepoolPoolFull",
];

fn pool(server: &Server, mode: &str, config: Config) -> Pool<Postgres> {
    let url = format!("{}?sslmode={mode}", server.url());
    let change = |of_url: Config| config.with_upstream(of_url.upstream);
    Postgres::from_url(&url).unwrap().with_config(change).pool().unwrap()
}

/// As behind a pooler that gives each transaction another session.
async fn unknown_statements(server: Arc<Server>, config: Config) -> Infallible {
    let pool = pool(&server, "disable", config);
    loop {
        let conn = pool.get().await.unwrap();
        let statement = conn.prepare("SELECT 1").await.unwrap();
        let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 1'";
        let name: String = conn.query_one(name, &[]).await.unwrap().get(0);
        conn.batch_execute(&format!("DEALLOCATE {name}")).await.unwrap();
        conn.query(&statement, &[]).await.unwrap_err();
        drop((statement, conn));
        sleep(300 * MS).await;
    }
}

async fn begins(server: Arc<Server>, config: Config) -> Infallible {
    let pool = pool(&server, "disable", config);
    loop {
        let (first, _second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
        first.batch("BEGIN").await.unwrap();
        // The next one finds that nobody may join.
        pool.share().await.unwrap();
        sleep(300 * MS).await;
    }
}

/// One connection, before the first scrape that sees its pool.
async fn in_clear(server: Arc<Server>, config: Config) -> Infallible {
    let pool = pool(&server, "prefer", config);
    loop {
        pool.get().await.unwrap().batch_execute("SELECT 1").await.unwrap();
        sleep(500 * MS).await;
    }
}

/// The server stands still when a caller gives up, and so takes no request to stop.
async fn hangs_while_cancelled(server: Arc<Server>, config: Config) -> Infallible {
    let timeouts =
        Timeouts::default().with_connect(300 * MS).with_reset(500 * MS).with_checkout(LONG);
    let pool = pool(&server, "disable", config.with_max_size(2).with_timeouts(timeouts));
    let state = |frozen: bool| {
        tokio::task::block_in_place(|| if frozen { server.freeze() } else { server.thaw() });
    };
    loop {
        // A dial may have met the server while it stood still.
        let Ok(conn) = pool.get().await else { continue };
        if timeout(20 * MS, conn.batch_execute("SELECT pg_sleep(60)")).await.is_err() {
            state(true);
        }
        drop(conn);
        sleep(Duration::from_millis(600)).await;
        state(false);
    }
}
