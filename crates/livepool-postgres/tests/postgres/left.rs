//! What a session keeps of its last user.

use std::collections::VecDeque;
use std::time::Duration;

use livepool::{CloseReason, Release, Timeouts};
use livepool_postgres::RecyclingMethod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use livepool_testkit::until_status;

const LISTENING: &str = "SELECT count(*) FROM pg_listening_channels()";

/// What passes takes this long, each way. How much is under way makes no difference.
async fn delayed(to: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (client, server) = (client.into_split(), server.into_split());
            tokio::spawn(pass(client.0, server.1, delay));
            tokio::spawn(pass(server.0, client.1, delay));
        }
    });
    port
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    delay: Duration,
) {
    let mut under_way = VecDeque::<(Instant, Vec<u8>)>::new();
    let mut bytes = vec![0; 65536];
    loop {
        let due = under_way.front().map(|(due, _)| *due);
        let arrive = async { tokio::time::sleep_until(due.unwrap()).await };
        tokio::select! {
            () = arrive, if due.is_some() => {
                let (_, bytes) = under_way.pop_front().unwrap();
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            read = from.read(&mut bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(count) => under_way.push_back((Instant::now() + delay, bytes[..count].into())),
            },
        }
    }
    for (due, bytes) in under_way {
        tokio::time::sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// How many statements the session has, and how many its cache knows of. Asked without one more.
async fn statements(pool: &Pool<Postgres>) -> (usize, usize) {
    let conn = pool.get().await.unwrap();
    let left = "SELECT count(*) FROM pg_prepared_statements";
    let row = conn.query_typed_one(left, &[]).await.unwrap();
    let cached = conn.statement_cache().size();
    (usize::try_from(row.get::<_, i64>(0)).unwrap(), cached)
}

/// Gives up what 2 000 callers do: when they have waited up to six times for an answer, or after any time up
/// to `most`. (A timer of the runtime is no earlier than a millisecond.)
async fn give_up(url: &str, most: Option<Duration>) {
    // What is left is counted here, and not how long a busy machine takes to clear it.
    let timeouts = Timeouts::default().with_reset(20 * SECOND);
    let (pool, events) =
        pool_of(Postgres::from_url(url).unwrap(), |config| one(config).with_timeouts(timeouts));
    let mut random = fastrand::Rng::with_seed(7);
    let mut given_up = 0;
    for number in 0..2000 {
        let conn = pool.get().await.unwrap();
        let (limit, waits) = (most.map(|most| most.mul_f64(random.f64())), random.usize(0..6));
        let text = format!("SELECT $1::int8 + {}", number % 5);
        let work = async {
            match number % 3 {
                0 => conn.query(text.as_str(), &[&1_i64]).await.map(drop),
                1 => conn.prepare(&text).await.map(drop),
                _ => {
                    let statement = conn.prepare_cached(&text).await?;
                    conn.query(&statement, &[&1_i64]).await.map(drop)
                }
            }
        };
        let done = match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.ok(),
            None => given_up_after(waits, work).await,
        };
        match done {
            Some(done) => done.unwrap(),
            None => given_up += 1,
        }
        if number % 250 == 249 {
            drop(conn);
            let (left, cached) = statements(&pool).await;
            assert_eq!(left, cached, "after {number}, {given_up} given up, {:?}", events.closed());
        }
    }
    assert!(given_up > 200, "{given_up} given up");
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_session_keeps_no_statement_of_a_query_that_was_given_up() {
    let server = trusting_server(&[]);
    give_up(&server.url(), None).await;
}

/// Where there is time to give up between each message and its answer.
#[tokio::test]
async fn a_session_far_away_keeps_no_statement_of_a_query_that_was_given_up() {
    let server = trusting_server(&[]);
    let port = delayed(server.port(), Duration::from_millis(1)).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/app");
    give_up(&url, Some(Duration::from_millis(8))).await;
}

/// A reset is a round trip, and only who has left something pays for it.
#[tokio::test]
async fn who_leaves_nothing_goes_back_at_once() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for round in 0..3 {
        let conn = pool.get().await.unwrap();
        // Prepared for later, run, refused; and an ordinary statement whose rows are still there.
        conn.prepare_cached("SELECT 1").await.unwrap();
        echo(&conn, 1).await.unwrap();
        assert!(conn.prepare("SELECT nothing").await.is_err());
        let rows = tokio_postgres::Client::query(&conn, "SELECT 2", &[]).await.unwrap();
        assert_eq!(conn.release(), Release::Reused, "{round}");
        drop(rows);
        until_status(&pool, |now| now.idle == 1).await;
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    let (left, cached) = statements(&pool).await;
    assert_eq!((left, cached), (2, 2));
}

/// However it was made.
#[tokio::test]
async fn a_subscription_made_inside_a_statement_ends_with_its_user() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE FUNCTION do_listen() RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE 'LISTEN ch'; RETURN 1; END $$; \
         CREATE PROCEDURE subscribe() LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'LISTEN ch'; END $$",
    );
    let (pool, events) = pool(&server, one);
    for text in [
        "LISTEN ch",
        "/* x */ LISTEN ch",
        "-- hi\nLISTEN ch",
        "SELECT 1; LISTEN ch",
        "UNLISTEN *; LISTEN ch",
        "BEGIN; LISTEN ch; COMMIT",
        "DO $$ BEGIN EXECUTE 'LIST' || 'EN ch'; END $$",
        "SELECT do_listen()",
        "CALL subscribe()",
        "/* x */ DO $$ BEGIN EXECUTE 'LIST' || 'EN ch'; END $$",
        "SELECT 1; CALL subscribe()",
    ] {
        for way in ["simple", "prepared", "cached", "cached before"] {
            let conn = pool.get().await.unwrap();
            let done = match way {
                "simple" => conn.batch_execute(text).await,
                "prepared" => conn.execute(text, &[]).await.map(drop),
                _ => match conn.prepare_cached(text).await {
                    Ok(statement) => conn.execute(&statement, &[]).await.map(drop),
                    Err(error) => Err(error),
                },
            };
            // Several statements cannot be prepared.
            let is_one = done.is_ok();
            assert!(is_one || text.contains(';'), "{text} {way}: {done:?}");
            drop(conn);
            let conn = pool.get().await.unwrap();
            let left: i64 = conn.query_one(LISTENING, &[]).await.unwrap().get(0);
            assert_eq!(left, 0, "{text}, {way}");
        }
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// A function of any name may listen, and nothing tells: until something is heard.
#[tokio::test]
async fn a_subscription_that_nothing_told_of_ends_with_the_first_notification() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE FUNCTION innocent() RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE 'LISTEN ch'; RETURN 1; END $$",
    );
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    conn.execute("SELECT innocent()", &[]).await.unwrap();
    drop(conn);
    // Heard while somebody uses the session: it is told to stop when it comes back.
    let conn = pool.get().await.unwrap();
    server.psql("NOTIFY ch");
    echo(&conn, 1).await.unwrap();
    assert_eq!(conn.release(), Release::Resetting);
    let conn = pool.get().await.unwrap();
    assert_eq!(conn.query_one(LISTENING, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(events.closed(), []);
    // Heard while nobody does: it is closed.
    conn.execute("SELECT innocent()", &[]).await.unwrap();
    drop(conn);
    until_status(&pool, |now| now.idle == 1).await;
    server.psql("NOTIFY ch");
    assert_eq!(events.until_closed(1).await, [CloseReason::Dirty]);
}

#[tokio::test]
async fn a_session_that_was_told_to_read_only_costs_itself_and_no_other() {
    let server = trusting_server(&[]);
    for set in [
        "SET default_transaction_read_only = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SELECT set_config('default_transaction_' || 'read_only', 'on', false)",
    ] {
        let (pool, events) = pool(&server, |config| config.with_max_size(4));
        fill(&pool, 4).await;
        for count in 1..=3 {
            let conn = pool.get().await.unwrap();
            conn.batch_execute(set).await.unwrap();
            let error = conn.batch_execute("CREATE TABLE nope (a int)").await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "25006");
            drop(conn);
            let closed = events.until_closed(count).await;
            assert_eq!(closed, vec![CloseReason::ProtocolError; count], "{set}");
            fill(&pool, 4).await;
        }
        assert_eq!(events.codes(), vec![Some("25006".to_owned()); 3]);
        assert_eq!(events.opened(), 7, "{set}: four, and one for each that was closed");
    }
}

/// A round trip is paid for by who has left something, however he did it.
#[tokio::test]
async fn a_session_that_was_changed_is_as_it_was_for_the_next_user() {
    let server = trusting_server(&[]);
    server.psql("CREATE ROLE other; CREATE SCHEMA ta");
    let (pool, events) = pool(&server, one);
    let state = "SELECT current_setting('work_mem'), current_user::text, \
                 current_setting('search_path'), \
                 (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')::text, \
                 (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())::text";
    let fresh = ["4MB", "postgres", "\"$user\", public", "0", "0"];
    for (text, release) in [
        ("SET work_mem = '77MB'", Release::Resetting),
        ("SET ROLE other", Release::Resetting),
        ("SET search_path = ta", Release::Resetting),
        ("SELECT set_config('work_mem', '77MB', false)", Release::Resetting),
        ("SELECT 1 FROM (SELECT pg_advisory_lock(7)) x", Release::Resetting),
        ("CREATE TEMP TABLE mine (a int)", Release::Resetting),
        ("DO $$ BEGIN EXECUTE 'SET work' || '_mem = 77000'; END $$", Release::Resetting),
        ("/* x */ DO $$ BEGIN EXECUTE 'SET work' || '_mem = 77000'; END $$", Release::Resetting),
        ("/* x */ CREATE TEMP TABLE mine AS SELECT 1 AS a", Release::Resetting),
        ("UPDATE pg_settings SET setting = '77000' WHERE name = 'work_mem'", Release::Resetting),
        ("SELECT setting FROM pg_settings WHERE name = 'work_mem'", Release::Reused),
        ("SELECT 1", Release::Reused),
        ("SET LOCAL work_mem = '77MB'", Release::Reused),
        ("SELECT pg_advisory_xact_lock(7)", Release::Reused),
    ] {
        // What was prepared for one is run for the next as well.
        for round in 0..2 {
            let conn = pool.get().await.unwrap();
            let statement = conn.prepare_cached(text).await.unwrap();
            conn.execute(&statement, &[]).await.unwrap();
            drop(statement);
            assert_eq!(conn.release(), release, "{text}, {round}");
            let conn = pool.get().await.unwrap();
            let statement = conn.prepare_cached(state).await.unwrap();
            let row = conn.query_one(&statement, &[]).await.unwrap();
            let found: Vec<String> = (0..5).map(|index| row.get(index)).collect();
            assert_eq!(found, fresh, "{text}, {round}");
            drop((row, statement));
            assert_eq!(conn.release(), Release::Reused, "{text}, {round}");
        }
    }
    for several in [
        "SELECT 1; DO $$ BEGIN EXECUTE 'SET work' || '_mem = 77000'; END $$",
        "DROP TABLE IF EXISTS mine; CREATE TEMP TABLE mine AS SELECT 1 AS a",
        "SET LOCAL lock_timeout = '1s'; SET work_mem = '77MB'",
        "SET TRANSACTION READ WRITE; SET ROLE other",
    ] {
        let conn = pool.get().await.unwrap();
        conn.batch_execute(several).await.unwrap();
        assert_eq!(conn.release(), Release::Resetting, "{several}");
        let row = pool.get().await.unwrap().query_one(state, &[]).await.unwrap();
        let found: Vec<String> = (0..5).map(|index| row.get(index)).collect();
        assert_eq!(found, fresh, "{several}");
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// As services have it whose logins change, and whose tables belong to one role.
#[tokio::test]
async fn a_role_that_a_login_begins_with_is_that_of_the_next_user_as_well() {
    let server = trusting_server(&[]);
    server.psql(
        "CREATE ROLE owner; CREATE ROLE login LOGIN; CREATE ROLE asking LOGIN; \
         GRANT owner TO login, asking; ALTER ROLE login SET role = 'owner'",
    );
    let host = format!("127.0.0.1:{}/app", server.port());
    for (login, options) in [("login", ""), ("asking", "?options=-c%20role%3Downer")] {
        for method in [RecyclingMethod::Tidy, RecyclingMethod::Clean] {
            let adapter = Postgres::from_url(&format!("postgres://{login}@{host}{options}"));
            let (pool, events) = pool_of(adapter.unwrap().with_recycling(method.clone()), one);
            for text in
                ["SET work_mem = '5MB'", "SET ROLE NONE", "SET SESSION AUTHORIZATION DEFAULT"]
            {
                pool.get().await.unwrap().batch_execute(text).await.unwrap();
                let conn = pool.get().await.unwrap();
                let found = conn.query_one("SELECT current_user::text", &[]).await.unwrap();
                assert_eq!(found.get::<_, &str>(0), "owner", "{login}, {method:?}, {text}");
            }
            assert_eq!((events.opened(), events.closed()), (1, vec![]));
        }
    }
}

/// A server that only reads from the beginning does not become another one by being left.
#[tokio::test]
async fn a_server_that_was_read_only_before_is_not_left() {
    let server = trusting_server(&[("default_transaction_read_only", "on")]);
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    fill(&pool, 2).await;
    for _ in 0..3 {
        let conn = pool.get().await.unwrap();
        assert!(conn.batch_execute("CREATE TABLE nope (a int)").await.is_err());
        drop(conn);
        until_status(&pool, |now| now.idle == 2).await;
    }
    assert_eq!((events.opened(), events.closed()), (2, vec![]));
}

/// The table in the documentation of `RecyclingMethod`.
#[tokio::test]
async fn what_a_session_keeps_is_what_its_recycling_says() {
    let server = trusting_server(&[]);
    server.psql("CREATE ROLE other; CREATE SCHEMA ta; CREATE SEQUENCE numbers");
    let state = "SELECT current_setting('work_mem') = '77MB', current_user = 'other', \
                 current_setting('search_path') = 'ta', \
                 EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7), \
                 to_regclass('pg_temp.mine') IS NOT NULL, \
                 EXISTS (SELECT FROM pg_cursors WHERE name = 'mine'), \
                 EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'mine'), \
                 EXISTS (SELECT FROM pg_listening_channels())";
    for (method, kept) in [
        (RecyclingMethod::default(), [false, false, false, false, false, false, true, false]),
        (RecyclingMethod::Fast, [true, true, true, true, true, true, true, false]),
        (RecyclingMethod::Verified, [true, true, true, true, true, true, true, false]),
        (RecyclingMethod::Clean, [false, false, false, false, false, false, true, false]),
        (RecyclingMethod::Custom("DISCARD ALL".into()), [false; 8]),
    ] {
        let adapter = postgres(&server).with_recycling(method.clone());
        let (pool, events) = pool_of(adapter, one);
        let conn = pool.get().await.unwrap();
        conn.batch_execute(
            "CREATE TEMP TABLE mine (a int); SET work_mem = '77MB'; SET search_path = ta; \
             SELECT pg_advisory_lock(7); PREPARE mine AS SELECT 1; LISTEN mine; \
             BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT; SET ROLE other",
        )
        .await
        .unwrap();
        drop(conn);
        let conn = pool.get().await.unwrap();
        let row = conn.query_one(state, &[]).await.unwrap();
        let found: Vec<bool> = (0..8).map(|index| row.get(index)).collect();
        assert_eq!(found, kept, "{method:?}");
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }
}
