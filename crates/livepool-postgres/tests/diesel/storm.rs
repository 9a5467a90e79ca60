//! Thousands of queries, many of them given up: each answer reaches the one who asked, and nobody is in a
//! transaction of somebody else.

use super::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use livepool_testkit::seed::seed;
use livepool_testkit::until_seen;

const QUERIES: u64 = 2_560;
const CALLERS: u64 = 32;
const CONNECTIONS: usize = 12;

#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    given_up: AtomicUsize,
    crossed: AtomicUsize,
    inherited: AtomicUsize,
    failed: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_tagged_queries_with_random_cancellation_cross_no_answers() {
    let server = server();
    let (pool, events) = pool(&server, |config| config.with_max_size(CONNECTIONS));
    let tally = Arc::new(Tally::default());
    let seed = seed();
    let callers = (0..CALLERS).map(|caller| {
        let (pool, tally) = (pool.clone(), Arc::clone(&tally));
        let mut random = fastrand::Rng::with_seed(seed ^ caller);
        tokio::spawn(async move {
            for round in 0..QUERIES / CALLERS {
                let tag = (caller * 1_000_000 + round) as i64;
                ask(&pool, tag, &mut random, &tally).await;
            }
        })
    });
    for caller in futures_util::future::join_all(callers).await {
        caller.unwrap();
    }
    let get = |count: &AtomicUsize| count.load(SeqCst);
    println!(
        "{} answered, {} given up, {} failed, {} connections, closed {:?}",
        get(&tally.answered),
        get(&tally.given_up),
        get(&tally.failed),
        events.opened(),
        events.closed(),
    );
    assert_eq!((get(&tally.crossed), get(&tally.inherited), get(&tally.failed)), (0, 0, 0));
    assert!(get(&tally.given_up) as u64 > QUERIES / 10);
    assert_eq!(
        server.psql("SELECT count(*) FROM orders"),
        "0",
        "what was given up was rolled back"
    );
    until_seen(|| running(&server, "pg_sleep"), |seen| *seen == 0).await;
}

async fn ask(pool: &DieselPool, tag: i64, random: &mut fastrand::Rng, tally: &Tally) {
    let mut conn = pool.get().await.unwrap();
    let alone = sql::<Bool>("txid_current_if_assigned() IS NULL");
    let asked = diesel::select((tag.into_sql::<BigInt>(), alone));
    match asked.get_result::<(i64, bool)>(&mut conn).await {
        Ok((answer, alone)) => {
            tally.crossed.fetch_add(usize::from(answer != tag), SeqCst);
            tally.inherited.fetch_add(usize::from(!alone), SeqCst);
            tally.answered.fetch_add(1, SeqCst);
        }
        Err(error) => {
            println!("{tag}: {error:?}");
            tally.failed.fetch_add(1, SeqCst);
        }
    }
    // One that diesel keeps.
    match echo(&mut conn, tag).await {
        Ok(answer) => drop(tally.crossed.fetch_add(usize::from(answer != tag), SeqCst)),
        Err(error) => {
            println!("{tag}: {error:?}");
            tally.failed.fetch_add(1, SeqCst);
        }
    }
    let patience = Duration::from_micros(random.u64(0..4_000));
    let sleep = [0.0, 0.001, 0.01, 60.0][random.usize(0..4)];
    let given_up = match random.u8(0..10) {
        0..3 => {
            let slow = format!("SELECT {tag}::int8 FROM pg_sleep({sleep})");
            let asked = sql::<BigInt>(&slow).get_result::<i64>(&mut conn);
            tokio::time::timeout(patience, asked).await.is_err()
        }
        // Polled a few times, and perhaps never sent.
        3 => {
            let waits = random.usize(0..3);
            let filter = orders::table.filter(orders::amount.eq(random.i32(0..9)));
            given_up_after(waits, filter.count().get_result::<i64>(&mut conn)).await.is_none()
        }
        4..6 => {
            let work = conn.transaction(async |conn| {
                insert(conn, tag).await?;
                conn.batch_execute(&format!("SELECT pg_sleep({sleep})")).await?;
                QueryResult::<()>::Err(diesel::result::Error::RollbackTransaction)
            });
            tokio::time::timeout(patience, work).await.is_err()
        }
        _ => false,
    };
    tally.given_up.fetch_add(usize::from(given_up), SeqCst);
}
