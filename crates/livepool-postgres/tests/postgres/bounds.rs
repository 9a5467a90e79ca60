//! How long a message of a real server may be, and what becomes of a connection that carried one.

use futures_util::TryStreamExt;
use livepool::config::Limits;
use livepool::{CloseReason, TooLarge};

use super::*;
use livepool_testkit::alone::alone;

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

/// What this process keeps in memory, in MiB, when the allocator has given back what it does not need.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn resident_mib() -> u64 {
    // SAFETY: it takes no pointer, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

// Unbounded, each connection keeps the buffers of its largest row and its largest parameter: 8 times
// 64 MiB and more.
#[cfg(target_env = "gnu")]
#[test]
fn eight_large_rows_and_parameters_leave_no_memory_behind() {
    if !alone("bounds::eight_large_rows_and_parameters_leave_no_memory_behind") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = trusting_server(&[]);
        let (pool, _events) = pool(&server, |config| config.with_max_size(8));
        let large = "x".repeat(32 * MIB);
        let exchanges = (0..8).map(async |_| {
            let conn = pool.get().await.unwrap();
            let sent = conn.query_one("SELECT length($1::text)", &[&large]).await.unwrap();
            assert_eq!(sent.get::<_, i32>(0) as usize, large.len());
            let row = conn.query_one("SELECT repeat('x', 32 << 20)", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0).len(), large.len());
        });
        futures_util::future::join_all(exchanges).await;
        drop(large);
        for number in 0..200 {
            assert_eq!(echo(&pool.get().await.unwrap(), number).await.unwrap(), number);
        }
        let resident = resident_mib();
        println!("at rest: {resident} MiB");
        assert!(resident <= 30, "{resident} MiB");
    });
}

#[tokio::test]
async fn a_row_beyond_the_limit_ends_its_connection_and_says_which_limit_it_was() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, within(2 * MIB));
    let conn = pool.get().await.unwrap();
    conn.query_one("SELECT repeat('x', 1000000)", &[]).await.unwrap();
    conn.query_one("SELECT repeat('x', 3000000)", &[]).await.unwrap_err();
    livepool_testkit::until(|| conn.ended_with().is_some()).await;
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
