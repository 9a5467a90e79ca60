//! Models of what a client library has to do with that several threads reach: the stream that is shared
//! with it, its task, and the count of what is owed.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use tokio::io::{AsyncRead, ReadBuf};

use super::driver::Rest;
use super::shared::Shared;
use super::*;
use crate::config::Limits;
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::models::{Model, block_on, turn};
use crate::stream::models::{is_closed, pair};
use crate::stream::{Interrupted, Link};
use crate::sync::Arc;

pub(crate) fn all() -> Vec<Model> {
    vec![
        Model { name: "shared-close", run: a_shared_stream_is_closed_whoever_uses_it },
        Model { name: "linger", run: what_is_left_of_a_connection_is_let_go_of },
        Model { name: "shared-layer", run: what_is_taken_in_for_nobody_reaches_the_next_reader },
        Model { name: "shared-debt", run: an_answer_is_never_taken_for_what_nobody_asked_for },
        Model { name: "driver", run: a_task_at_rest_has_sent_everything },
        Model { name: "after-poll", run: what_is_left_to_a_task_is_done_once_when_it_is_at_rest },
        Model { name: "ledger", run: whoever_waits_for_the_last_answer_is_told_of_it },
    ]
}

/// Reads once, waiting as a task does. The number of bytes.
pub(crate) async fn read(wire: &mut Wire) -> std::io::Result<usize> {
    let mut space = [0; 64];
    poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut space);
        Pin::new(&mut *wire).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    })
    .await
}

/// A client reads, the peer writes, the pool closes, each at any moment.
fn a_shared_stream_is_closed_whoever_uses_it() {
    let (stream, mut peer) = pair();
    let shared =
        Shared::new(Box::new(stream), Arc::new(|_: &[u8]| Verdict::Keep), Limits::unlimited());
    let mut wire = Wire::new(&shared, Deadline::NEVER);
    let reader = thread::spawn(move || {
        let end = block_on(async {
            loop {
                match read(&mut wire).await {
                    Ok(0) => panic!("the end that the pool made looks like one of the peer"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            }
        });
        (end, wire)
    });
    let pool = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.close(CloseReason::Resized))
    };
    for _ in 0..2 {
        // It may be closed.
        let _ = peer.write(b"x");
        turn();
    }
    pool.join().expect("the pool closed it");
    let (end, wire) = reader.join().expect("the reader was woken");
    let reason = Interrupted::of(&end).map(|interrupted| interrupted.reason);
    assert_eq!(reason, Some(CloseReason::Resized), "the reader is told why");
    assert!(is_closed(&mut peer), "the socket is closed though a wire lives");
    drop(wire);
}

/// A connection is closed in the middle of a request, while its stream is used, and its protocol's task
/// keeps what is left, or goes, at any moment: the place is free once, and the socket closed.
fn what_is_left_of_a_connection_is_let_go_of() {
    struct Slot(Arc<AtomicUsize>);
    impl Drop for Slot {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let (stream, mut peer) = pair();
    let shared =
        Shared::new(Box::new(stream), Arc::new(|_: &[u8]| Verdict::Keep), Limits::unlimited());
    let ledger = shared.count_debt();
    let owed = ledger.owe();
    let (linger, freed) = (shared.linger(), Arc::new(AtomicUsize::new(0)));
    let task = thread::spawn(move || {
        let keeps = thread_rng().gen_bool(0.7);
        if keeps && let Some(remains) = block_on(linger.closed()) {
            turn();
            drop(remains);
        }
        drop(linger);
    });
    let user = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.record(|_| thread::yield_now()))
    };
    let pool = {
        let freed = Arc::clone(&freed);
        thread::spawn(move || {
            let place = Box::new(Slot(freed));
            match shared.close_and_leave(CloseReason::Discarded).cloned() {
                Some(kept) => kept.take_place(place),
                None => drop((shared, place)),
            }
        })
    };
    for thread in [task, user, pool] {
        thread.join().expect("it ended");
    }
    assert_eq!(freed.load(SeqCst), 1, "the place is free once");
    assert!(is_closed(&mut peer), "the socket is closed");
    drop(owed);
}

