//! Sessions that many callers use at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use livepool::{CloseReason, Event};
use livepool_postgres::{RecyclingMethod, Statements, request_lost};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::{ends, until, until_status};
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn sharing_ended(events: &Events) -> usize {
    let ended = |event: &Event| matches!(event, Event::SharingEnded { .. });
    events.all().iter().filter(|event| ended(event)).count()
}

#[tokio::test]
async fn queries_statements_and_batches_work_on_a_share() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_size(4));
    let mut shares = Vec::new();
    for _ in 0..8 {
        shares.push(pool.share().await.unwrap());
    }
    shares[0]
        .batch("CREATE TABLE numbers (number int4); INSERT INTO numbers VALUES (1)")
        .await
        .unwrap();
    let asked = shares.iter().enumerate().map(|(number, share)| async move {
        let number = i32::try_from(number).unwrap();
        let statement = share.prepare_cached("SELECT $1::int4 + 1").await.unwrap();
        let row = share.query_one(&statement, &[&number]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), number + 1);
        let rows =
            share.query("SELECT number FROM numbers WHERE number > $1", &[&number]).await.unwrap();
        assert_eq!(rows.len(), usize::from(number < 1));
        assert!(share.query_opt("SELECT 1 WHERE false", &[]).await.unwrap().is_none());
        assert_eq!(share.execute("UPDATE numbers SET number = number", &[]).await.unwrap(), 1);
        assert_eq!(share.simple_query("SELECT 1").await.unwrap().len(), 3);
    });
    futures_util::future::join_all(asked).await;
    assert_eq!((pool.status().shared, pool.status().shares), (1, 8));
    // An error is that of its own caller, in whose implicit transaction nobody else is.
    let wrong = shares[1].query_one("SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::DIVISION_BY_ZERO));
    drop(shares);
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!((events.closed(), sharing_ended(&events)), (vec![], 0));
}

#[tokio::test]
async fn what_slips_through_by_text_ends_the_sharing_and_reaches_no_later_user() {
    for (text, left) in [
        ("BEGIN", "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"),
        (
            "SET application_name = 'somebody'",
            "SELECT current_setting('application_name') = 'somebody'",
        ),
        ("LISTEN news", "SELECT count(*) > 0 FROM pg_listening_channels()"),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory'",
        ),
    ] {
        let server = trusting_server(&[]);
        let (pool, events) = pool(&server, |config| config.with_max_size(2));
        let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
        first.batch(text).await.unwrap();
        let third = pool.share().await.unwrap();
        assert_ne!(third.id(), first.id(), "{text}: nobody joins it any more");
        assert_eq!((second.id(), sharing_ended(&events)), (first.id(), 1), "{text}");
        // In another's transaction nothing is sent: it would be undone with it.
        let sent = second.batch("CREATE TABLE mine ()").await;
        assert_eq!(sent.is_err(), text == "BEGIN", "{text}: {sent:?}");
        let went = second.id();
        drop((first, second, third));
        until_status(&pool, |now| now.idle == 2).await;
        assert_eq!(events.closed(), [], "{text}");
        let clients = [pool.get().await.unwrap(), pool.get().await.unwrap()];
        let client = clients.iter().find(|client| client.id() == went).unwrap();
        let is_left: bool = match text {
            "BEGIN" => server.psql(left) != "0",
            _ => client.query_one(left, &[]).await.unwrap().get(0),
        };
        assert!(!is_left, "{text}");
    }
}

