//! What a user does with a connection, and what the next one finds.

use std::time::Duration;

use futures_util::SinkExt;
use livepool::{CloseReason, Release, Timeouts};
use livepool_postgres::RecyclingMethod;
use tokio_postgres::types::Type;

use super::*;
use livepool_testkit::{until_seen, until_status};

#[tokio::test]
async fn a_connection_on_which_nothing_is_owed_goes_back_at_once() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for number in 0..20 {
        let conn = pool.get().await.unwrap();
        assert_eq!(echo(&conn, number).await.unwrap(), number);
        assert_eq!(conn.release(), Release::Reused);
    }
    // A statement that is dropped is closed at the server first.
    for number in 0..20_i64 {
        let conn = pool.get().await.unwrap();
        let row = conn.query_one("SELECT $1::int8", &[&number]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), number);
        drop((row, conn));
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// Rows hold their statement, which is closed when they are dropped: on a connection that is idle or
/// somebody else's by then.
#[tokio::test]
async fn rows_may_be_kept_for_longer_than_their_connection() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for number in 0..50_i64 {
        let rows = {
            let conn = pool.get().await.unwrap();
            // The library's own call: ours would keep the statement.
            tokio_postgres::Client::query(&conn, "SELECT $1::int8", &[&number]).await.unwrap()
        };
        until_status(&pool, |now| now.idle == 1).await;
        assert_eq!(rows[0].get::<_, i64>(0), number);
        drop(rows);
        if number % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let conn = pool.get().await.unwrap();
    let left = "SELECT count(*) FROM pg_prepared_statements";
    let left = tokio_postgres::Client::query_one(&conn, left, &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 1, "its own");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// As a handler is written that returns rows. The server's answer to what closes their statement may
/// come at any moment in which the pool looks at its idle connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_outlive_their_connection_by_a_moment_cost_none() {
    const QUERIES: i64 = 4_000;
    const TASKS: i64 = 4;
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_size(4));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let pool = pool.clone();
        tasks.spawn(async move {
            for number in 0..QUERIES / TASKS {
                let rows = {
                    let conn = pool.get().await.unwrap();
                    let sql = "SELECT $1::int8";
                    // The library's own call: ours would keep the statement.
                    tokio_postgres::Client::query(&conn, sql, &[&(task + number)]).await.unwrap()
                };
                tokio::task::yield_now().await;
                assert_eq!(rows[0].get::<_, i64>(0), task + number);
                drop(rows);
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back_for_the_next_user() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    let backend = pid(&conn).await;
    conn.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let transaction = conn.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
    drop(transaction);
    drop(conn);

    // By hand, too: nobody says so to the client.
    let conn = pool.get().await.unwrap();
    conn.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(conn.release(), Release::Resetting);

    // In one that failed, and in one within it.
    let conn = pool.get().await.unwrap();
    conn.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    let mut outer = conn.transaction().await.unwrap();
    let inner = outer.savepoint("within").await.unwrap();
    let statement = inner.prepare_cached("INSERT INTO t VALUES ($1)").await.unwrap();
    inner.execute(&statement, &[&3_i64]).await.unwrap();
    drop(inner);
    drop(outer);
    drop(conn);

    // One whose beginning nobody waited for.
    let mut conn = pool.get().await.unwrap();
    drop(futures_util::poll!(std::pin::pin!(conn.transaction())));
    drop(conn);

    let conn = pool.get().await.unwrap();
    assert_eq!(pid(&conn).await, backend);
    let count: i64 = conn.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    // Without a transaction, each statement has a time of its own.
    conn.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
    assert_eq!(
        server.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL \
             AND datname = 'app' AND pid <> pg_backend_pid()"
        ),
        "0"
    );
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_transaction_that_is_committed_lasts() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    conn.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let transaction = conn.build_transaction().read_only(false).start().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    drop(conn);
    let conn = pool.get().await.unwrap();
    let count: i64 = conn.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
}

#[tokio::test]
async fn each_recycling_method_forgets_what_it_says() {
    let server = trusting_server(&[]);
    let setting = async |method: RecyclingMethod| {
        let (pool, events) = pool_of(postgres(&server).with_recycling(method), one);
        let conn = pool.get().await.unwrap();
        conn.batch_execute("SET work_mem = '7MB'; CREATE TEMP TABLE mine (n int)").await.unwrap();
        conn.prepare_cached("SELECT 1").await.unwrap();
        let back = conn.release();
        let conn = pool.get().await.unwrap();
        let rows = conn.simple_query("SHOW work_mem").await.unwrap();
        let value = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        let temp = conn.batch_execute("SELECT * FROM mine").await.is_ok();
        assert_eq!(conn.statement_cache().size(), 1);
        conn.query(&conn.prepare_cached("SELECT 1").await.unwrap(), &[]).await.unwrap();
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
        (back, value.unwrap(), temp)
    };
    let (seven, four) = ("7MB".to_owned(), "4MB".to_owned());
    assert_eq!(setting(RecyclingMethod::Fast).await, (Release::Reused, seven.clone(), true));
    assert_eq!(setting(RecyclingMethod::Verified).await, (Release::Resetting, seven, true));
    assert_eq!(setting(RecyclingMethod::Clean).await, (Release::Resetting, four.clone(), false));
    let custom = RecyclingMethod::Custom("RESET work_mem".into());
    assert_eq!(setting(custom).await, (Release::Resetting, four, true));
}

#[tokio::test]
async fn recycling_that_fails_closes_the_connection() {
    let server = trusting_server(&[]);
    let wrong = RecyclingMethod::Custom("SELECT 1/0".into());
    let (pool, events) = pool_of(postgres(&server).with_recycling(wrong), one);
    drop(pool.get().await.unwrap());
    assert_eq!(events.until_closed(1).await, [CloseReason::ResetFailed]);
}

#[tokio::test]
async fn a_statement_is_prepared_once_per_connection() {
    let server = trusting_server(&[]);
    let (pool, _) = pool_of(postgres(&server).with_statement_cache(3), one);
    let prepared =
        "SELECT count(*)::int8 FROM pg_prepared_statements WHERE statement LIKE '%AS tag'";
    for _ in 0..5 {
        let mut conn = pool.get().await.unwrap();
        conn.prepare_cached("SELECT 1 AS tag").await.unwrap();
        conn.prepare_typed_cached("SELECT $1 AS tag", &[Type::INT4]).await.unwrap();
        let transaction = conn.transaction().await.unwrap();
        transaction.prepare_cached("SELECT 1 AS tag").await.unwrap();
    }
    let conn = pool.get().await.unwrap();
    // The library's own call: ours would keep the statement that counts.
    let client: &tokio_postgres::Client = &conn;
    assert_eq!(client.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0), 2);
    assert_eq!(conn.statement_cache().size(), 2);
    // The one that was not used for the longest time makes room, and is closed at the server.
    for number in 0..10 {
        conn.prepare_cached(&format!("SELECT {number} AS tag")).await.unwrap();
        conn.prepare_cached("SELECT 1 AS tag").await.unwrap();
    }
    assert_eq!(conn.statement_cache().size(), 3);
    assert_eq!(client.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0), 3);
    conn.statement_cache().clear();
    assert_eq!(client.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// A text is as good as a statement of the cache: prepared at its first use on each connection, and
/// anew when it has become useless.
#[tokio::test]
async fn a_text_is_prepared_once_per_connection() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let prepared = "SELECT count(*)::int8 FROM pg_prepared_statements";
    pool.get().await.unwrap().batch_execute("CREATE TABLE tags (tag int4)").await.unwrap();
    for number in 0..5 {
        let mut conn = pool.get().await.unwrap();
        conn.execute("INSERT INTO tags VALUES ($1)", &[&number]).await.unwrap();
        let transaction = conn.transaction().await.unwrap();
        transaction.query("SELECT * FROM tags", &[]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(conn.release(), Release::Reused, "{number}");
    }
    let conn = pool.get().await.unwrap();
    let count = async || {
        let row = tokio_postgres::Client::query_one(&conn, prepared, &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    // And the one that counts, which the library prepares for itself.
    assert_eq!((count().await, conn.statement_cache().size()), (3, 2));
    // Its columns are other ones now: "cached plan must not change result type".
    server.psql("ALTER TABLE tags ADD COLUMN more int4");
    assert_eq!(conn.query("SELECT * FROM tags", &[]).await.unwrap()[0].len(), 2);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn notifications_are_delivered_and_not_inherited() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(SECOND).with_reset(20 * SECOND);
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let listener = pool.get().await.unwrap();
    let backend = pid(&listener).await;
    let mut notifications = listener.notifications();
    listener.batch_execute("LISTEN jobs").await.unwrap();
    // Longer than a read may take: nothing is owed.
    tokio::time::sleep(SECOND * 3 / 2).await;
    for payload in ["one", "two"] {
        server.psql(&format!("NOTIFY jobs, '{payload}'"));
        let notification = notifications.recv().await.unwrap();
        assert_eq!((notification.channel(), notification.payload()), ("jobs", payload));
    }
    assert!(notifications.try_recv().is_none());
    assert_eq!(listener.release(), Release::Resetting);
    assert!(notifications.recv().await.is_none(), "the connection is somebody else's now");

    let conn = pool.get().await.unwrap();
    assert_eq!(pid(&conn).await, backend);
    let mut notifications = conn.notifications();
    let channels = conn.query("SELECT pg_listening_channels()", &[]).await.unwrap();
    assert!(channels.is_empty(), "{channels:?}");
    server.psql("NOTIFY jobs, 'three'");
    echo(&conn, 1).await.unwrap();
    assert!(notifications.try_recv().is_none());

    // Behind another statement, too.
    conn.batch_execute("SELECT 1; LISTEN jobs").await.unwrap();
    assert_eq!(conn.release(), Release::Resetting);
    let conn = pool.get().await.unwrap();
    let channels = conn.query("SELECT pg_listening_channels()", &[]).await.unwrap();
    assert!(channels.is_empty(), "{channels:?}");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_copy_that_waits_for_our_data_has_no_read_timeout() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(SECOND).with_reset(20 * SECOND);
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let conn = pool.get().await.unwrap();
    conn.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let mut sink = Box::pin(conn.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap());
    for number in 0..3 {
        tokio::time::sleep(SECOND * 5 / 4).await;
        sink.send(format!("{number}\n").into()).await.unwrap();
    }
    tokio::time::sleep(SECOND * 5 / 4).await;
    assert_eq!(sink.as_mut().finish().await.unwrap(), 3);
    drop(sink);

    // One that is given up in the middle leaves nothing behind.
    let mut sink = Box::pin(conn.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap());
    sink.send("4\n".into()).await.unwrap();
    drop(sink);
    drop(conn);
    let conn = pool.get().await.unwrap();
    let count: i64 = conn.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!((count, events.opened(), events.closed()), (3, 1, vec![]));
}

/// Whoever keeps the sink and gives the connection back has the pool close it: the server would wait
/// for data for ever.
#[tokio::test]
async fn a_copy_that_outlives_its_guard_is_no_burden_for_the_next_user() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_reset(Duration::from_millis(300));
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let conn = pool.get().await.unwrap();
    conn.batch_execute("CREATE TABLE t (n int8)").await.unwrap();
    let sink = conn.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    assert_eq!(conn.release(), Release::Resetting);
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 7).await.unwrap(), 7);
    assert_eq!(events.closed(), [CloseReason::ResetFailed]);
    drop(sink);
}

