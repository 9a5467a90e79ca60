//! Transactions that stand in each other's way, and are made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use livepool::CheckoutError;
use livepool_postgres::{Transaction, TransactionRetry};
use livepool_testkit::stalls::Stalls;
use tokio::sync::Barrier;
use tokio_postgres::IsolationLevel;

use super::*;

/// An error that shows nobody what is in it.
#[derive(Debug)]
struct Opaque(String);

impl From<CheckoutError> for Opaque {
    fn from(error: CheckoutError) -> Self {
        Self(error.to_string())
    }
}

impl From<tokio_postgres::Error> for Opaque {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
    }
}

async fn table(pool: &Pool<Postgres>) {
    let sql = "CREATE TABLE t (id int8 PRIMARY KEY, n int8); INSERT INTO t VALUES (1, 0), (2, 0)";
    pool.get().await.unwrap().batch_execute(sql).await.unwrap();
}

async fn value(pool: &Pool<Postgres>, id: i64) -> i64 {
    let conn = pool.get().await.unwrap();
    conn.query_one("SELECT n FROM t WHERE id = $1", &[&id]).await.unwrap().get(0)
}

/// Reads a row and writes it, one more than it was.
async fn count_up(transaction: &mut Transaction<'_>, id: i64) -> Result<i64, Opaque> {
    let row = transaction.query_one("SELECT n FROM t WHERE id = $1", &[&id]).await?;
    let next = row.get::<_, i64>(0) + 1;
    transaction.execute("UPDATE t SET n = $2 WHERE id = $1", &[&id, &next]).await?;
    Ok(next)
}

/// The same in one statement, which loses no count where a transaction sees what others commit meanwhile.
async fn add_one(transaction: &mut Transaction<'_>, id: i64) -> Result<u64, Opaque> {
    Ok(transaction.execute("UPDATE t SET n = n + 1 WHERE id = $1", &[&id]).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_count_up_one_row_in_serializable_transactions_lose_no_count() {
    const CALLERS: usize = 4;
    const EACH: usize = 5;
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config.with_max_size(CALLERS));
    table(&pool).await;
    let runs = Arc::<AtomicUsize>::default();
    // All see the row as it is at first before anybody writes it.
    let meet = Arc::new(Barrier::new(CALLERS));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (pool, runs, meet) = (pool.clone(), Arc::clone(&runs), Arc::clone(&meet));
        callers.spawn(async move {
            for count in 0..EACH {
                let retry = TransactionRetry::serializable().with_tries(1000);
                let (runs, meet) = (Arc::clone(&runs), Arc::clone(&meet));
                let is_first_try = AtomicBool::new(count == 0);
                let counted = retry.run(&pool, async move |transaction| {
                    runs.fetch_add(1, SeqCst);
                    if is_first_try.swap(false, SeqCst) {
                        transaction.query_one("SELECT n FROM t WHERE id = 1", &[]).await?;
                        meet.wait().await;
                    }
                    count_up(transaction, 1).await
                });
                counted.await.unwrap();
            }
        });
    }
    callers.join_all().await;
    assert_eq!(value(&pool, 1).await, (CALLERS * EACH) as i64);
    let runs = runs.load(SeqCst);
    assert!(runs >= CALLERS * EACH + CALLERS - 1, "{runs} runs: all but one were in the way");
}

/// Two transactions that lock two rows in opposite order, both before either goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim_of_a_deadlock_is_made_again() {
    let server = trusting_server(&[("deadlock_timeout", "100ms")]);
    let (pool, _) = pool(&server, |config| config.with_max_size(3));
    table(&pool).await;
    let meet = Arc::new(Barrier::new(2));
    let (runs, victims) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let lock_both = async |first: i64, second: i64| {
        let mut is_first_try = true;
        let retry = TransactionRetry::new(IsolationLevel::ReadCommitted);
        let work = async |transaction: &mut Transaction<'_>| {
            runs.fetch_add(1, SeqCst);
            add_one(transaction, first).await?;
            if std::mem::take(&mut is_first_try) {
                meet.wait().await;
            }
            let second = add_one(transaction, second).await;
            victims.fetch_add(usize::from(second.is_err()), SeqCst);
            second
        };
        retry.run(&pool, work).await.unwrap();
    };
    tokio::join!(lock_both(1, 2), lock_both(2, 1));
    assert_eq!((value(&pool, 1).await, value(&pool, 2).await), (2, 2));
    // One that is made again at once may meet the other a second time.
    let victims = victims.load(SeqCst);
    assert!(victims >= 1, "there was no deadlock, and nothing was shown");
    assert_eq!(runs.load(SeqCst), 2 + victims, "a victim is made again, and nothing else");
}

