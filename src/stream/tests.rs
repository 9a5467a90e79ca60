//! Operations of the writing side that plain sockets never leave pending: a flush, a shutdown.

use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;

use tokio::net::UnixStream;

use super::*;
use crate::error::is_timeout;
use crate::telemetry::Telemetry;

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
    let emitter = Emitter::new(Telemetry::pool("test"), Some(Arc::new(observer)));
    let unnamed = || PeerAddr::Unix("".into());
    let (id, io) = (ConnId::next(), Io::Unix(ours));
    let stream = Stream::new(io, id, unnamed(), unnamed(), Arc::new(timeouts), Arc::new(emitter));
    (stream, theirs, counted)
}

/// Leaves an operation pending until its clock says that its time is up.
async fn pending(stream: &mut Stream, operation: Operation) -> OpTimeout {
    let error = poll_fn(|cx| stream.poll_write_clock(cx, operation)).await;
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
        assert!(stream.poll_write_clock(cx, Operation::Write).is_pending());
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
