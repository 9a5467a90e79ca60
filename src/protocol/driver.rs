//! [`Driver`]: the task in which a client library reads and writes, and whether it has work to do.
//!
//! A request goes to such a task through a channel, and its caller may be gone before the task has
//! looked there. Nothing was sent then, and nothing is owed, as far as anybody can see on the wire;
//! yet the request will be sent, and the next user of the connection would be the one who meets it.
//! So a connection is not judged while its task has been woken and has not run since.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Arc, AtomicWaker};

const WOKEN: u8 = 1;
const POLLING: u8 = 2;
/// For good: whoever still has its waker wakes nobody.
const ENDED: u8 = 4;

/// Whether the task of a connection has work to do.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    state: AtomicU8,
    rested: Notify,
}

impl Rest {
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state == 0 || state & ENDED != 0
    }

    /// Resolves when it has done what it was woken for.
    pub(crate) async fn rested(&self) {
        loop {
            let mut rested = std::pin::pin!(self.rested.notified());
            rested.as_mut().enable();
            if self.is_at_rest() {
                return;
            }
            rested.await;
        }
    }

    fn end(&self) {
        self.state.store(ENDED, Ordering::SeqCst);
        self.rested.notify_waiters();
    }
}

/// Runs the task of a client. Get one with [`Wire::driver`](crate::protocol::Wire::driver).
#[derive(Debug)]
#[must_use = "it is to run the client's task"]
pub struct Driver {
    pub(super) rest: Arc<Rest>,
}

impl Driver {
    /// The client's task, to be spawned: it does what `task` does, and the pool knows whether it has
    /// work to do.
    pub fn run<F: Future>(self, task: F) -> Driven<F> {
        self.rest.state.store(WOKEN, Ordering::SeqCst);
        let alarm =
            Arc::new(DriverWaker { rest: Arc::clone(&self.rest), task: AtomicWaker::new() });
        Driven { task, waker: Waker::from(Arc::clone(&alarm)), end: End { alarm } }
    }
}

pin_project! {
    /// The future that [`Driver::run`] returns.
    #[derive(Debug)]
    #[must_use = "it does nothing unless it is spawned"]
    pub struct Driven<F> {
        #[pin]
        task: F,
        waker: Waker,
        end: End,
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let DriverWaker { rest, task } = &*this.end.alarm;
        task.register(cx.waker());
        rest.state.store(POLLING, Ordering::SeqCst);
        let result = this.task.poll(&mut Context::from_waker(this.waker));
        if rest.state.fetch_and(!POLLING, Ordering::SeqCst) == POLLING {
            rest.rested.notify_waiters();
        }
        result
    }
}

/// Notes that the task was woken, and wakes it.
#[derive(Debug)]
struct DriverWaker {
    rest: Arc<Rest>,
    task: AtomicWaker,
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rest.state.fetch_or(WOKEN, Ordering::SeqCst);
        self.task.wake();
    }
}

/// A task that has ended does nothing any more, however it ended.
#[derive(Debug)]
struct End {
    alarm: Arc<DriverWaker>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.alarm.rest.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_task_that_has_ended_is_at_rest_whoever_wakes_it() {
        let rest = Arc::<Rest>::default();
        // A channel has the task's waker for longer than it has a receiver.
        let channel = Arc::new(Mutex::new(None));
        let receiver = Arc::clone(&channel);
        let mut task = Driver { rest: Arc::clone(&rest) }.run(poll_fn(move |cx| {
            let known = receiver.lock().unwrap().replace(cx.waker().clone());
            if known.is_none() { Poll::Pending } else { Poll::Ready(()) }
        }));
        let wake = || channel.lock().unwrap().as_ref().unwrap().wake_by_ref();
        assert!((&mut task).now_or_never().is_none() && rest.is_at_rest());
        wake();
        assert!(!rest.is_at_rest(), "it has something to do");
        assert!((&mut task).now_or_never().is_some());
        drop(task);
        wake();
        assert!(rest.is_at_rest());
    }
}
