//! No caller ever reads another caller's answer: what makes a connection unfit for reuse.

use std::time::Duration;

use livepool::CloseReason::{
    Cancelled, Dirty, Discarded, OpTimeout, Panicked, PeerClosed, Reset, Unfinished,
};
use livepool::{CloseReason, Guard, Pool, Release};
use livepool_testkit::{Events, Order, Upstream, answer, ask, exchange, until, watched};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// An upstream, a pool of one, and a connection that has answered once.
async fn one() -> (Upstream, Pool, Events, Guard) {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_max_size(1));
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO hello").await.unwrap(), "hello");
    (upstream, pool, events, conn)
}

/// The next caller must get its own answer, on whatever connection.
async fn next_caller_is_safe(pool: &Pool) {
    assert_eq!(exchange(pool, "ECHO mine").await, "mine");
}

#[tokio::test]
async fn a_connection_that_carried_nothing_goes_back_when_it_is_dropped() {
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config());
    drop(pool.get().await.unwrap());
    assert_eq!(pool.status().idle, 1);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_used_connection_that_is_dropped_without_a_word_is_unfinished() {
    let (_upstream, pool, events, conn) = one().await;
    drop(conn);
    assert_eq!(events.closed(), [Unfinished]);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn an_answer_nobody_read_keeps_the_connection_from_being_released() {
    let (_upstream, pool, _, mut conn) = one().await;
    conn.write_all(b"ECHO yours\n").await.unwrap();
    assert_eq!(conn.release(), Release::Discarded(Unfinished));
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn an_answer_read_in_part_is_found_waiting_at_release() {
    let (upstream, pool, events, mut conn) = one().await;
    conn.write_all(b"BULK 10\n").await.unwrap();
    conn.read_exact(&mut [0; 4]).await.unwrap();
    // The rest may be in the kernel already or still on its way: found at release, by the
    // sentinel, or at the next checkout.
    let _ = conn.release();
    next_caller_is_safe(&pool).await;
    assert_eq!(events.closed(), [Dirty]);
    assert_eq!(upstream.accepted(), 2);
}

#[tokio::test]
async fn a_read_that_was_given_up_keeps_the_connection_from_being_released() {
    let (_upstream, pool, _, mut conn) = one().await;
    conn.write_all(b"SLOW 5000 late\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(1), answer(&mut conn)).await;
    assert!(early.is_err());
    assert_eq!(conn.release_unanswered(), Release::Discarded(Cancelled));
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn a_read_that_was_given_up_and_then_completed_is_forgiven() {
    let (_upstream, pool, _, mut conn) = one().await;
    conn.write_all(b"SLOW 1000 late\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(1), answer(&mut conn)).await;
    assert!(early.is_err());
    assert_eq!(answer(&mut conn).await.unwrap(), "late", "a dropped read loses nothing");
    assert_eq!(conn.release(), Release::Reused);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn a_read_that_timed_out_taints_for_good() {
    let (_upstream, pool, events, mut conn) = one().await;
    conn.set_read_timeout(Some(Duration::from_millis(20)));
    conn.write_all(b"SLOW 1000 late\n").await.unwrap();
    let error = answer(&mut conn).await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
    conn.set_read_timeout(None);
    assert_eq!(answer(&mut conn).await.unwrap(), "late", "it stays usable by its holder");
    assert_eq!(conn.release(), Release::Discarded(OpTimeout));
    assert_eq!(events.closed(), [OpTimeout]);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn a_write_that_was_given_up_half_way_taints() {
    let (_upstream, pool, _, mut conn) = one().await;
    conn.write_all(b"SINK\n").await.unwrap();
    let flood = vec![0; 64 << 20];
    let cut = tokio::time::timeout(Duration::from_millis(50), conn.write_all(&flood)).await;
    assert!(cut.is_err(), "nobody reads it");
    assert_eq!(conn.release_unanswered(), Release::Discarded(Cancelled));
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn the_exchange_deadline_ends_with_the_exchange() {
    let (upstream, pool, _, mut conn) = one().await;
    conn.deadline(Duration::from_millis(20));
    conn.set_read_timeout(None);
    let configured = upstream.config().timeouts.with_read(Duration::from_secs(30));
    assert_ne!(conn.timeouts(), configured);
    assert_eq!(conn.release(), Release::Reused);
    std::thread::sleep(Duration::from_millis(30));
    let mut conn = pool.get().await.unwrap();
    assert_eq!(conn.timeouts(), configured);
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
}

#[tokio::test]
async fn an_end_of_stream_or_a_reset_that_the_user_saw_is_remembered() {
    for (order, reason) in [(Order::HalfClose, PeerClosed), (Order::Reset, Reset)] {
        let (upstream, pool, events, mut conn) = one().await;
        upstream.order_all(&order);
        assert!(answer(&mut conn).await.is_err());
        assert_eq!(conn.release(), Release::Discarded(reason));
        assert_eq!(events.closed(), [reason]);
        next_caller_is_safe(&pool).await;
    }
}

#[tokio::test]
async fn a_panic_while_holding_a_connection_is_counted_as_one() {
    let (_upstream, pool, events, conn) = one().await;
    let task = tokio::spawn(async move {
        let _conn = conn;
        panic!("on purpose");
    });
    assert!(task.await.is_err());
    assert_eq!(events.closed(), [Panicked]);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn discard_and_taint_close_and_detach_lets_go() {
    let (upstream, pool, events, conn) = one().await;
    conn.discard();
    let mut conn = pool.get().await.unwrap();
    conn.taint();
    assert_eq!(conn.release(), Release::Discarded(Discarded));
    let conn = pool.get().await.unwrap();
    let mut stream = conn.detach();
    assert_eq!(events.closed(), [Discarded, Discarded, CloseReason::Detached]);
    assert_eq!(pool.status().in_use, 0, "its slot is free");
    next_caller_is_safe(&pool).await;
    stream.write_all(b"ECHO still\n").await.unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    drop(stream);
    assert_eq!(events.closed().len(), 3, "one close each; a detached stream has had its own");
    until(|| upstream.open() == 1).await;
}

#[tokio::test]
async fn halves_can_be_used_by_two_tasks_and_joined_for_release() {
    let (_upstream, pool, events, conn) = one().await;
    let (mut reader, mut writer) = conn.into_split();
    let reading = tokio::spawn(async move {
        let mut answer = [0; 6];
        reader.read_exact(&mut answer).await.unwrap();
        (answer, reader)
    });
    writer.write_all(b"ECHO split\n").await.unwrap();
    let (text, reader) = reading.await.unwrap();
    assert_eq!(&text, b"split\n");
    assert_eq!(reader.unsplit(writer).release(), Release::Reused);
    let (reader, writer) = pool.get().await.unwrap().into_split();
    let mut writer = writer;
    writer.write_all(b"ECHO lost\n").await.unwrap();
    drop(reader);
    assert!(events.closed().is_empty());
    drop(writer);
    assert_eq!(events.closed(), [Unfinished]);
}

#[tokio::test]
async fn a_buffer_that_read_ahead_keeps_the_connection_from_being_reused() {
    let (_upstream, pool, events, conn) = one().await;
    let mut lines = conn.buffered();
    lines.write_all(b"ECHO one\nECHO two\n").await.unwrap();
    let mut text = String::new();
    lines.read_line(&mut text).await.unwrap();
    assert_eq!(text, "one\n");
    // Make sure that the second answer has been read ahead.
    while lines.buffer().is_empty() {
        lines.fill_buf().await.unwrap();
    }
    assert_eq!(lines.release(), Release::Discarded(Unfinished));
    assert_eq!(events.closed(), [Unfinished]);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn an_empty_buffer_is_no_obstacle_owned_or_borrowed() {
    let (_upstream, pool, events, conn) = one().await;
    let mut lines = conn.buffered();
    lines.write_all(b"ECHO one\n").await.unwrap();
    let mut text = String::new();
    lines.read_line(&mut text).await.unwrap();
    assert_eq!(lines.release(), Release::Reused);
    let mut conn = pool.get().await.unwrap();
    {
        let mut lines = conn.buffered_mut();
        lines.write_all(b"ECHO two\n").await.unwrap();
        lines.read_line(&mut text).await.unwrap();
    }
    assert_eq!(conn.release(), Release::Reused);
    assert_eq!(text, "one\ntwo\n");
    assert!(events.closed().is_empty());
}

#[cfg(feature = "codec")]
#[tokio::test]
async fn a_codec_with_bytes_left_in_its_buffers_keeps_the_connection_from_being_reused() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_util::codec::LinesCodec;
    let (_upstream, pool, events, conn) = one().await;
    let mut lines = conn.framed(LinesCodec::new());
    lines.send("ECHO one").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    assert_eq!(lines.release(), Release::Reused);

    let conn = pool.get().await.unwrap();
    let mut lines = conn.framed(LinesCodec::new());
    lines.send("ECHO two\nBULK 5").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "two");
    // The second answer is in the codec's buffer or still on its way; either way it is seen.
    drop(lines);
    assert_eq!(events.closed(), [Unfinished]);

    let mut conn = pool.get().await.unwrap();
    {
        let mut lines = conn.framed_mut(LinesCodec::new());
        lines.feed("ECHO never sent").await.unwrap();
    }
    assert_eq!(conn.release(), Release::Discarded(Unfinished), "encoded and not flushed");
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn a_client_that_counts_its_debt_goes_back_when_nothing_is_owed() {
    let (_upstream, pool, events, mut conn) = one().await;
    let ledger = conn.count_debt();
    let owed = ledger.owe();
    conn.write_all(b"ECHO a\n").await.unwrap();
    answer(&mut conn).await.unwrap();
    drop(owed);
    drop(conn);
    assert_eq!(pool.status().idle, 1, "nothing owed: no word is needed");
    let mut conn = pool.get().await.unwrap();
    let owed = conn.count_debt().owe();
    conn.write_all(b"ECHO b\n").await.unwrap();
    drop(conn);
    drop(owed);
    assert_eq!(events.closed(), [Unfinished]);
}

#[tokio::test]
async fn counting_debt_ends_with_the_return() {
    let (_upstream, pool, events, mut conn) = one().await;
    let ledger = conn.count_debt();
    assert_eq!(conn.release(), Release::Reused);
    // The next user is judged as a raw one, and what the last one kept cannot count for it.
    let mut conn = pool.get().await.unwrap();
    let _owed = ledger.owe();
    let early = Duration::from_millis(10);
    let cut = tokio::time::timeout(early, ask(&mut conn, "SLOW 5000 secret")).await;
    assert!(cut.is_err());
    drop(conn);
    assert_eq!(events.closed(), [Cancelled]);
    next_caller_is_safe(&pool).await;
}

#[tokio::test]
async fn the_read_timeout_of_the_next_user_runs_although_the_last_one_counted() {
    let (_upstream, pool, _, mut conn) = one().await;
    drop(conn.count_debt());
    assert_eq!(conn.release(), Release::Reused);
    let mut conn = pool.get().await.unwrap();
    // From here on nothing real is waited for; before, a paused clock would run ahead of it.
    tokio::time::pause();
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
}
