//! Work that is dropped, or panics, in the middle.

use super::*;

use futures_util::FutureExt;
use livepool::CloseReason;
use livepool_testkit::until_seen;

/// Long enough for any machine, short enough to tell it from a sleep of a minute.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_caller_went_away_is_stopped_and_its_connection_used_again() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    let backend = pid(&mut conn).await;
    let asked = sql::<Text>("SELECT pg_sleep(61)::text").execute(&mut conn);
    tokio::time::timeout(SECOND / 10, asked).await.unwrap_err();
    drop(conn);
    let began = std::time::Instant::now();
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    assert!(began.elapsed() < SOON, "the next user waited for it");
    assert_eq!(pid(&mut conn).await, backend, "it was the same connection");
    assert_eq!(running(&server, "pg_sleep(61)"), 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// In `BEGIN`, in a statement, in a savepoint, in `COMMIT`; and each of these before it was sent.
#[tokio::test]
async fn a_transaction_may_be_dropped_at_any_await() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let (mut waits, mut committed) = (0, 0);
    loop {
        let mut conn = pool.get().await.unwrap();
        let work = conn.transaction(async |conn| {
            insert(conn, waits as i64).await?;
            conn.transaction(async |conn| insert(conn, 1000 + waits as i64).await).await?;
            echo(conn, 3).await
        });
        let done = given_up_after(waits, work).await;
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        // It begins one of its own: neither inside another one, nor refused by what diesel remembers.
        let begun = conn.transaction(async |conn| {
            let alone = "SELECT txid_current_if_assigned() IS NULL";
            sql::<Bool>(alone).get_result::<bool>(conn).await
        });
        assert_eq!(begun.await, Ok(true), "after {waits} waits");
        // All of it or nothing; dropped in COMMIT, nobody can say.
        let both = count(&mut conn).await - committed;
        assert!(both == 0 || both == 2, "after {waits} waits {both} rows are left of two");
        committed += both;
        if let Some(done) = done {
            assert_eq!((done, both), (Ok(3), 2));
            break;
        }
        waits += 1;
    }
    println!("{waits} places to drop it at");
    assert!(waits > 5, "it was never dropped in the middle");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_transaction_whose_closure_panics_is_gone_with_its_connection_or_rolled_back() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut conn = pool.get().await.unwrap();
            let work = conn.transaction::<(), diesel::result::Error, _>(async |conn| {
                insert(conn, 1).await?;
                panic!("a bug of the user's");
            });
            work.await
        }
    });
    assert!(caller.await.unwrap_err().is_panic());
    // A guard that is dropped by a panic closes its connection.
    let mut conn = pool.get().await.unwrap();
    assert_eq!(count(&mut conn).await, 0);
    conn.transaction(async |conn| insert(conn, 1).await).await.unwrap();
    // One that is caught, so that its guard goes on.
    let caught = std::panic::AssertUnwindSafe(
        conn.transaction::<(), diesel::result::Error, _>(async |_| panic!("another one")),
    );
    assert!(caught.catch_unwind().await.is_err());
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    conn.transaction(async |conn| insert(conn, 2).await).await.unwrap();
    assert_eq!(count(&mut conn).await, 2);
    until_seen(|| running(&server, "INSERT"), |seen| *seen == 0).await;
    assert_eq!((events.opened(), events.closed()), (2, vec![CloseReason::Panicked]));
}