/// A transaction that always meets a conflict: somebody else writes its row after it has read it.
async fn always_in_the_way(
    pool: &Pool<Postgres>,
    retry: TransactionRetry,
) -> (usize, Result<i64, Opaque>) {
    let mut runs = 0;
    let result = retry
        .run(pool, async |transaction| {
            runs += 1;
            transaction.query_one("SELECT n FROM t WHERE id = 1", &[]).await?;
            let other = pool.get().await?;
            other.execute("UPDATE t SET n = n + 100 WHERE id = 1", &[]).await?;
            count_up(transaction, 1).await
        })
        .await;
    (runs, result)
}

#[tokio::test]
async fn the_last_conflict_is_told_when_the_tries_are_over() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, |config| config.with_max_size(2));
    table(&pool).await;
    let retry = TransactionRetry::serializable();
    for (retry, expected) in [(retry.clone().with_tries(3), 3), (retry.clone().with_tries(0), 1)] {
        let (runs, result) = always_in_the_way(&pool, retry).await;
        assert_eq!((runs, result.unwrap_err().0.as_str()), (expected, "40001"));
    }
    assert_eq!(value(&pool, 1).await, 400, "of the others only");
    assert_eq!(events.closed(), [], "a conflict costs no connection");
}

/// Whether a statement was cut by the limit: the server says that it was cancelled. Where the machine stood
/// still for the 250 ms that the server has for that, the connection was ended without a word.
fn is_cut(told: &str, stall: Duration) -> bool {
    told == "57014" || (stall >= SECOND / 4 && told == "connection closed")
}

#[tokio::test]
async fn the_time_for_all_tries_is_one() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config.with_max_size(2));
    table(&pool).await;
    let retry = TransactionRetry::serializable().with_tries(u32::MAX);
    let (began, stalls) = (Instant::now(), Stalls::watch());
    let (runs, result) = always_in_the_way(&pool, retry.with_limit(3 * SECOND)).await;
    assert!(runs > 1, "{runs}");
    // The limit may also pass in the middle of a statement.
    let told = result.unwrap_err().0;
    assert!(told == "40001" || is_cut(&told, stalls.lost().await), "{told}");
    // Without the limit there are about 4 000 000 000 tries.
    assert!(began.elapsed() < 30 * SECOND, "{:?}", began.elapsed());

    // A statement that does not end is cancelled at the server.
    let retry = TransactionRetry::serializable().with_limit(SECOND / 5);
    let hangs = retry.run(&pool, async |transaction| {
        transaction.execute("SELECT pg_sleep(600)", &[]).await.map_err(Opaque::from)
    });
    let told = hangs.await.unwrap_err().0;
    assert!(is_cut(&told, stalls.lost().await), "{told}");
    livepool_testkit::until_seen(|| running(&server, "pg_sleep"), |running| *running == 0).await;

    // A checkout has no more than what is left.
    let _held = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let retry = TransactionRetry::serializable().with_limit(SECOND / 5);
    let nobody = retry.run(&pool, async |transaction| count_up(transaction, 1).await).await;
    assert!(nobody.unwrap_err().0.contains("no connection became free"));
}

#[tokio::test]
async fn what_is_no_conflict_is_told_at_once_and_undone() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config.with_max_size(2));
    table(&pool).await;
    let mut runs = 0;
    let retry = TransactionRetry::serializable();
    // An error of the caller's own.
    let result = retry.run(&pool, async |transaction| {
        runs += 1;
        count_up(transaction, 1).await?;
        Err::<(), _>(Opaque("not today".to_owned()))
    });
    assert_eq!(result.await.unwrap_err().0, "not today");
    // One of the server.
    let result = retry.run(&pool, async |transaction| {
        runs += 1;
        count_up(transaction, 1).await?;
        transaction.batch_execute("SELECT 1/0").await.map_err(Opaque::from)
    });
    assert_eq!(result.await.unwrap_err().0, "22012");
    // A conflict that was overcome, in a savepoint, and an error after that.
    let result = retry.run(&pool, async |transaction| {
        runs += 1;
        let inner = transaction.transaction().await?;
        let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$";
        inner.batch_execute(raise).await.unwrap_err();
        inner.rollback().await?;
        count_up(transaction, 1).await?;
        Err::<(), _>(Opaque("later".to_owned()))
    });
    assert_eq!(result.await.unwrap_err().0, "later");
    assert_eq!((runs, value(&pool, 1).await), (3, 0));
}