/// The rows of a query that nobody takes keep its driver from reading on.
#[tokio::test]
async fn rows_that_are_not_taken_do_not_hold_up_the_next_user() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_reset(Duration::from_millis(300));
    let (pool, _) = pool(&server, |config| one(config).with_timeouts(timeouts));
    // From a few that are read at one go, to many that fill every buffer.
    for count in [3, 60, 100, 150, 200, 250, 300, 400, 2_000, 100_000] {
        let conn = pool.get().await.unwrap();
        let sql = format!("SELECT repeat('x', 100) FROM generate_series(1, {count})");
        let statement = conn.prepare(&sql).await.unwrap();
        let no: [i32; 0] = [];
        let rows = conn.query_raw(&statement, no).await.unwrap();
        drop(conn);
        let conn = pool.get().await.unwrap();
        let asked = tokio::time::timeout(5 * SECOND, echo(&conn, count)).await;
        assert_eq!(asked.expect("it waits for somebody else's rows").unwrap(), count);
        drop(rows);
    }
}

#[tokio::test]
async fn a_query_that_may_take_longer_says_so() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(Duration::from_millis(200));
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let mut conn = pool.get().await.unwrap();
    conn.set_read_timeout(None);
    conn.batch_execute("SELECT pg_sleep(0.7)").await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    conn.deadline(Duration::from_millis(300));
    let error = conn.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
    livepool_testkit::until(|| conn.ended_with().is_some()).await;
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    until_seen(|| running(&server, "pg_sleep(60)"), |seen| *seen == 0).await;
}

