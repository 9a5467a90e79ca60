//! How long a message of a real server may be, and what becomes of a connection that carried one.

use futures_util::TryStreamExt;
use livepool::config::Limits;
use livepool::{CloseReason, TooLarge};

use super::*;

const MIB: usize = 1 << 20;

fn within(message: usize) -> impl FnOnce(Config) -> Config {
    move |config| {
        let limits = Limits::default().with_message(message).with_retire_above(4 * MIB);
        one(config).with_limits(limits)
    }
}

#[tokio::test]
async fn a_connection_that_carried_a_large_row_or_parameter_is_not_kept_idle() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let length = async |sql: &str, text: &str| {
        let conn = pool.get().await.unwrap();
        conn.query_one(sql, &[&text]).await.unwrap().get::<_, i32>(0)
    };
    let large = "x".repeat(5 * MIB);
    assert_eq!(length("SELECT length($1::text)", &large[..3 * MIB]).await as usize, 3 * MIB);
    assert_eq!(events.closed(), []);
    assert_eq!(length("SELECT length($1::text)", &large).await as usize, 5 * MIB);
    assert_eq!(events.until_closed(1).await, [CloseReason::Outgrown]);

    let conn = pool.get().await.unwrap();
    let row = conn.query_one("SELECT repeat('x', 5000000)", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0).len(), 5_000_000);
    drop((row, conn));
    assert_eq!(events.until_closed(2).await, [CloseReason::Outgrown; 2]);
}

#[tokio::test]
async fn a_row_beyond_the_limit_ends_its_connection_and_says_which_limit_it_was() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, within(2 * MIB));
    let conn = pool.get().await.unwrap();
    conn.query_one("SELECT repeat('x', 1000000)", &[]).await.unwrap();
    conn.query_one("SELECT repeat('x', 3000000)", &[]).await.unwrap_err();
    let end = conn.ended_with().expect("it has ended");
    let cause = std::error::Error::source(end).and_then(|cause| cause.downcast_ref());
    let exceeded = TooLarge::of(cause.expect("an I/O error")).expect("a length");
    assert!(exceeded.length > 3_000_000 && !exceeded.in_handshake, "{exceeded}");
    assert_eq!(exceeded.limit, 2 * MIB);
    drop(conn);
    assert_eq!(events.until_closed(1).await, [CloseReason::TooLarge]);
    assert_eq!(echo(&pool.get().await.unwrap(), 7).await.unwrap(), 7);
}

#[tokio::test]
async fn what_is_read_in_pieces_is_as_long_as_it_likes() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, within(MIB));
    let conn = pool.get().await.unwrap();
    let copy =
        conn.copy_out("COPY (SELECT repeat('x', 500000) FROM generate_series(1, 20)) TO STDOUT");
    let copied = copy.await.unwrap().try_fold(0, async |sum, piece| Ok(sum + piece.len())).await;
    assert_eq!(copied.unwrap(), 20 * 500_001);
    let rows = "SELECT repeat('x', 500000) FROM generate_series(1, 20)";
    let rows = conn.query_raw(rows, std::iter::empty::<i32>()).await.unwrap();
    let count = rows.try_fold(0, async |count, _| Ok(count + 1)).await.unwrap();
    assert_eq!(count, 20);
    drop(conn);
    assert_eq!(events.closed(), []);
}