#[tokio::test]
async fn a_conflict_inside_a_savepoint_is_made_again_from_the_beginning() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    table(&pool).await;
    let mut runs = 0;
    let result = TransactionRetry::serializable()
        .run(&pool, async |transaction| {
            runs += 1;
            count_up(transaction, 1).await?;
            let mut inner = transaction.transaction().await?;
            if runs < 3 {
                let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$";
                // The savepoint is rolled back when `inner` is dropped.
                inner.batch_execute(raise).await?;
            }
            count_up(&mut inner, 2).await?;
            inner.commit().await?;
            Ok::<_, Opaque>(())
        })
        .await;
    result.unwrap();
    assert_eq!((runs, value(&pool, 1).await, value(&pool, 2).await), (3, 1, 1));
}

/// PostgreSQL answers the COMMIT of a transaction that has failed with ROLLBACK, and no error.
#[tokio::test]
async fn a_transaction_that_has_failed_is_never_taken_for_committed() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    table(&pool).await;
    let retry = TransactionRetry::serializable();
    let passes_over = retry.run(&pool, async |transaction| {
        count_up(transaction, 1).await?;
        transaction.batch_execute("SELECT 1/0").await.unwrap_err();
        Ok::<_, Opaque>(())
    });
    assert_eq!(passes_over.await.unwrap_err().0, "25P02");
    // The same of an error that nobody waited for.
    let did_not_wait = retry.run(&pool, async |transaction| {
        count_up(transaction, 1).await?;
        drop(futures_util::poll!(std::pin::pin!(transaction.batch_execute("SELECT 1/0"))));
        Ok::<_, Opaque>(())
    });
    assert_eq!(did_not_wait.await.unwrap_err().0, "25P02");
    // And of a conflict: it is made again.
    let mut runs = 0;
    let conflict = retry.run(&pool, async |transaction| {
        runs += 1;
        count_up(transaction, 1).await?;
        if runs == 1 {
            let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$";
            transaction.batch_execute(raise).await.unwrap_err();
        }
        Ok::<_, Opaque>(())
    });
    conflict.await.unwrap();
    assert_eq!((runs, value(&pool, 1).await), (2, 1));
}

/// Given up at any moment, it leaves no transaction, no count and no connection behind.
#[tokio::test]
async fn a_retry_that_is_dropped_at_any_moment_leaves_nothing_open() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, |config| config.with_max_size(2));
    table(&pool).await;
    let (mut waits, mut runs) = (0, 0);
    loop {
        let retry = TransactionRetry::serializable().with_tries(2);
        let given_up = given_up_after(
            waits,
            retry.run(&pool, async |transaction| {
                runs += 1;
                let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$";
                count_up(transaction, 1).await?;
                transaction.batch_execute(raise).await.map_err(Opaque::from)
            }),
        );
        let done = given_up.await;
        livepool_testkit::until_status(&pool, |now| now.in_use == 0).await;
        if let Some(result) = done {
            assert_eq!(result.unwrap_err().0, "40001");
            break;
        }
        waits += 1;
    }
    assert!(waits > 4 && runs > 4, "{waits} waits, {runs} runs");
    assert_eq!(value(&pool, 1).await, 0);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(server.psql(open), "0");
}

/// Its future may be spawned, and its error be anything that takes the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_runs_in_a_task_of_its_own() {
    let server = trusting_server(&[]);
    let (pool, _) = pool(&server, one);
    table(&pool).await;
    let task = tokio::spawn(async move {
        TransactionRetry::serializable()
            .run(&pool, async |transaction| {
                let row = transaction.query_one("SELECT n FROM t WHERE id = 1", &[]).await?;
                Ok::<i64, Box<dyn std::error::Error + Send + Sync>>(row.get(0))
            })
            .await
            .map_err(|error| error.to_string())
    });
    assert_eq!(task.await.unwrap(), Ok(0));
}