#[tokio::test]
async fn what_the_hook_after_connect_has_set_is_found_by_every_user_and_costs_them_no_reset() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    let server = trusting_server(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let (pool, events) = {
        let events = livepool_testkit::Events::default();
        let builder =
            postgres(&server).with_config(one).builder().unwrap().observer(events.observer());
        let pool = builder.after_connect(move |client, _| {
            count.fetch_add(1, SeqCst);
            Box::pin(async move {
                Ok(client
                    .batch_execute("SET application_name = 'orders'; SET work_mem = '5MB'")
                    .await?)
            })
        });
        (pool.build().unwrap(), events)
    };
    let set = async |client: &Client| -> (String, String) {
        let sql = "SELECT current_setting('application_name'), current_setting('work_mem')";
        let row = client.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let expected = ("orders".to_owned(), "5MB".to_owned());
    for _ in 0..3 {
        let conn = pool.get().await.unwrap();
        assert_eq!(set(&conn).await, expected);
        assert_eq!(conn.release(), Release::Reused, "its user has left nothing behind");
    }
    assert_eq!(calls.load(SeqCst), 1);
    let conn = pool.get().await.unwrap();
    conn.batch_execute("SET work_mem = '7MB'; SET application_name = 'else'").await.unwrap();
    assert_eq!(conn.release(), Release::Resetting);
    until_status(&pool, |now| now.idle == 1).await;
    let conn = pool.get().await.unwrap();
    assert_eq!(set(&conn).await, expected, "after the reset it was set again");
    assert_eq!(conn.release(), Release::Reused);
    // What it has set may be taken away by one who sets nothing.
    for text in ["RESET work_mem", "RESET ALL", "DISCARD ALL", "SET work_mem = '7MB'; RESET ALL"] {
        let conn = pool.get().await.unwrap();
        conn.batch_execute(text).await.unwrap();
        drop(conn);
        let conn = pool.get().await.unwrap();
        assert_eq!(set(&conn).await, expected, "{text}");
    }
    assert_eq!((calls.load(SeqCst), events.closed()), (6, vec![]));
}

/// Nobody sees what it runs: it may have listened, and what it did is for every user all the same.
#[tokio::test]
async fn a_hook_after_connect_that_runs_code_costs_nobody_a_reset_and_keeps_nobody_from_sharing() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    let server = trusting_server(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    // One: whoever cannot share it is not served.
    let builder = postgres(&server).with_config(one).builder().unwrap();
    let pool = builder.after_connect(move |client, _| {
        count.fetch_add(1, SeqCst);
        let code = "DO $$ BEGIN PERFORM set_config('work_mem', '5MB', false); END $$";
        Box::pin(async move { Ok(client.batch_execute(code).await?) })
    });
    let pool = pool.build().unwrap();
    for _ in 0..3 {
        let conn = pool.get().await.unwrap();
        let found = conn.query_one("SHOW work_mem", &[]).await.unwrap();
        assert_eq!(found.get::<_, &str>(0), "5MB");
        assert_eq!(conn.release(), Release::Reused);
    }
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    assert_eq!(first.id(), second.id());
    drop((first, second));
    until_status(&pool, |now| now.idle == 1).await;
    // What a user subscribes to ends with him, as ever.
    let conn = pool.get().await.unwrap();
    conn.batch_execute("LISTEN jobs").await.unwrap();
    assert_eq!((calls.load(SeqCst), conn.release()), (1, Release::Resetting));
    until_status(&pool, |now| now.idle == 1).await;
    let conn = pool.get().await.unwrap();
    let left = conn.query_one("SELECT count(*) FROM pg_listening_channels()", &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), calls.load(SeqCst)), (0, 2));
    assert_eq!(conn.release(), Release::Reused);
}

