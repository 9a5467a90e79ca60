//! Small queries, prepared, as text and in transactions; and a hundred rows.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use livepool_postgres::Postgres as Adapter;
use livepool_testkit::servers::Postgres;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::rounds::{Contender, contender};
use crate::{CONNECTIONS, Group};

const ONE: &str = "SELECT 1";
const ROWS: &str = "SELECT g, repeat('x', 200) FROM generate_series(1, 100) g";
/// Clients that are shared without a pool.
const SHARED: usize = 4;

pub fn groups(runtime: &Runtime) -> (Box<dyn Any>, Vec<Group>) {
    let server = Postgres::start();
    let url = server.url();
    let _entered = runtime.enter();
    let adapter = Adapter::from_url(&url).expect("a URL");
    let config = adapter.config();
    let config = config.with_max_size(CONNECTIONS).with_max_waiting(None);
    let ours = livepool::Pool::builder(config).protocol(adapter).build().expect("a pool");
    let config: tokio_postgres::Config = url.parse().expect("a URL");
    let manager = deadpool_postgres::Manager::new(config.clone(), NoTls);
    let theirs = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS).build();
    let theirs = theirs.expect("a pool");
    let sqlx = |tests: bool| {
        let options = PgPoolOptions::new().max_connections(CONNECTIONS as u32);
        options.test_before_acquire(tests).connect_lazy(&url).expect("a URL")
    };
    // As it comes, it makes a round trip at each checkout and one at each return. Only the first can be
    // left out.
    let others = [("sqlx", sqlx(true)), ("sqlx, no test at checkout", sqlx(false))];
    let shared = (0..SHARED).map(|_| {
        let (client, connection) = runtime.block_on(config.connect(NoTls)).expect("a server");
        runtime.spawn(connection);
        let statement = runtime.block_on(client.prepare(ONE)).expect("a statement");
        (client, statement)
    });
    let shared = Arc::new((AtomicUsize::new(0), shared.collect::<Vec<_>>()));

    let exclusive =
        |name: &str, ours, theirs: Contender, of_sqlx: fn(&'static str, &PgPool) -> Contender| {
            let others = others.iter().map(|(name, pool)| of_sqlx(name, pool));
            Group {
                name: name.to_owned(),
                callers: &[1, 16, 64],
                contenders: [ours, theirs.with_goal(1.0)].into_iter().chain(others).collect(),
            }
        };
    let (livepool, deadpool) = ("livepool", "deadpool-postgres, fast");
    let groups = vec![
        exclusive(
            "postgres prepared",
            contender(livepool, &ours, |pool| async move {
                let client = pool.get().await.expect("a connection");
                let statement = client.prepare_cached(ONE).await.expect("a statement");
                client.query_one(&statement, &[]).await.expect("a row");
            }),
            contender(deadpool, &theirs, |pool| async move {
                let client = pool.get().await.expect("a connection");
                let statement = client.prepare_cached(ONE).await.expect("a statement");
                client.query_one(&statement, &[]).await.expect("a row");
            }),
            one_of_sqlx,
        ),
        exclusive(
            "postgres query(&str)",
            contender(livepool, &ours, |pool| async move {
                let client = pool.get().await.expect("a connection");
                client.query_one(ONE, &[]).await.expect("a row");
            }),
            contender(deadpool, &theirs, |pool| async move {
                let client = pool.get().await.expect("a connection");
                client.query_one(ONE, &[]).await.expect("a row");
            }),
            one_of_sqlx,
        ),
        exclusive(
            "postgres transaction",
            contender(livepool, &ours, |pool| async move {
                let mut client = pool.get().await.expect("a connection");
                let transaction = client.transaction().await.expect("a transaction");
                let statement = transaction.prepare_cached(ONE).await.expect("a statement");
                transaction.query_one(&statement, &[]).await.expect("a row");
                transaction.commit().await.expect("committed");
            }),
            contender(deadpool, &theirs, |pool| async move {
                let mut client = pool.get().await.expect("a connection");
                let transaction = client.transaction().await.expect("a transaction");
                let statement = transaction.prepare_cached(ONE).await.expect("a statement");
                transaction.query_one(&statement, &[]).await.expect("a row");
                transaction.commit().await.expect("committed");
            }),
            |name, pool| {
                contender(name, pool, |pool| async move {
                    let mut transaction = pool.begin().await.expect("a transaction");
                    sqlx::query(ONE).fetch_one(&mut *transaction).await.expect("a row");
                    transaction.commit().await.expect("committed");
                })
            },
        ),
        exclusive(
            "postgres 100 rows of 200 bytes",
            contender(livepool, &ours, |pool| async move {
                let client = pool.get().await.expect("a connection");
                let statement = client.prepare_cached(ROWS).await.expect("a statement");
                assert_eq!(client.query(&statement, &[]).await.expect("rows").len(), 100);
            }),
            contender(deadpool, &theirs, |pool| async move {
                let client = pool.get().await.expect("a connection");
                let statement = client.prepare_cached(ROWS).await.expect("a statement");
                assert_eq!(client.query(&statement, &[]).await.expect("rows").len(), 100);
            }),
            |name, pool| {
                contender(name, pool, |pool| async move {
                    assert_eq!(sqlx::query(ROWS).fetch_all(&pool).await.expect("rows").len(), 100);
                })
            },
        ),
        Group {
            name: "postgres prepared, shared".to_owned(),
            callers: &[16, 64, 256],
            contenders: vec![
                contender("livepool, shared", &ours, |pool| async move {
                    let client = pool.share().await.expect("a share");
                    client.query_one(ONE, &[]).await.expect("a row");
                }),
                contender("4 tokio-postgres clients", &shared, |shared| async move {
                    let (next, clients) = &*shared;
                    let (client, statement) =
                        &clients[next.fetch_add(1, Ordering::Relaxed) % SHARED];
                    client.query_one(statement, &[]).await.expect("a row");
                })
                .with_goal(1.0)
                .with_cpu_goal(1.05),
            ],
        },
    ];
    (Box::new(server), groups)
}

/// It has one way for texts and for what is prepared: it prepares each text once per connection.
fn one_of_sqlx(name: &'static str, pool: &PgPool) -> Contender {
    contender(name, pool, |pool| async move {
        sqlx::query(ONE).fetch_one(&pool).await.expect("a row");
    })
}
