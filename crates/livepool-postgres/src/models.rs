//! A model of what is known of a connection while a driver task has it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::line::Line;
use crate::sync::Arc;
use livepool::models::{Model, block_on};

/// All of this crate.
pub fn all() -> Vec<Model> {
    vec![Model { name: "postgres-line", run: a_quiet_line_owes_nothing_and_has_sent_everything }]
}

/// What lies between a caller, the driver and the server.
#[derive(Default)]
struct Between {
    /// The driver's waker in the client's queue, in the socket, and with whoever reads the answers.
    queue: AtomicWaker,
    socket: AtomicWaker,
    reader: AtomicWaker,
    asked: AtomicUsize,
    sent: AtomicUsize,
    answered: AtomicUsize,
    /// Off the socket, and out of the driver's hands.
    received: AtomicUsize,
    passed_on: AtomicUsize,
    /// Nobody reads the answers.
    is_held_up: AtomicBool,
    is_over: AtomicBool,
}

/// A caller asks and goes away, the server answers when it likes, and the driver reads and writes; while
/// it has an answer for which nobody reads it does not get to reading. Whoever is told that the line is
/// quiet finds no request in the queue, and no answer under way or in the driver's hands, where it would
/// stand before the next user's; and whoever waits for that is told in the end.
fn a_quiet_line_owes_nothing_and_has_sent_everything() {
    const REQUESTS: usize = 2;
    let driver = livepool::models::driver();
    let state = driver.state();
    let (line, between) = (Line::new(state.clone()), Arc::new(Between::default()));
    between.is_held_up.store(thread_rng().gen_bool(0.5), SeqCst);
    let task = {
        let (line, between) = (Arc::clone(&line), Arc::clone(&between));
        let known = Arc::clone(&line);
        let poll = move |cx: &mut std::task::Context<'_>| {
            between.queue.register(cx.waker());
            between.socket.register(cx.waker());
            between.reader.register(cx.waker());
            // Scheduling points, as the locks of a queue are.
            thread::yield_now();
            let asked = between.asked.load(SeqCst);
            thread::yield_now();
            // What reads along counts before the bytes leave.
            known.scanned(asked - between.received.load(SeqCst), false, false);
            between.sent.store(asked, SeqCst);
            thread::yield_now();
            loop {
                let received = between.received.load(SeqCst);
                if received > between.passed_on.load(SeqCst) {
                    if between.is_held_up.load(SeqCst) {
                        return Poll::Pending;
                    }
                    between.passed_on.store(received, SeqCst);
                }
                let answered = between.answered.load(SeqCst);
                if answered == received {
                    break;
                }
                between.received.store(answered, SeqCst);
                known.scanned(asked - answered, false, false);
            }
            thread::yield_now();
            state.has_read_all();
            if between.is_over.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        };
        thread::spawn(move || {
            let mut driven = std::pin::pin!(driver.run_reading(std::future::poll_fn(poll)));
            block_on(driven.as_mut());
            line.lose();
        })
    };
    let server = {
        let between = Arc::clone(&between);
        thread::spawn(move || {
            for answered in 1..=REQUESTS {
                while between.sent.load(SeqCst) < answered {
                    thread::yield_now();
                }
                between.answered.store(answered, SeqCst);
                between.socket.wake();
            }
        })
    };
    // Somebody reads in the end.
    let reader = {
        let between = Arc::clone(&between);
        thread::spawn(move || {
            for _ in 0..thread_rng().gen_range(0..10) {
                thread::yield_now();
            }
            between.is_held_up.store(false, SeqCst);
            between.reader.wake();
        })
    };
    let check = |request| {
        assert_eq!(between.sent.load(SeqCst), request, "a request is still in the queue");
        assert_eq!(between.received.load(SeqCst), request, "an answer is still owed");
        assert_eq!(between.passed_on.load(SeqCst), request, "the driver still has an answer");
    };
    for request in 1..=REQUESTS {
        between.asked.store(request, SeqCst);
        between.queue.wake();
        // The caller has gone, and the connection comes back.
        if line.is_quiet() {
            check(request);
        } else if thread_rng().gen_bool(0.7) {
            block_on(line.quiet());
            check(request);
        }
    }
    server.join().expect("it answered");
    reader.join().expect("it read");
    block_on(line.quiet());
    check(REQUESTS);
    between.is_over.store(true, SeqCst);
    between.queue.wake();
    task.join().expect("it ended");
}
