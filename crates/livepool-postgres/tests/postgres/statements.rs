//! Prepared statements: those that became invalid, those that nobody will use again, and those that a
//! session does not have.

use livepool::CloseReason;
use livepool_postgres::{RecyclingMethod, Statements};

use super::*;
use livepool::protocol::{Protocol, StatementCounts};
use livepool_testkit::{until_seen, until_status};

/// A statement that the session does not have is no fault of the network.
#[tokio::test]
async fn an_answer_that_does_not_fit_the_client_has_a_reason_of_its_own_and_the_servers_code() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    let statement = conn.prepare("SELECT 1").await.unwrap();
    // As behind a proxy that gives the next transaction another session.
    let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 1'";
    let name: String = conn.query_one(name, &[]).await.unwrap().get(0);
    conn.batch_execute(&format!("DEALLOCATE {name}")).await.unwrap();
    let error = conn.query(&statement, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "26000");
    drop((statement, conn));
    assert_eq!(events.until_closed(1).await, [CloseReason::ProtocolError]);
    assert_eq!(events.codes(), [Some("26000".to_owned())]);
}

/// Runs `SELECT * FROM item` from the cache, as any user would.
async fn all_items(client: &Client) -> Result<usize, tokio_postgres::Error> {
    let statement = client.prepare_cached("SELECT * FROM item").await?;
    Ok(client.query(&statement, &[]).await?.len())
}

#[tokio::test]
async fn a_change_of_the_schema_fails_nobody_on_any_connection() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE item (a int); INSERT INTO item VALUES (1)");
    let (pool, events) = pool(&server, |config| config.with_max_size(4));
    let held = futures_util::future::join_all((0..4).map(|_| pool.get())).await;
    for conn in held {
        assert_eq!(all_items(&conn.unwrap()).await.unwrap(), 1);
    }
    for change in ["ADD COLUMN b text", "ADD COLUMN c int", "DROP COLUMN b"] {
        server.psql(&format!("ALTER TABLE item {change}"));
        for _ in 0..3 {
            let held = futures_util::future::join_all((0..4).map(|_| pool.get())).await;
            for conn in held {
                assert_eq!(all_items(&conn.unwrap()).await.unwrap(), 1, "{change}");
            }
        }
    }
    assert_eq!(events.closed(), []);
}

