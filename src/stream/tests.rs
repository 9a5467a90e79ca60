//! Operations of the writing side that plain sockets never leave pending: a flush, a shutdown.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::UnixStream;

use super::*;
use crate::config;
use crate::deadline::Deadline;
use crate::error::is_timeout;
use crate::protocol::{Shared, Verdict, Wire};
use crate::telemetry::Emitter;

const SECOND: Duration = Duration::from_secs(1);

/// A stream, its peer, and the operations that timed out.
fn stream(timeouts: Timeouts) -> (Stream, UnixStream, Arc<Mutex<Vec<Operation>>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let counted = Arc::<Mutex<Vec<_>>>::default();
    let sink = Arc::clone(&counted);
    let observer = move |_: &str, event: &Event| {
        if let Event::TimedOut { operation, .. } = event {
            sink.lock().unwrap().push(*operation);
        }
    };
    let emitter = Emitter::of_connector("test", Some(Arc::new(observer)));
    let unnamed = || PeerAddr::Unix("".into());
    let (id, io) = (ConnId::next(), Io::Unix(ours));
    let stream = Stream::new(io, id, unnamed(), unnamed(), Arc::new(timeouts), Arc::new(emitter));
    (stream, theirs, counted)
}

/// Leaves an operation pending until its clock says that its time is up.
async fn pending(stream: &mut Stream, operation: Operation) -> OpTimeout {
    let error = poll_fn(|cx| stream.write_waits(cx, operation)).await;
    assert!(is_timeout(&error));
    *OpTimeout::of(&error).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_operation_of_the_writing_side_has_its_own_timeout() {
    let limits =
        Timeouts::never().with_write(5 * SECOND).with_flush(3 * SECOND).with_shutdown(2 * SECOND);
    let (mut stream, _peer, counted) = stream(limits);
    let table = [(Operation::Write, 5), (Operation::Flush, 3), (Operation::Shutdown, 2)];
    for (operation, seconds) in table {
        let start = Instant::now();
        let timeout = pending(&mut stream, operation).await;
        assert_eq!((timeout.operation, timeout.after), (operation, seconds * SECOND));
        assert_eq!(start.elapsed().as_secs(), u64::from(seconds));
    }
    let operations: Vec<_> = table.iter().map(|(operation, _)| *operation).collect();
    assert_eq!(*counted.lock().unwrap(), operations, "each is counted once");
    assert_eq!(stream.tainted(), Some(CloseReason::OpTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_flush_does_not_inherit_the_clock_of_the_write_before_it() {
    let (mut stream, _peer, _) = stream(Timeouts::all(10 * SECOND));
    poll_fn(|cx| {
        assert!(stream.write_waits(cx, Operation::Write).is_pending());
        Poll::Ready(())
    })
    .await;
    tokio::time::sleep(7 * SECOND).await;
    let start = Instant::now();
    pending(&mut stream, Operation::Flush).await;
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_a_flush_and_a_shutdown_wait() {
    let (mut stream, _peer, counted) = stream(Timeouts::never());
    for operation in [Operation::Flush, Operation::Shutdown] {
        let waits = tokio::time::timeout(3600 * SECOND, pending(&mut stream, operation)).await;
        assert!(waits.is_err());
    }
    assert!(counted.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_both_directions_with_its_reason() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (stream, _peer, _) = stream(Timeouts::never());
    let link = Arc::clone(stream.link());
    let (mut read, mut write) = tokio::io::split(stream);
    let reader = tokio::spawn(async move { read.read_u8().await.unwrap_err() });
    let writer = tokio::spawn(async move {
        loop {
            if let Err(error) = write.write_all(&[0; 65_536]).await {
                return error;
            }
        }
    });
    // Both wait by the time the clock can move.
    tokio::time::sleep(SECOND).await;
    assert!(link.interrupt(CloseReason::IdleTimeout));
    for task in [reader, writer] {
        let woken = tokio::time::timeout(SECOND, task).await;
        let error = woken.expect("nobody woke it").unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        assert_eq!(Interrupted::of(&error).unwrap().reason, CloseReason::IdleTimeout);
        assert!(!is_timeout(&error));
    }
}

/// Leaves a read pending, and returns.
async fn wait_for_a_byte(stream: &mut Stream) {
    let mut byte = [0];
    let waits = tokio::time::timeout(SECOND, stream.read(&mut byte)).await;
    assert!(waits.is_err(), "nobody writes");
}

#[tokio::test(start_paused = true)]
async fn a_stream_at_rest_keeps_no_task() {
    struct Task;
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let (mut stream, _peer, _) = stream(Timeouts::all(10 * SECOND));
    let task = Arc::new(Task);
    let waker = Waker::from(Arc::clone(&task));
    let mut space = [0];
    let mut space = ReadBuf::new(&mut space);
    let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut space);
    assert!(read.is_pending());
    drop(waker);
    stream.rest();
    // tokio's own slot has the last one who read.
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut stream.io).poll_read(&mut nobody, &mut space).is_pending());
    assert_eq!(Arc::strong_count(&task), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_times_out_also_when_the_last_user_counted_its_debt() {
    let (mut stream, _peer, _) = stream(Timeouts::all(10 * SECOND));
    wait_for_a_byte(&mut stream).await;
    let _ledger = stream.count_debt();
    assert!(stream.rest(), "a ledger of the last user does not count any more");
    let start = Instant::now();
    let mut byte = [0];
    let read = tokio::time::timeout(60 * SECOND, stream.read(&mut byte)).await;
    assert!(is_timeout(&read.expect("it wakes by itself").unwrap_err()));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_look_of_the_pools_own_takes_nothing_from_the_time_of_the_next_read() {
    let (stream, _peer, _) = stream(Timeouts::all(10 * SECOND));
    let (judge, limits) = (Arc::new(|_: &[u8]| Verdict::Keep), config::Limits::default());
    let shared = Shared::new(Box::new(stream), judge, limits);
    let wire = Wire::new(&shared, Deadline::NEVER).layer(|below| async { Ok(below) });
    let mut wire = wire.await.unwrap();
    assert_eq!(shared.judge_waiting(Some(Vec::new()), &[]), None);
    tokio::time::sleep(6 * SECOND).await;
    let start = Instant::now();
    assert!(is_timeout(&wire.read(&mut [0]).await.unwrap_err()));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_one_user_has_set_is_not_the_next_ones_who_sets_something_else() {
    let (mut stream, _peer, _) = stream(Timeouts::all(10 * SECOND));
    stream.set_read_timeout(Some(SECOND));
    stream.rest();
    stream.set_deadline(Some(Instant::now() + 60 * SECOND));
    assert_eq!(stream.timeouts().read, (10 * SECOND).into());
    let start = Instant::now();
    assert!(is_timeout(&stream.read(&mut [0]).await.unwrap_err()));
    assert_eq!(start.elapsed().as_secs(), 10);
    stream.rest();
    assert_eq!(stream.deadline(), None);
}