#[tokio::test]
async fn the_hook_after_connect_is_not_run_again_after_a_reset_that_undoes_nothing() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    let server = trusting_server(&[]);
    for method in [RecyclingMethod::Verified, RecyclingMethod::Tidy, RecyclingMethod::Fast] {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let postgres = postgres(&server).with_recycling(method.clone()).with_config(one);
        let pool = postgres.builder().unwrap().after_connect(move |client, _| {
            count.fetch_add(1, SeqCst);
            Box::pin(async move { Ok(client.batch_execute("SET work_mem = '5MB'").await?) })
        });
        let pool = pool.build().unwrap();
        for _ in 0..3 {
            let conn = pool.get().await.unwrap();
            // It is cancelled at the server, and a round trip shows that nothing more comes.
            let sleep = conn.batch_execute("SELECT pg_sleep(60)");
            let _ = tokio::time::timeout(Duration::from_millis(20), sleep).await;
            assert_eq!(conn.release(), Release::Resetting, "{method:?}");
            until_status(&pool, |now| now.idle == 1).await;
        }
        let conn = pool.get().await.unwrap();
        let found = conn.query_one("SHOW work_mem", &[]).await.unwrap();
        assert_eq!(found.get::<_, &str>(0), "5MB", "{method:?}");
        assert_eq!(calls.load(SeqCst), 1, "{method:?}");
        if method != RecyclingMethod::Verified {
            continue;
        }
        // What its user has changed is set again, though the method itself changes nothing.
        conn.batch_execute("SET work_mem = '7MB'").await.unwrap();
        assert_eq!(conn.release(), Release::Resetting);
        until_status(&pool, |now| now.idle == 1).await;
        let conn = pool.get().await.unwrap();
        let found = conn.query_one("SHOW work_mem", &[]).await.unwrap();
        assert_eq!((found.get::<_, &str>(0), calls.load(SeqCst)), ("5MB", 2));
    }
}
