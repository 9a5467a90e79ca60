//! What a stream promises: a deadline on every operation, and a memory of what makes it unfit for
//! reuse.
//!
//! The clock is paused wherever the peer stays silent, or speaks through a Unix socket, which
//! delivers inside the system call. It is real wherever TCP or the kernel's own timers are waited
//! for.
#![cfg(unix)]

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use livepool::CloseReason::{Cancelled, Discarded, OpTimeout as TimedOut, PeerClosed, Reset};
use livepool::config::SocketConfig;
use livepool::event::{CloseReason, Event, Operation};
use livepool::{OpTimeout, Stream, Timeouts, is_timeout};
use livepool_testkit::pair::{Pair, Way, connect_tcp, pair, pair_with};
use livepool_testkit::{Events, Upstream, ask, ends, watched};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const READ: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn timeouts() -> Timeouts {
    Timeouts::default()
        .with_read(READ)
        .with_write(WRITE)
        .with_flush(Duration::from_secs(30))
        .with_shutdown(Duration::from_secs(40))
}

/// A connection, made in real time; what follows happens on a paused clock.
async fn paused(way: Way, timeouts: Timeouts) -> Pair {
    let pair = pair(way, timeouts).await;
    tokio::time::pause();
    pair
}

/// Writes until that fails. The peer does not read.
async fn write_until_it_fails(stream: &mut (impl AsyncWrite + Unpin)) -> io::Error {
    let chunk = vec![0; 65_536];
    loop {
        if let Err(error) = stream.write_all(&chunk).await {
            return error;
        }
    }
}

/// Writes until a write has to wait, and drops that one.
fn drop_a_write_that_waits(stream: &mut Stream) {
    let chunk = vec![0; 65_536];
    let mut cx = Context::from_waker(Waker::noop());
    // Every try is a poll of its own, so tokio's budget of one task cannot end it early.
    while let Poll::Ready(wrote) =
        pin!(tokio::task::unconstrained(stream.write(&chunk))).as_mut().poll(&mut cx)
    {
        wrote.unwrap();
    }
}

#[track_caller]
fn assert_own_timeout(error: &io::Error, operation: Operation, after: Duration) {
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(is_timeout(error));
    let timeout = OpTimeout::of(error).expect("an OpTimeout is inside");
    assert_eq!(timeout.operation, operation);
    assert_eq!(timeout.after, after);
    assert!(!timeout.of_exchange);
}

#[track_caller]
fn assert_cut_by_exchange(error: &io::Error, operation: Operation, after: Duration) {
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(is_timeout(error));
    let timeout = OpTimeout::of(error).expect("an OpTimeout is inside");
    assert_eq!((timeout.operation, timeout.of_exchange), (operation, true));
    // Exactly, on a paused clock; the setting itself takes a moment on a real one.
    assert!(timeout.after <= after && after - timeout.after < SECOND, "{:?}", timeout.after);
}

// Timeouts, per operation.