/// What no reset undoes is how every user finds the session.
#[tokio::test]
async fn a_session_that_nothing_undoes_is_shared_after_it_was_changed() {
    let server = trusting_server(&[]);
    let undoing = ["", "RESET ALL"].map(|sql| RecyclingMethod::Custom(sql.into()));
    for method in [RecyclingMethod::Verified, RecyclingMethod::Fast].into_iter().chain(undoing) {
        let adapter = postgres(&server).with_recycling(method.clone());
        let (pool, events) = pool_of(adapter, |config| config.with_max_size(2));
        pool.get().await.unwrap().batch_execute("SET work_mem = '5MB'").await.unwrap();
        until_status(&pool, |now| now.idle == 1).await;
        let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
        assert_eq!(first.id(), second.id(), "{method:?}");
        assert_eq!((events.opened(), events.closed()), (1, vec![]), "{method:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_shared_queries_with_random_cancellation_cross_no_answers() {
    const CALLERS: usize = 64;
    const EACH: usize = 160;
    let seed = livepool_testkit::seed::seed();
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_size(4));
    let given_up = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let (pool, given_up) = (pool.clone(), Arc::clone(&given_up));
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(caller as u64));
        tasks.spawn(async move {
            for number in 0..EACH {
                let tag = i64::try_from(caller * EACH + number).unwrap();
                let share = pool.share().await.unwrap();
                let text = match rng.u8(0..4) {
                    0 => "SELECT $1::int8 FROM pg_sleep(0.001)",
                    1 => "SELECT $1::int8, repeat('x', 3000)",
                    _ => "SELECT $1::int8",
                };
                let polls = if rng.u8(0..3) == 0 { rng.usize(0..4) } else { usize::MAX };
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&tag];
                let row = share.query_one(text, &params);
                match cut(row, polls, DROPS[rng.usize(0..2)], |_| {}).await {
                    Some(row) => assert_eq!(row.unwrap().get::<_, i64>(0), tag, "seed {seed}"),
                    None => _ = given_up.fetch_add(1, Ordering::SeqCst),
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!("{} of {} given up, seed {seed}", given_up.load(Ordering::SeqCst), CALLERS * EACH);
    assert!(given_up.load(Ordering::SeqCst) > CALLERS * EACH / 20);
    until_status(&pool, |now| now.shares + now.shared + now.in_use == 0).await;
    assert_eq!((events.closed(), sharing_ended(&events)), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_under_256_shared_queries_ends_each_of_them_once() {
    const QUERIES: usize = 256;
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    drop(pool.get().await.unwrap());
    let mut tasks = JoinSet::new();
    for _ in 0..QUERIES {
        let pool = pool.clone();
        tasks.spawn(async move {
            let share = pool.share().await.unwrap();
            share.query_one("SELECT 1 FROM pg_sleep(30)", &[]).await
        });
    }
    until_status(&pool, |now| now.shares == QUERIES).await;
    until(|| running(&server, "pg_sleep(30)") == 1).await;
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()");
    let (mut failed, mut told) = (0, 0);
    while let Some(ended) = ends(tasks.join_next()).await {
        let error = ended.unwrap().unwrap_err();
        // The one that ran has the server's own word, unless the reset behind it was faster: the server has
        // not read all that was sent.
        if error.code() == Some(&SqlState::ADMIN_SHUTDOWN) {
            told += 1;
        } else {
            let lost = request_lost(&error).unwrap_or_else(|| panic!("{error:?}"));
            let text = livepool::protocol::OneLine(&error).to_string();
            assert!(lost.maybe_done && text.contains("may have been carried out"), "{text}");
        }
        failed += 1;
    }
    assert!(failed == QUERIES && told <= 1, "{failed}, {told}");
    until(|| events.closed().len() == 1).await;
    assert_eq!(ends(pool.share()).await.unwrap().query("SELECT 1", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_query_that_takes_too_long_costs_its_own_caller_and_cancels_nobodys() {
    let server = trusting_server(&[]);
    let timeouts = Timeouts::default().with_read(3 * SECOND).with_reset(20 * SECOND);
    let (pool, events) = {
        let events = Events::default();
        let postgres = postgres(&server).with_config(|config| one(config).with_timeouts(timeouts));
        (postgres.builder().unwrap().observer(events.observer()).build().unwrap(), events)
    };
    let (slow, other) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    let late = slow.query_one("SELECT 1 FROM pg_sleep(4.5)", &[]).await.unwrap_err();
    let text = livepool::protocol::OneLine(&late).to_string();
    assert!(text.contains("timeouts.read"), "{text}");
    drop(slow);
    assert_eq!(running(&server, "pg_sleep(4.5)"), 1, "it goes on: nothing is cancelled");
    assert_eq!(other.query_one("SELECT 2", &[]).await.unwrap().get::<_, i32>(0), 2);
    assert_eq!(events.closed(), [] as [CloseReason; 0]);
}

#[tokio::test]
async fn a_change_of_the_schema_costs_each_share_one_error_at_most_and_runs_nothing_twice() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let share = pool.share().await.unwrap();
    share.batch("CREATE TABLE wide (a int4); INSERT INTO wide VALUES (1)").await.unwrap();
    assert_eq!(share.query_one("SELECT * FROM wide", &[]).await.unwrap().len(), 1);
    share.batch("ALTER TABLE wide ADD COLUMN b int4").await.unwrap();
    let error = share.query_one("SELECT * FROM wide", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    assert_eq!(share.query_one("SELECT * FROM wide", &[]).await.unwrap().len(), 2);
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn unnamed_statements_work_on_a_share_which_nobody_else_has() {
    let server = trusting_server(&[]);
    let unnamed = postgres(&server).with_statements(Statements::Unnamed);
    let (pool, events) = pool_of(unnamed, |config| config.with_max_size(2));
    let shares = [pool.share().await.unwrap(), pool.share().await.unwrap()];
    let asked = shares.iter().map(|share| async move {
        for number in 0..50_i32 {
            let text = format!("SELECT $1::int4 + {}", number % 5);
            let row = share.query_one(&text, &[&number]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), number + number % 5);
        }
    });
    futures_util::future::join_all(asked).await;
    assert_eq!(pool.status().shared, 2, "to describe takes a transaction");
    drop(shares);
    until_status(&pool, |now| now.idle == 2).await;
    assert_eq!((events.closed(), sharing_ended(&events)), (vec![], 0));
}

#[tokio::test]
async fn nothing_is_sent_while_the_server_waits_for_anothers_data() {
    let server = trusting_server(&[]);
    // Nobody can send the data: the connection is closed when its users have gone, after this.
    let timeouts = Timeouts::default().with_reset(200 * MS);
    let (pool, events) = pool(&server, |config| one(config).with_timeouts(timeouts));
    let (first, second) = (pool.share().await.unwrap(), pool.share().await.unwrap());
    first.batch("CREATE TABLE copied (a int4)").await.unwrap();
    assert!(first.batch("COPY copied FROM STDIN").await.is_err(), "there is no way to send it");
    let error = second.query_one("SELECT 1", &[]).await.unwrap_err();
    let text = livepool::protocol::OneLine(&error).to_string();
    assert!(text.contains("in a transaction or a COPY"), "{text}");
    drop((first, second));
    let share = ends(pool.share()).await.unwrap();
    assert_eq!(share.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    assert_eq!(events.closed(), [CloseReason::ResetFailed]);
}
