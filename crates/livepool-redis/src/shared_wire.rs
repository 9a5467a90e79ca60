//! [`SharedWireIo`]: a wire in the hands of the crate's driver task that can be taken back.
//!
//! The driver keeps what it is given for good, and a subscription needs the connection for itself. So
//! the driver gets this; the wire stays in a slot that the [`Client`](super::Client) can reach too.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use livepool::protocol::{DeferredEvents, Wire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The place of the wire, shared by the client and the driver task.
#[derive(Debug, Clone)]
pub(super) struct SharedWire(Arc<Place>);

#[derive(Debug)]
struct Place {
    /// The lock is held for one poll.
    wire: Mutex<Option<Wire>>,
    turn: Turn,
}

/// A poll of the driver task. The task reads again for each command that it sends: once a read of this poll
/// has found nothing more, neither would another one. Whatever comes wakes the task, and it is polled again.
#[derive(Debug, Default)]
struct Turn {
    /// The address of the task's waker. What reads with another one may be polled twice in one poll of the task.
    task: AtomicUsize,
    has_read_all: AtomicBool,
}

impl Turn {
    // Written and read by the task alone, so no order is needed.
    fn begin(&self, cx: &Context<'_>) {
        self.task.store(cx.waker().data() as usize, Ordering::Relaxed);
        self.has_read_all.store(false, Ordering::Relaxed);
    }

    fn has_read_all(&self, cx: &Context<'_>) -> bool {
        self.has_read_all.load(Ordering::Relaxed)
            && self.task.load(Ordering::Relaxed) == cx.waker().data() as usize
    }
}

impl SharedWire {
    pub(super) fn new(wire: Wire) -> Self {
        Self(Arc::new(Place { wire: Mutex::new(Some(wire)), turn: Turn::default() }))
    }

    /// The task of the driver that was given [`driver_io`](Self::driver_io).
    pub(super) async fn drive(self, driver: impl Future<Output = ()>) {
        let mut driver = pin!(driver);
        poll_fn(|cx| {
            self.0.turn.begin(cx);
            driver.as_mut().poll(cx)
        })
        .await;
    }

    /// The stream that the driver is given for good.
    pub(super) fn driver_io(&self) -> SharedWireIo {
        let events = self.wire().as_ref().map(Wire::defer_events);
        let is_write_vectored = self.wire().as_ref().is_some_and(Wire::is_write_vectored);
        SharedWireIo { shared_wire: self.clone(), events, is_write_vectored }
    }

    /// Takes the wire from the driver, which never hears of it again.
    pub(super) fn take(&self) -> Option<Wire> {
        self.wire().take()
    }

    pub(super) fn wire(&self) -> MutexGuard<'_, Option<Wire>> {
        self.0.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream that the driver reads and writes.
#[derive(Debug)]
pub(super) struct SharedWireIo {
    shared_wire: SharedWire,
    /// The events of a poll, held back until the lock is free: observers are foreign code.
    events: Option<DeferredEvents>,
    is_write_vectored: bool,
}

impl SharedWireIo {
    fn poll<T>(
        &self,
        poll: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let poll = || match &mut *self.shared_wire.wire() {
            Some(wire) => poll(Pin::new(wire)),
            // The client has taken it, and aborts the driver.
            None => Poll::Pending,
        };
        match &self.events {
            Some(events) => events.during(poll),
            None => poll(),
        }
    }
}

impl Drop for SharedWireIo {
    /// The driver has ended, for whatever reason: the wire goes with it, which tells the pool.
    fn drop(&mut self) {
        drop(self.shared_wire.take());
    }
}

impl AsyncRead for SharedWireIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = &self.shared_wire.0.turn;
        if turn.has_read_all(cx) {
            return Poll::Pending;
        }
        let result = self.poll(|wire| wire.poll_read(cx, buf));
        if result.is_pending() {
            turn.has_read_all.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for SharedWireIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|wire| wire.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|wire| wire.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.is_write_vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|wire| wire.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|wire| wire.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_read_that_found_nothing_answers_for_the_next_ones_of_its_poll_and_its_task() {
        let [task, other] = [(); 2].map(|()| Waker::from(Arc::new(Task)));
        let (task, other) = (Context::from_waker(&task), Context::from_waker(&other));
        let turn = Turn::default();
        turn.has_read_all.store(true, Ordering::Relaxed);
        assert!(!turn.has_read_all(&task), "of no task");
        turn.begin(&task);
        assert!(!turn.has_read_all(&task), "not read yet");
        turn.has_read_all.store(true, Ordering::Relaxed);
        assert!(turn.has_read_all(&task) && !turn.has_read_all(&other));
        turn.begin(&task);
        assert!(!turn.has_read_all(&task), "of the poll before");
    }
}