/// In a transaction nothing can be run again: the server has given it up.
#[tokio::test]
async fn in_a_transaction_a_change_of_the_schema_costs_the_pool_one_use() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE item (a int); INSERT INTO item VALUES (1)");
    let (pool, events) = pool(&server, |config| config.with_max_size(4));
    let mut failed = 0;
    for round in 0..5 {
        let held = futures_util::future::join_all((0..4).map(|_| pool.get())).await;
        for conn in held {
            let mut conn = conn.unwrap();
            let transaction = conn.transaction().await.unwrap();
            let statement = transaction.prepare_cached("SELECT * FROM item").await.unwrap();
            if let Err(error) = transaction.query(&statement, &[]).await {
                assert_eq!(error.code().unwrap().code(), "0A000");
                failed += 1;
            }
        }
        // It has to have been rolled back: psql waits for its lock, and keeps this thread.
        until_status(&pool, |now| now.idle == 4).await;
        if round == 1 {
            server.psql("ALTER TABLE item ADD COLUMN b text");
        }
    }
    assert_eq!((failed, events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_type_that_is_dropped_and_made_anew_fails_nobody() {
    let server = trusting_server(&[]);
    let make = "CREATE TYPE mood AS ENUM ('sad', 'glad'); \
                CREATE TABLE person (name text, mood mood); \
                INSERT INTO person VALUES ('a', 'glad')";
    server.psql(make);
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    let texts = [
        "SELECT name FROM person WHERE mood::text = $1",
        "SELECT mood::text FROM person WHERE name = $1",
        "SELECT name FROM person WHERE mood = $1::text::mood",
        "SELECT mood FROM person WHERE name = $1",
    ];
    for round in 0..4 {
        let mut failed = Vec::new();
        for _ in 0..3 {
            let held = futures_util::future::join_all((0..2).map(|_| pool.get())).await;
            for (conn, text) in held.iter().flat_map(|conn| texts.map(|text| (conn, text))) {
                let conn = conn.as_ref().unwrap();
                let statement = conn.prepare_cached(text).await.unwrap();
                if let Err(error) = conn.query(&statement, &[&"glad"]).await {
                    failed.push((text, format!("{error:?}")));
                }
            }
        }
        assert_eq!(failed, [], "{round}");
        server.psql(&format!("DROP TABLE person; DROP TYPE mood; {make}"));
    }
    assert_eq!(events.closed(), []);
}

/// As a service with one schema for each of its customers has it.
#[tokio::test]
async fn two_search_paths_may_share_a_text() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE SCHEMA ta; CREATE SCHEMA tb; CREATE TABLE ta.item (id int, n int); \
         CREATE TABLE tb.item (id bigint, n int, extra text); \
         INSERT INTO ta.item VALUES (1, 1); INSERT INTO tb.item VALUES (2, 2, 'x')",
    );
    let fast = postgres(&server).with_recycling(RecyclingMethod::Fast);
    let (pool, events) = pool_of(fast, |config| config.with_max_size(2));
    for round in 0..200 {
        let (schema, columns) = [("ta", 2), ("tb", 3)][round % 2];
        let mut conn = pool.get().await.unwrap();
        let text = "SELECT * FROM item";
        match round % 4 {
            0 | 1 => {
                conn.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
                let statement = conn.prepare_cached(text).await.unwrap();
                let rows = conn.query(&statement, &[]).await.unwrap();
                assert_eq!((rows.len(), rows[0].len()), (1, columns), "{round}");
            }
            // Until the end of a transaction, in which a failure would not be made good.
            _ => {
                let transaction = conn.transaction().await.unwrap();
                let set = format!("SET LOCAL search_path TO {schema}");
                transaction.batch_execute(&set).await.unwrap();
                let statement = transaction.prepare_cached(text).await.unwrap();
                let rows = transaction.query(&statement, &[]).await.unwrap();
                assert_eq!((rows.len(), rows[0].len()), (1, columns), "{round}");
                transaction.commit().await.unwrap();
            }
        }
    }
    assert_eq!(events.closed(), []);
    // They are kept, each for its own path: two statements, and one plan for each use of either.
    let conn = pool.get().await.unwrap();
    let kept = "SELECT count(*), sum(generic_plans + custom_plans)::int8 FROM pg_prepared_statements \
                WHERE statement = 'SELECT * FROM item'";
    let row = conn.query_one(kept, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 200));
}

/// A session that is cleaned has its first path again, and so has the cache.
#[tokio::test]
async fn a_path_that_is_reset_is_the_one_of_the_beginning() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE SCHEMA ta; CREATE TABLE ta.item (id int); CREATE TABLE item (id int, n int); \
         INSERT INTO ta.item VALUES (1); INSERT INTO item VALUES (1, 2)",
    );
    for method in [RecyclingMethod::Tidy, RecyclingMethod::Clean] {
        let (pool, events) = pool_of(postgres(&server).with_recycling(method), one);
        for round in 0..20 {
            let mut conn = pool.get().await.unwrap();
            if round % 2 == 0 {
                conn.batch_execute("SET search_path = ta").await.unwrap();
            }
            let transaction = conn.transaction().await.unwrap();
            let statement = transaction.prepare_cached("SELECT * FROM item").await.unwrap();
            let row = transaction.query_one(&statement, &[]).await.unwrap();
            assert_eq!(row.len(), 1 + round % 2);
            transaction.commit().await.unwrap();
        }
        assert_eq!(pool.get().await.unwrap().statement_cache().size(), 2);
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }
}