/// The pool looks at a connection with a layer while its client reads: whoever takes the bytes off the
/// socket, the client gets all of them, and is woken for that.
fn what_is_taken_in_for_nobody_reaches_the_next_reader() {
    let (stream, mut peer) = pair();
    let shared =
        Shared::new(Box::new(stream), Arc::new(|_: &[u8]| Verdict::Keep), Limits::unlimited());
    let wire = Wire::new(&shared, Deadline::NEVER).layer(|below| async { Ok(below) });
    let mut wire = block_on(wire).expect("the first layer");
    const PIECES: usize = 2;
    let reader = thread::spawn(move || {
        block_on(async {
            let mut count = 0;
            while count < PIECES {
                count += read(&mut wire).await.expect("it is open");
            }
        });
        wire
    });
    let pool = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for _ in 0..PIECES {
                assert_eq!(shared.judge_waiting(Some(Vec::new()), b"."), None);
            }
        })
    };
    for _ in 0..PIECES {
        peer.write_all(b"x").expect("there is room");
        turn();
    }
    pool.join().expect("the pool looked");
    drop(reader.join().expect("all of it was read"));
}

/// Counts a request for each byte that is sent, and an answer for each that comes.
struct Count(usize);

impl Scanner for Count {
    fn sent(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn received(&mut self, bytes: &[u8]) {
        self.0 -= bytes.len();
    }

    fn owed(&self) -> usize {
        self.0
    }
}

/// A client asks for itself while its connection is idle, as one does that closes a statement late, and
/// the pool looks at the connection at any moment. The answer is not what nobody asked for.
fn an_answer_is_never_taken_for_what_nobody_asked_for() {
    const REQUESTS: usize = 2;
    let (stream, mut peer) = pair();
    let judge = Arc::new(|_: &[u8]| Verdict::Close);
    let bare = Bare::new(Box::new(stream), judge, Limits::unlimited());
    let mut wire = bare.wire(Deadline::NEVER);
    drop(wire.scan(Count(0)));
    let conn = bare.with_client(Box::new(()));
    conn.set_idle(true);
    let client = thread::spawn(move || {
        for _ in 0..REQUESTS {
            let sent = block_on(poll_fn(|cx| {
                tokio::io::AsyncWrite::poll_write(Pin::new(&mut wire), cx, b"?")
            }));
            assert_eq!(sent.expect("there is room"), 1);
            assert_eq!(block_on(read(&mut wire)).expect("an answer"), 1);
        }
        wire
    });
    let pool = thread::spawn(move || {
        for _ in 0..4 {
            let verdict = conn.peek();
            assert!(matches!(verdict, crate::liveness::Liveness::Alive), "{verdict:?}");
            thread::yield_now();
        }
        conn
    });
    let mut answered = 0;
    while answered < REQUESTS {
        if peer.read(&mut [0]).is_ok_and(|count| count == 1) {
            peer.write_all(b"!").expect("there is room");
            answered += 1;
        }
        turn();
        thread::yield_now();
    }
    // The last answer is there: the reactor has only to see it.
    turn();
    let wire = client.join().expect("it was answered");
    let conn = pool.join().expect("the pool looked");
    assert_eq!(conn.stream().tainted(), None);
    drop(wire);
}

/// A caller asks a client's task through a queue and goes away; the pool looks whether the task is at
/// rest. If it is, nothing that was asked is still in the queue.
///
/// One caller at a time, as a connection has. Of two who ask at the same moment from different threads,
/// the second finds the task's waker in the first one's hands, and nobody else can see that.
fn a_task_at_rest_has_sent_everything() {
    const REQUESTS: usize = 3;
    let rest = Arc::new(Rest::default());
    let (asked, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let task = Arc::new(futures_util::task::AtomicWaker::new());
    let client = {
        let (asked, sent, task) = (Arc::clone(&asked), Arc::clone(&sent), Arc::clone(&task));
        poll_fn(move |cx| {
            task.register(cx.waker());
            // Scheduling points, as the lock of a queue is one.
            thread::yield_now();
            let now = asked.load(SeqCst);
            thread::yield_now();
            sent.store(now, SeqCst);
            if now == REQUESTS { Poll::Ready(()) } else { Poll::Pending }
        })
    };
    let driven = Driver::new(&rest).run(client);
    let driver = thread::spawn(move || block_on(driven));
    let caller = {
        let rest = Arc::clone(&rest);
        thread::spawn(move || {
            for request in 1..=REQUESTS {
                asked.store(request, SeqCst);
                task.wake();
                // The caller has gone, and its connection comes back.
                if rest.is_at_rest() {
                    assert_eq!(sent.load(SeqCst), request, "a request is still in the queue");
                } else if thread_rng().gen_bool(0.5) {
                    block_on(rest.rested());
                    assert_eq!(sent.load(SeqCst), request, "a request is still in the queue");
                }
            }
        })
    };
    caller.join().expect("it came to rest");
    driver.join().expect("it ended");
    assert!(rest.is_at_rest(), "what has ended does nothing any more");
}

/// The driver of a connection that has no wire.
pub(crate) fn driver() -> Driver {
    Driver::new(&Arc::default())
}

/// A caller asks a client's task and goes away; its connection comes back and, while the task has work
/// to do, is left to it. Whoever judges the connection, here or there, does so once, and with nothing
/// left in the queue.
fn what_is_left_to_a_task_is_done_once_when_it_is_at_rest() {
    const RETURNS: usize = 3;
    let rest = Arc::new(Rest::default());
    let (asked, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let task = Arc::new(futures_util::task::AtomicWaker::new());
    let client = {
        let (asked, sent, task) = (Arc::clone(&asked), Arc::clone(&sent), Arc::clone(&task));
        let is_over = Arc::clone(&is_over);
        poll_fn(move |cx| {
            task.register(cx.waker());
            thread::yield_now();
            sent.store(asked.load(SeqCst), SeqCst);
            thread::yield_now();
            if is_over.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
    };
    let driven = Driver::new(&rest).run(client);
    let driver = thread::spawn(move || block_on(driven));
    let judged = Arc::new(AtomicUsize::new(0));
    for request in 1..=RETURNS {
        asked.store(request, SeqCst);
        task.wake();
        let judge = {
            let (judged, sent) = (Arc::clone(&judged), Arc::clone(&sent));
            let (rest, is_over) = (Arc::clone(&rest), Arc::clone(&is_over));
            move || {
                if rest.is_at_rest() && !is_over.load(SeqCst) {
                    assert_eq!(sent.load(SeqCst), request, "a request is still in the queue");
                }
                judged.fetch_add(1, SeqCst);
            }
        };
        if rest.is_at_rest() {
            judge();
        } else if let Err(judge) = rest.after_poll(Box::new(judge)) {
            judge();
        }
        // The next user has it when it was judged.
        while judged.load(SeqCst) < request {
            thread::yield_now();
        }
    }
    is_over.store(true, SeqCst);
    task.wake();
    driver.join().expect("it ended");
    assert_eq!(judged.load(SeqCst), RETURNS);
}

/// Answers are owed and come, by a ledger and by a scanner's sum, while others wait for the last one:
/// of either kind, and of both together.
fn whoever_waits_for_the_last_answer_is_told_of_it() {
    let link = Link::new();
    let ledger = Ledger(Arc::clone(&link));
    let waits = || {
        let ledger = ledger.clone();
        thread::spawn(move || {
            block_on(ledger.settled());
            assert_eq!(ledger.debt(), 0, "something is owed yet");
        })
    };
    let scanner_says = |debt| {
        let link = Arc::clone(&link);
        thread::spawn(move || link.wake(link.scanned(debt, false)))
    };
    let all_come = |ends: Vec<thread::JoinHandle<()>>, waiting: thread::JoinHandle<()>| {
        for end in ends {
            end.join().expect("the answer came");
        }
        waiting.join().expect("it was told");
    };
    let (first, second) = (ledger.owe(), ledger.owe());
    let waiting = waits();
    all_come([first, second].map(|owed| thread::spawn(move || drop(owed))).into(), waiting);
    link.wake(link.scanned(1, false));
    let waiting = waits();
    all_come(vec![scanner_says(0)], waiting);
    let owed = ledger.owe();
    link.wake(link.scanned(2, false));
    let waiting = waits();
    all_come(vec![thread::spawn(move || drop(owed)), scanner_says(0)], waiting);
    assert_eq!(link.debts_begun(), 3);
}