#[tokio::test]
async fn a_read_that_waits_too_long_times_out_on_every_kind_of_stream() {
    for way in Way::ALL {
        let mut pair = paused(way, timeouts()).await;
        let start = Instant::now();
        let error = ends(pair.stream.read_u8()).await.unwrap_err();
        assert_own_timeout(&error, Operation::Read, READ);
        assert_eq!(start.elapsed().as_secs(), READ.as_secs(), "{way:?}");
        assert_eq!(pair.stream.tainted(), Some(TimedOut), "{way:?}");
        assert_eq!(pair.events.timed_out(), [Operation::Read], "{way:?}: counted once");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_write_that_waits_too_long_times_out_on_every_kind_of_stream() {
    for way in Way::ALL {
        let mut pair = paused(way, timeouts()).await;
        let error = ends(write_until_it_fails(&mut pair.stream)).await;
        assert_own_timeout(&error, Operation::Write, WRITE);
        assert_eq!(pair.stream.tainted(), Some(TimedOut), "{way:?}");
        assert_eq!(pair.events.timed_out(), [Operation::Write], "{way:?}: counted once");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_flush_and_a_shutdown_out_of_time_say_so_on_every_kind_of_stream() {
    // On a plain socket both are done at once, so it is the exchange that runs out of time. How
    // their own timeouts run is tested where an operation can be made to wait, in src/stream.
    for way in Way::ALL {
        let mut pair = paused(way, timeouts()).await;
        pair.stream.set_deadline(Some(Instant::now() + 2 * SECOND));
        tokio::time::advance(3 * SECOND).await;
        let error = ends(pair.stream.flush()).await.unwrap_err();
        assert_cut_by_exchange(&error, Operation::Flush, 2 * SECOND);
        let error = ends(pair.stream.shutdown()).await.unwrap_err();
        assert_cut_by_exchange(&error, Operation::Shutdown, 2 * SECOND);
        assert_eq!(pair.stream.tainted(), Some(TimedOut), "{way:?}");
        assert_eq!(pair.events.timed_out(), [Operation::Flush, Operation::Shutdown], "{way:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_flush_and_a_shutdown_of_a_plain_socket_never_wait() {
    for way in Way::ALL {
        let brief = Timeouts::all(Duration::from_millis(1)).with_connect(None).with_accept(None);
        let mut pair = paused(way, brief).await;
        // Not even with the buffers full.
        drop_a_write_that_waits(&mut pair.stream);
        pair.stream.flush().await.unwrap();
        pair.stream.shutdown().await.unwrap();
        assert!(pair.events.timed_out().is_empty(), "{way:?}");
        tokio::time::resume();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connect_that_hangs_times_out_and_is_counted_once() {
    // With its queue full a listener on Linux drops the SYN, as a dead host would.
    let listener = tokio::net::TcpSocket::new_v4().unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let _queued = tokio::net::TcpStream::connect(addr).await.unwrap();
    let events = Events::default();
    let limits = Timeouts::default().with_connect(7 * SECOND);
    let config = livepool::Config::new(addr.to_string()).with_timeouts(limits);
    let connector = livepool::Connector::with_observer(&config, events.observer()).unwrap();
    tokio::time::pause();
    let start = Instant::now();
    let error = ends(connector.connect()).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(start.elapsed().as_secs(), 7);
    assert!(is_timeout(&error.into()), "as an io::Error too");
    assert_eq!(events.timed_out(), [Operation::Connect]);
    assert_eq!(events.opened(), 0);
}

#[tokio::test]
async fn a_timeout_set_once_holds_for_every_later_operation() {
    let mut pair = paused(Way::ConnectTcp, timeouts()).await;
    for round in 1..=3 {
        let start = Instant::now();
        let error = ends(pair.stream.read_u8()).await.unwrap_err();
        assert_own_timeout(&error, Operation::Read, READ);
        assert_eq!(start.elapsed().as_secs(), READ.as_secs(), "each has its full time");
        assert_eq!(pair.events.timed_out().len(), round);
    }
    let error = ends(write_until_it_fails(&mut pair.stream)).await;
    assert_own_timeout(&error, Operation::Write, WRITE);
}

#[tokio::test]
async fn a_timeout_is_per_call_and_not_per_total() {
    let mut pair = paused(Way::ConnectUnix, timeouts()).await;
    let start = Instant::now();
    for _ in 0..5 {
        tokio::join!(
            async {
                tokio::time::sleep(READ - SECOND).await;
                pair.peer.write_all(b"x").await.unwrap();
            },
            async { assert_eq!(ends(pair.stream.read_u8()).await.unwrap(), b'x') },
        );
    }
    assert!(start.elapsed() > 4 * READ);
    assert!(pair.events.timed_out().is_empty());
    assert_eq!(pair.stream.tainted(), None);
}

#[tokio::test]
async fn without_a_timeout_a_read_and_a_write_wait() {
    for way in Way::ALL {
        let mut pair = paused(way, Timeouts::never()).await;
        let waits = tokio::time::timeout(HOUR, pair.stream.read_u8()).await;
        assert!(waits.is_err(), "{way:?}");
        let waits = tokio::time::timeout(HOUR, write_until_it_fails(&mut pair.stream)).await;
        assert!(waits.is_err(), "{way:?}");
        assert!(pair.events.timed_out().is_empty());
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_timeout_changed_on_the_stream_holds_from_then_on() {
    let mut pair = paused(Way::ConnectTcp, timeouts()).await;
    pair.stream.set_read_timeout(Some(2 * SECOND));
    pair.stream.set_write_timeout(Some(3 * SECOND));
    for _ in 0..2 {
        let error = ends(pair.stream.read_u8()).await.unwrap_err();
        assert_own_timeout(&error, Operation::Read, 2 * SECOND);
    }
    let error = ends(write_until_it_fails(&mut pair.stream)).await;
    assert_own_timeout(&error, Operation::Write, 3 * SECOND);
    pair.stream.set_read_timeout(None);
    assert!(tokio::time::timeout(HOUR, pair.stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn what_one_exchange_sets_ends_with_the_return_to_the_pool() {
    let upstream = Upstream::start();
    let config = upstream.config().with_timeouts(timeouts());
    let (pool, _events) = watched(config.with_idle_timeout(None).with_max_lifetime(None));
    let mut conn = pool.get().await.unwrap();
    conn.set_read_timeout(None);
    conn.deadline(HOUR);
    assert_eq!(ask(&mut conn, "ECHO a").await.unwrap(), "a");
    let id = conn.id();
    conn.release();
    // The clock jumps past the deadline, then runs on: real answers are waited for.
    tokio::time::pause();
    tokio::time::advance(HOUR + SECOND).await;
    tokio::time::resume();
    let mut conn = pool.get().await.unwrap();
    assert_eq!(conn.id(), id, "the same connection");
    assert_eq!(conn.timeouts().read, READ.into());
    assert_eq!(ask(&mut conn, "ECHO b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_pool_never_reuses_a_connection_that_timed_out() {
    let upstream = Upstream::start();
    let config = upstream.config();
    let brief = Timeouts::default().with_read(Duration::from_millis(50));
    let (pool, events) = watched(config.with_timeouts(brief));
    let mut conn = pool.get().await.unwrap();
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    assert_own_timeout(&error, Operation::Read, Duration::from_millis(50));
    assert_eq!(conn.release(), livepool::Release::Discarded(TimedOut));
    assert_eq!(events.closed(), [TimedOut]);
    assert_eq!(events.timed_out(), [Operation::Read]);
}

// The deadline of an exchange.

#[tokio::test]
async fn the_deadline_of_the_exchange_cuts_a_read_and_a_write_that_have_time_left() {
    for way in Way::ALL {
        let mut pair = paused(way, timeouts()).await;
        let start = Instant::now();
        pair.stream.set_deadline(Some(start + 4 * SECOND));
        let error = ends(pair.stream.read_u8()).await.unwrap_err();
        assert_cut_by_exchange(&error, Operation::Read, 4 * SECOND);
        assert_eq!(start.elapsed().as_secs(), 4, "{way:?}");
        let start = Instant::now();
        pair.stream.set_deadline(Some(start + 5 * SECOND));
        let error = ends(write_until_it_fails(&mut pair.stream)).await;
        assert_cut_by_exchange(&error, Operation::Write, 5 * SECOND);
        assert_eq!(start.elapsed().as_secs(), 5, "{way:?}");
        assert_eq!(pair.events.timed_out(), [Operation::Read, Operation::Write], "{way:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_peer_that_trickles_bytes_is_held_to_the_deadline_of_the_exchange() {
    let Pair { mut stream, mut peer, events } = paused(Way::ConnectUnix, timeouts()).await;
    let start = Instant::now();
    stream.set_deadline(Some(start + Duration::from_millis(4500)));
    let trickle = tokio::spawn(async move {
        loop {
            tokio::time::sleep(SECOND).await;
            if peer.write_all(b"x").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let error = ends(stream.read_to_end(&mut answer)).await.unwrap_err();
    assert_cut_by_exchange(&error, Operation::Read, Duration::from_millis(4500));
    assert_eq!(answer, b"xxxx");
    assert_eq!(start.elapsed().as_secs(), 4);
    assert_eq!(events.timed_out(), [Operation::Read]);
    trickle.abort();
}

#[tokio::test]
async fn a_read_that_never_has_to_wait_is_held_to_the_deadline_of_the_exchange() {
    let mut pair = paused(Way::ConnectUnix, timeouts()).await;
    pair.peer.write_all(&[b'x'; 1000]).await.unwrap();
    pair.stream.set_deadline(Some(Instant::now() + 3 * SECOND));
    for _ in 0..3 {
        assert_eq!(pair.stream.read_u8().await.unwrap(), b'x');
        tokio::time::advance(SECOND).await;
    }
    let error = pair.stream.read_u8().await.unwrap_err();
    assert_cut_by_exchange(&error, Operation::Read, 3 * SECOND);
}

#[tokio::test]
async fn each_operation_of_an_exchange_gets_its_own_timeout_if_that_is_less() {
    let mut pair = paused(Way::ConnectTcp, timeouts()).await;
    pair.stream.set_deadline(Some(Instant::now() + 2 * READ));
    let error = ends(pair.stream.read_u8()).await.unwrap_err();
    assert_own_timeout(&error, Operation::Read, READ);
}

#[tokio::test]
async fn a_deadline_that_was_taken_away_cuts_nothing() {
    let mut pair = paused(Way::ConnectTcp, Timeouts::never()).await;
    pair.stream.set_deadline(Some(Instant::now() + SECOND));
    // A read that is under way when it is taken away does not keep it.
    assert!(tokio::time::timeout(SECOND / 2, pair.stream.read_u8()).await.is_err());
    pair.stream.set_deadline(None);
    assert!(tokio::time::timeout(HOUR, pair.stream.read_u8()).await.is_err());
    assert!(pair.events.timed_out().is_empty());
}

// Bytes.

#[tokio::test]
async fn vectored_writes_arrive_whole_and_in_order() {
    for way in Way::ALL {
        let Pair { mut stream, mut peer, events: _ } = pair(way, timeouts()).await;
        assert!(stream.is_write_vectored());
        let parts: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 5000]).collect();
        let expected = parts.concat();
        let mut got = vec![0; expected.len()];
        let send = async {
            // A small one goes out in a single call, all three parts of it.
            let three = [IoSlice::new(b"a"), IoSlice::new(b"bc"), IoSlice::new(b"def")];
            assert_eq!(stream.write_vectored(&three).await.unwrap(), 6);
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                let wrote = stream.write_vectored(rest).await.unwrap();
                IoSlice::advance_slices(&mut rest, wrote);
            }
        };
        let receive = async {
            let mut six = [0; 6];
            peer.read_exact(&mut six).await.unwrap();
            assert_eq!(&six, b"abcdef");
            peer.read_exact(&mut got).await.unwrap();
        };
        tokio::join!(send, receive);
        assert!(got == expected, "{way:?}");
    }
}

#[tokio::test]
async fn a_vectored_write_that_waits_too_long_times_out() {
    let mut pair = paused(Way::ConnectTcp, timeouts()).await;
    let chunk = vec![0; 65_536];
    let parts = [IoSlice::new(&chunk), IoSlice::new(&chunk)];
    let error = loop {
        if let Err(error) = ends(pair.stream.write_vectored(&parts)).await {
            break error;
        }
    };
    assert_own_timeout(&error, Operation::Write, WRITE);
}

#[tokio::test]
async fn a_dropped_read_loses_no_byte() {
    for way in [Way::ConnectTcp, Way::ConnectUnix] {
        let Pair { mut stream, mut peer, events: _ } = pair(way, timeouts()).await;
        let sent: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let send = tokio::spawn(async move {
            for part in sent.chunks(7) {
                peer.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            peer
        });
        let mut got: Vec<u8> = Vec::new();
        let mut buffer = [0; 1000];
        let mut dropped = 0;
        while got.len() < expected.len() {
            tokio::select! {
                biased;
                read = stream.read(&mut buffer) => got.extend(&buffer[..read.unwrap()]),
                () = std::future::ready(()) => dropped += 1,
            }
            tokio::task::yield_now().await;
        }
        assert!(got == expected, "{way:?}");
        assert!(dropped > 0, "no read was dropped");
        assert_eq!(stream.tainted(), None, "a dropped read is harmless");
        drop(send.await.unwrap());
    }
}

#[tokio::test]
async fn a_write_dropped_while_it_waits_taints() {
    for way in Way::ALL {
        let mut pair = pair(way, timeouts()).await;
        drop_a_write_that_waits(&mut pair.stream);
        assert_eq!(pair.stream.tainted(), Some(Cancelled), "{way:?}");
        assert_eq!(pair.end().closed(), [Cancelled], "{way:?}");
    }
}

#[tokio::test]
async fn a_dropped_write_that_is_tried_again_and_completed_lifts_the_taint() {
    // This is also how every write that waits looks from inside: polled, pending, polled again.
    let Pair { mut stream, mut peer, events: _ } = pair(Way::ConnectUnix, timeouts()).await;
    drop_a_write_that_waits(&mut stream);
    assert_eq!(stream.tainted(), Some(Cancelled));
    let drain = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut peer, &mut tokio::io::sink()).await;
    });
    stream.write_all(b"the rest").await.unwrap();
    assert_eq!(stream.tainted(), None);
    drain.abort();
}

#[tokio::test]
async fn a_write_that_had_to_wait_and_was_completed_does_not_taint() {
    let Pair { mut stream, mut peer, events: _ } = pair(Way::ConnectUnix, timeouts()).await;
    const LENGTH: usize = 4_000_000;
    let mut got = vec![0; LENGTH];
    let sent = vec![7; LENGTH];
    let (wrote, read) = tokio::join!(stream.write_all(&sent), peer.read_exact(&mut got));
    wrote.unwrap();
    read.unwrap();
    assert_eq!(stream.tainted(), None);
}

// Two halves.

/// Both halves wait, each in a task of its own. Returns their errors and when they came.
async fn both_halves(stream: Stream) -> [(Duration, io::Error); 2] {
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let error = read.read_u8().await.unwrap_err();
        (start.elapsed(), error)
    });
    let writer = tokio::spawn(async move {
        let error = write_until_it_fails(&mut write).await;
        (start.elapsed(), error)
    });
    [ends(reader).await.unwrap(), ends(writer).await.unwrap()]
}

#[tokio::test]
async fn two_halves_in_two_tasks_both_keep_their_deadlines() {
    // With one timer for both, the task that armed it first was never woken.
    for (read, write) in [(READ, WRITE), (WRITE, READ), (READ, READ)] {
        for way in Way::ALL {
            let limits = Timeouts::default().with_read(read).with_write(write);
            let pair = paused(way, limits).await;
            let [(read_took, read_error), (write_took, write_error)] =
                both_halves(pair.stream).await;
            assert_own_timeout(&read_error, Operation::Read, read);
            assert_own_timeout(&write_error, Operation::Write, write);
            assert_eq!(read_took.as_secs(), read.as_secs(), "{way:?}");
            assert_eq!(write_took.as_secs(), write.as_secs(), "{way:?}");
            assert_eq!(pair.events.timed_out().len(), 2, "{way:?}");
            tokio::time::resume();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_keep_their_deadlines_on_a_multi_threaded_runtime_too() {
    // Real time: this runtime's clock cannot be paused.
    let brief = Timeouts::default()
        .with_read(Duration::from_millis(100))
        .with_write(Duration::from_millis(150));
    let pair = pair(Way::ConnectTcp, brief).await;
    let [(_, read), (_, write)] = both_halves(pair.stream).await;
    assert_own_timeout(&read, Operation::Read, Duration::from_millis(100));
    assert_own_timeout(&write, Operation::Write, Duration::from_millis(150));
}

#[tokio::test]
async fn a_deadline_follows_a_read_that_moves_to_another_task() {
    let Pair { mut stream, peer: _peer, events: _ } = paused(Way::ConnectTcp, timeouts()).await;
    let start = Instant::now();
    // The first task waits for a moment and gives the stream away.
    let gone = tokio::spawn(async move {
        let _ = tokio::time::timeout(3 * SECOND, stream.read_u8()).await;
        stream
    });
    let mut stream = gone.await.unwrap();
    let error = ends(tokio::spawn(async move { stream.read_u8().await })).await.unwrap();
    assert_own_timeout(&error.unwrap_err(), Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs(), "a read tried again keeps its clock");
}

// Debt.

/// Reads all the time in a task of its own, as client libraries do. Ends with the error.
fn drive(mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<io::Error> {
    tokio::spawn(async move {
        let mut buffer = [0; 100];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return ErrorKind::UnexpectedEof.into(),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
}

#[tokio::test]
async fn a_driver_that_always_reads_does_not_time_out_while_nothing_is_owed() {
    let Pair { mut stream, peer: _peer, events } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    tokio::time::sleep(HOUR).await;
    assert!(!driver.is_finished());
    assert!(events.timed_out().is_empty());
    assert_eq!(ledger.debt(), 0);
}

#[tokio::test]
async fn a_driver_times_out_when_an_answer_stays_owed() {
    let Pair { mut stream, peer: _peer, events } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    // It has been waiting for long: the clock begins with the debt.
    tokio::time::sleep(HOUR).await;
    let start = Instant::now();
    let _owed = ledger.owe();
    let error = ends(driver).await.unwrap();
    assert_own_timeout(&error, Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs());
    assert_eq!(events.timed_out(), [Operation::Read]);
}

#[tokio::test]
async fn a_paid_debt_stops_the_clock() {
    let Pair { mut stream, peer: _peer, events } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    let owed = ledger.owe();
    tokio::time::sleep(READ - SECOND).await;
    drop(owed);
    tokio::time::sleep(HOUR).await;
    assert!(!driver.is_finished());
    assert!(events.timed_out().is_empty());
}

#[tokio::test]
async fn bytes_that_arrive_restart_the_clock_of_a_debt() {
    let Pair { mut stream, mut peer, events: _ } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    let _owed = ledger.owe();
    for _ in 0..5 {
        tokio::time::sleep(READ - SECOND).await;
        peer.write_all(b"part of the answer").await.unwrap();
    }
    let start = Instant::now();
    assert!(!driver.is_finished(), "45 s in, never 10 s without a byte");
    assert_own_timeout(&ends(driver).await.unwrap(), Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs(), "the debt is still there");
}

#[tokio::test]
async fn bytes_that_are_written_restart_the_clock_of_a_debt() {
    let Pair { mut stream, peer: _peer, events: _ } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let (read, mut write) = tokio::io::split(stream);
    let driver = drive(read);
    let _owed = ledger.owe();
    tokio::time::sleep(READ - SECOND).await;
    write.write_all(b"more of the request").await.unwrap();
    let start = Instant::now();
    assert_own_timeout(&ends(driver).await.unwrap(), Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs());
}

#[tokio::test]
async fn a_debt_paid_and_begun_anew_between_two_polls_has_its_full_time() {
    let Pair { mut stream, peer: _peer, events: _ } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    let first = ledger.owe();
    tokio::time::sleep(READ - SECOND).await;
    // The driver does not run between these two lines.
    drop(first);
    let _second = ledger.owe();
    let start = Instant::now();
    assert_own_timeout(&ends(driver).await.unwrap(), Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs());
}

#[tokio::test]
async fn a_second_debt_does_not_lengthen_the_first() {
    let Pair { mut stream, peer: _peer, events: _ } = paused(Way::ConnectUnix, timeouts()).await;
    let ledger = stream.count_debt();
    let driver = drive(stream);
    let start = Instant::now();
    let _first = ledger.owe();
    tokio::time::sleep(READ - SECOND).await;
    let _second = ledger.owe();
    assert_own_timeout(&ends(driver).await.unwrap(), Operation::Read, READ);
    assert_eq!(start.elapsed().as_secs(), READ.as_secs());
}

// What ends a connection, and under which name.

#[tokio::test]
async fn an_end_of_stream_taints_peer_closed() {
    for way in Way::ALL {
        let Pair { mut stream, peer, events } = pair(way, timeouts()).await;
        drop(peer);
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(stream.tainted(), Some(PeerClosed), "{way:?}");
        drop(stream);
        assert_eq!(events.closed(), [PeerClosed], "{way:?}");
    }
}

#[tokio::test]
async fn a_read_into_no_room_is_not_an_end_of_stream() {
    let mut pair = pair(Way::ConnectUnix, timeouts()).await;
    pair.peer.write_all(b"x").await.unwrap();
    let mut none = ReadBuf::new(&mut []);
    let read =
        |cx: &mut Context<'_>| AsyncRead::poll_read(Pin::new(&mut pair.stream), cx, &mut none);
    poll_fn(read).await.unwrap();
    assert_eq!(pair.stream.tainted(), None);
}

#[tokio::test]
async fn a_reset_taints_reset() {
    for way in [Way::ConnectTcp, Way::AcceptTcp] {
        let Pair { mut stream, peer, events } = pair(way, timeouts()).await;
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{way:?}");
        assert_eq!(stream.tainted(), Some(Reset), "{way:?}");
        drop(stream);
        assert_eq!(events.closed(), [Reset], "{way:?}");
    }
}

#[tokio::test]
async fn a_write_to_a_peer_that_has_gone_taints_peer_closed() {
    let Pair { mut stream, peer, events: _ } = pair(Way::ConnectUnix, timeouts()).await;
    drop(peer);
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(stream.tainted(), Some(PeerClosed));
}

/// Opens and closes in the events, each for the same connection.
fn life(events: &Events) -> (usize, Vec<CloseReason>) {
    let begins = |event: &&Event| matches!(event, Event::Opened { .. } | Event::Accepted { .. });
    (events.all().iter().filter(begins).count(), events.closed())
}

#[tokio::test]
async fn every_stream_reports_exactly_one_end() {
    for way in Way::ALL {
        // Never used.
        let unused = pair(way, timeouts()).await;
        assert_eq!(life(&unused.end()), (1, vec![Discarded]), "{way:?}");

        // Shut down by its user.
        let mut shut = pair(way, timeouts()).await;
        shut.stream.shutdown().await.unwrap();
        assert_eq!(shut.peer.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(life(&shut.end()), (1, vec![Discarded]), "{way:?}");

        // More than one thing happened: the first stands.
        let brief = Timeouts::default().with_read(Duration::from_millis(1));
        let Pair { mut stream, peer, events } = pair(way, brief).await;
        assert!(is_timeout(&stream.read_u8().await.unwrap_err()));
        drop(peer);
        stream.set_read_timeout(Some(READ));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        drop(stream);
        assert_eq!(life(&events), (1, vec![TimedOut]), "{way:?}");

        // Ended in another task, in two halves.
        let halves = pair(way, timeouts()).await;
        let (read, write) = tokio::io::split(halves.stream);
        tokio::spawn(async move { drop(read) }).await.unwrap();
        assert!(halves.events.closed().is_empty(), "{way:?}: one half is still there");
        drop(write);
        assert_eq!(life(&halves.events), (1, vec![Discarded]), "{way:?}");
    }
}

/// The kernel's own verdict. Real time: nobody but the kernel can make it pass.
#[cfg(target_os = "linux")]
mod vanished {
    use livepool::CloseReason::KeepaliveTimeout;
    use livepool::Keepalive;
    use livepool::config::UserTimeout;
    use livepool_testkit::fault::{heal, silence};

    use super::*;

    /// Finds a dead peer after three seconds.
    fn quick() -> SocketConfig {
        let keepalive =
            Keepalive::default().with_idle(SECOND).with_interval(SECOND).with_retries(2);
        SocketConfig::default().with_keepalive(keepalive)
    }

    #[track_caller]
    fn assert_kernel_gave_up(error: &io::Error) {
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        assert!(!is_timeout(error), "it says that the peer is dead, not that it is slow");
        assert!(OpTimeout::of(error).is_none());
    }

    /// The peer vanishes while a read waits for it.
    async fn found_by_keepalive(mut pair: Pair) {
        silence(&pair.peer);
        let error = pair.stream.read_u8().await.unwrap_err();
        assert_kernel_gave_up(&error);
        assert_eq!(pair.stream.tainted(), Some(KeepaliveTimeout));
        assert!(pair.events.timed_out().is_empty(), "not counted as a timeout");
        assert_eq!(pair.end().closed(), [KeepaliveTimeout]);
    }

    #[tokio::test]
    async fn a_peer_that_vanished_ends_a_read_by_keepalive_and_not_as_a_timeout() {
        let made = pair_with(Way::ConnectTcp, timeouts(), quick()).await;
        let accepted = pair_with(Way::AcceptTcp, timeouts(), quick()).await;
        tokio::join!(found_by_keepalive(made), found_by_keepalive(accepted));
    }

    #[tokio::test]
    async fn a_peer_that_vanished_ends_a_read_on_ipv6_too() {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("NOT TESTED: this machine has no IPv6");
            return;
        }
        found_by_keepalive(connect_tcp("[::1]:0", timeouts(), quick()).await).await;
    }

    #[tokio::test]
    async fn a_peer_that_vanished_with_our_bytes_under_way_is_found_by_the_user_timeout() {
        // Keepalive sends no probe while bytes are unacknowledged.
        let mut pair = pair_with(Way::ConnectTcp, timeouts().with_read(60 * SECOND), quick()).await;
        silence(&pair.peer);
        pair.stream.write_all(b"request").await.unwrap();
        let error = pair.stream.read_u8().await.unwrap_err();
        assert_kernel_gave_up(&error);
        assert_eq!(pair.stream.tainted(), Some(KeepaliveTimeout));
    }

    #[tokio::test]
    async fn a_slow_peer_that_lives_is_not_taken_for_dead() {
        // Its kernel answers the probes; only our own timeout ends the wait.
        let limits = timeouts().with_read(4 * SECOND);
        let mut pair = pair_with(Way::ConnectTcp, limits, quick()).await;
        let error = pair.stream.read_u8().await.unwrap_err();
        assert_own_timeout(&error, Operation::Read, 4 * SECOND);
    }

    #[tokio::test]
    async fn a_timeout_of_ours_comes_first_where_it_is_shorter() {
        let limits = timeouts().with_read(SECOND);
        let mut pair = pair_with(Way::ConnectTcp, limits, quick()).await;
        silence(&pair.peer);
        let error = pair.stream.read_u8().await.unwrap_err();
        assert_own_timeout(&error, Operation::Read, SECOND);
    }

    #[tokio::test]
    async fn a_peer_that_comes_back_in_time_goes_on() {
        let patient = quick().with_user_timeout(UserTimeout::Off).with_keepalive(None);
        let mut pair = pair_with(Way::ConnectTcp, timeouts(), patient).await;
        silence(&pair.peer);
        pair.stream.write_all(b"request").await.unwrap();
        let nothing = tokio::time::timeout(SECOND / 2, pair.peer.read_u8()).await;
        assert!(nothing.is_err(), "it arrives at a socket that hears nothing");
        heal(&pair.peer);
        let mut request = [0; 7];
        pair.peer.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"request");
    }
}