/// However a path is set that nobody can read out of the text.
#[tokio::test]
async fn a_search_path_that_was_set_by_a_function_fails_nobody() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE SCHEMA ta; CREATE SCHEMA tb; CREATE TABLE ta.item (id int); \
         CREATE TABLE tb.item (id bigint, extra text); \
         INSERT INTO ta.item VALUES (1); INSERT INTO tb.item VALUES (2, 'x')",
    );
    let (pool, events) = pool(&server, one);
    for round in 0..20 {
        let (schema, columns) = [("ta", 1), ("tb", 2)][round % 2];
        let conn = pool.get().await.unwrap();
        match round % 6 {
            0 | 1 => {
                let set = "SELECT set_config('search_path', $1, false)";
                conn.query(set, &[&schema]).await.unwrap();
            }
            2 | 3 => {
                let set = "SELECT set_config('search_' || 'path', $1, false)";
                conn.query(set, &[&schema]).await.unwrap();
            }
            _ => conn.batch_execute(&format!("SET SCHEMA '{schema}'")).await.unwrap(),
        }
        let statement = conn.prepare_cached("SELECT * FROM item").await.unwrap();
        let rows = conn.query(&statement, &[]).await.unwrap();
        assert_eq!((rows.len(), rows[0].len()), (1, columns), "{round}");
    }
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_session_whose_statements_are_gone_has_an_empty_cache() {
    let server = trusting_server(&[]);
    for method in ["DISCARD ALL", "DEALLOCATE ALL", "DISCARD PLANS", ""] {
        let adapter = postgres(&server).with_recycling(RecyclingMethod::Custom(method.into()));
        let (pool, events) = pool_of(adapter, one);
        for said in ["", "", "DEALLOCATE ALL", "DISCARD ALL", "", "DISCARD PLANS", "DISCARD ALL"] {
            let conn = pool.get().await.unwrap();
            assert_eq!(echo(&conn, 1).await.unwrap(), 1, "{method:?}, {said:?}");
            conn.batch_execute(said).await.unwrap();
            assert_eq!(echo(&conn, 2).await.unwrap(), 2, "{method:?}, {said:?}");
            conn.batch_execute(said).await.unwrap();
        }
        assert_eq!((events.opened(), events.closed()), (1, vec![]), "{method:?}");
    }
}

