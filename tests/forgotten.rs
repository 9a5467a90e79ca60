//! A connection that is dropped after an answer without `release()` is closed every time; that is
//! said once.

use livepool::{CloseReason, Pool};
use livepool_testkit::log::Log;
use livepool_testkit::{Upstream, ask, exchange, watched};
use tokio::io::AsyncWriteExt;
use tracing::Level;

async fn forget(pool: &Pool) {
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_release_that_is_forgotten_is_told_once_per_pool_with_the_place_of_the_checkout() {
    let (log, _guard) = Log::start(Level::WARN);
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_name("orders"));
    for _ in 0..3 {
        forget(&pool).await;
    }
    assert_eq!(events.closed(), [CloseReason::Unfinished; 3]);
    let said = log.lines("");
    assert_eq!(said.len(), 1, "{said:?}");
    let expected = ["release()", "orders", "tests/forgotten.rs"];
    assert!(expected.iter().all(|word| said[0].contains(word)), "{said:?}");
}

#[tokio::test]
async fn who_gives_up_or_says_what_becomes_of_a_connection_has_forgotten_nothing() {
    let (log, _guard) = Log::start(Level::WARN);
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    // In the middle of a request.
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
    conn.discard();
    // Nothing was done with it.
    drop(pool.get().await.unwrap());
    assert_eq!(log.lines(""), Vec::<String>::new());
}