#[tokio::test]
async fn the_caches_of_all_connections_can_be_cleared_at_once() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_size(3));
    let held: Vec<_> = futures_util::future::join_all((0..3).map(|_| pool.get())).await;
    for conn in &held {
        assert_eq!(echo(conn.as_ref().unwrap(), 1).await.unwrap(), 1);
        assert_eq!(conn.as_ref().unwrap().statement_cache().size(), 1);
    }
    pool.protocol().unwrap().clear_statement_caches();
    for conn in &held {
        let conn = conn.as_ref().unwrap();
        assert_eq!(conn.statement_cache().size(), 0);
        let left =
            "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::int8'";
        assert_eq!(conn.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
        assert_eq!(echo(conn, 2).await.unwrap(), 2);
    }
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_description_that_is_given_up_leaves_no_transaction_to_its_own_user() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE kept (n int8)");
    let adapter = postgres(&server).with_statements(Statements::Unnamed);
    let (pool, events) = pool_of(adapter, one);
    let mut given_up = 0;
    for waits in 0..12 {
        let conn = pool.get().await.unwrap();
        let text = format!("SELECT {waits}::int8");
        match given_up_after(waits, conn.prepare_cached(&text)).await {
            Some(done) => drop(done.unwrap()),
            None => given_up += 1,
        }
        // Whatever it had begun has answered by now.
        conn.batch_execute("").await.unwrap();
        conn.execute("INSERT INTO kept VALUES ($1)", &[&(waits as i64)]).await.unwrap();
        drop(conn);
        let kept = server.psql(&format!("SELECT count(*) FROM kept WHERE n = {waits}"));
        assert_eq!(kept, "1", "given up after {waits} waits");
    }
    assert!(given_up >= 3, "{given_up}");
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn what_is_run_beside_a_description_is_no_part_of_its_transaction() {
    let server = trusting_server(&[]);
    server.psql("CREATE TABLE kept (n int8)");
    let adapter = postgres(&server).with_statements(Statements::Unnamed);
    let (pool, _) = pool_of(adapter, one);
    let conn = pool.get().await.unwrap();
    for number in 0..20_i64 {
        let text = format!("SELECT nothing_{number}");
        let insert = format!("INSERT INTO kept VALUES ({number})");
        // In either order.
        let (described, run) = match number % 2 {
            0 => tokio::join!(conn.prepare_cached(&text), conn.execute(&insert, &[])),
            _ => {
                let (run, described) =
                    tokio::join!(conn.execute(&insert, &[]), conn.prepare_cached(&text));
                (described, run)
            }
        };
        assert_eq!(described.unwrap_err().code().unwrap().code(), "42703");
        assert_eq!(run.unwrap(), 1);
    }
    drop(conn);
    assert_eq!(server.psql("SELECT count(*) FROM kept"), "20");
}

/// On one connection, as under `join!`: the transaction in which a text is described is no other call's.
#[tokio::test]
async fn what_runs_beside_a_description_is_not_undone_with_it() {
    let server = trusting_server(&[]);
    let unnamed = postgres(&server).with_statements(Statements::Unnamed);
    let (pool, _) = pool_of(unnamed, |config| config.with_max_size(2));
    let (client, other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let tables = "CREATE TABLE locked (a int4); CREATE TABLE written (a int4)";
    other.batch_execute(tables).await.unwrap();
    // The description waits for this.
    other.batch_execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut described = Box::pin(client.query("SELECT $1::int4 FROM locked", &[&1_i32]));
    let waits = tokio::time::timeout(Duration::from_millis(300), described.as_mut()).await;
    assert!(waits.is_err());
    let mut written = Box::pin(client.execute("INSERT INTO written VALUES (1)", &[]));
    let waits = tokio::time::timeout(Duration::from_millis(100), written.as_mut()).await;
    assert!(waits.is_err());
    // It is given up, and rolled back.
    drop(described);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(written.await.unwrap(), 1);
    let count = client.query_one("SELECT count(*) FROM written", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1, "it was said to be written");
}

/// There is nothing by which the client library tells such a statement from another but its name.
#[tokio::test]
async fn a_statement_without_parameters_and_columns_is_known_again() {
    let server = trusting_server(&[]);
    let run = async |client: &Client, text: &str| {
        let statement = client.prepare_cached(text).await.unwrap();
        client.execute(&statement, &[]).await.unwrap()
    };
    let unnamed = postgres(&server).with_statements(Statements::Unnamed);
    let (pool, events) = pool_of(unnamed, one);
    server.psql("CREATE TABLE kept (n int8)");
    for _ in 0..2 {
        let conn = pool.get().await.unwrap();
        assert_eq!(run(&conn, "INSERT INTO kept VALUES (1), (2)").await, 2);
        assert_eq!(run(&conn, "DELETE FROM kept WHERE n = 1").await, 1);
        assert_eq!(run(&conn, "DELETE FROM kept").await, 1);
        assert_eq!(conn.release(), livepool::Release::Reused);
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // A session that lost it prepares it anew.
    let (pool, _) = pool_of(postgres(&server), one);
    let conn = pool.get().await.unwrap();
    let statement = conn.prepare_cached("INSERT INTO kept VALUES (1)").await.unwrap();
    conn.prepare_cached("DELETE FROM kept").await.unwrap();
    let name = "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'INSERT%'";
    let name: String = conn.query_typed_one(name, &[]).await.unwrap().get(0);
    conn.batch_execute(&format!("DEALLOCATE {name}")).await.unwrap();
    assert_eq!(conn.execute(&statement, &[]).await.unwrap(), 1);
    assert_eq!(server.psql("SELECT count(*) FROM kept"), "1");
}

#[tokio::test]
async fn how_many_statements_are_kept_and_how_often_one_was_there_is_in_the_metrics() {
    use metrics_exporter_prometheus::PrometheusBuilder;

    // Never freed: the guard's recorder has to outlive it. Everything happens on this thread.
    let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(recorder);
    let server = trusting_server(&[]);
    let sampled = |config: livepool::Config| {
        // Four times a second.
        config.with_name("orders").with_max_size(2).with_max_silence(Duration::from_secs(1))
    };
    let (pool, _) = pool(&server, sampled);
    let seen = || {
        let page = handle.render();
        let find = |series: &str| {
            let value = |line: &str| line.strip_prefix(series)?.trim().parse::<u64>().ok();
            page.lines().find_map(value)
        };
        [
            find(r#"livepool_statements{pool="orders"}"#),
            find(r#"livepool_statement_lookups_total{pool="orders",result="hit"}"#),
            find(r#"livepool_statement_lookups_total{pool="orders",result="miss"}"#),
        ]
    };
    assert_eq!(seen(), [Some(0); 3], "before the first event");
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    for (client, texts) in [(&first, ["SELECT 1", "SELECT 2"]), (&second, ["SELECT 1"; 2])] {
        for text in texts {
            client.query_one(text, &[]).await.unwrap();
        }
    }
    until_seen(seen, |seen| *seen == [Some(3), Some(1), Some(3)]).await;
    // Another pool of the same protocol counts for itself.
    let other = pool.protocol().unwrap().clone();
    assert_eq!(other.statement_counts(), Some(StatementCounts::default()));
    first.statement_cache().remove("SELECT 2", &[]).unwrap();
    second.discard();
    until_seen(seen, |seen| *seen == [Some(1), Some(1), Some(3)]).await;
    first.query_one("SELECT 1", &[]).await.unwrap();
    drop(first);
    until_seen(seen, |seen| *seen == [Some(1), Some(2), Some(3)]).await;
}
