//! [`SharedWireIo`]: a wire in the hands of the crate's driver task that can be taken back.
//!
//! The driver keeps what it is given for good, and a subscription needs the connection for itself. So
//! the driver gets this; the wire stays in a slot that the [`Client`](super::Client) can reach too. Whoever
//! asks the driver waits for its end as well: [`SharedWire::answered`].

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ::redis::RedisResult;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

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
    /// The driver task has ended, however it did.
    has_ended: AtomicBool,
    ended: Notify,
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
        Self::of(Some(wire))
    }

    fn of(wire: Option<Wire>) -> Self {
        let (turn, has_ended, ended) = (Turn::default(), AtomicBool::new(false), Notify::new());
        Self(Arc::new(Place { wire: Mutex::new(wire), turn, has_ended, ended }))
    }

    /// The task of the driver that was given [`driver_io`](Self::driver_io).
    pub(super) fn drive(self, driver: impl Future<Output = ()>) -> impl Future<Output = ()> {
        // Not in the task, which may be aborted before its first poll.
        let end = EndOfDriver(self);
        async move {
            let end = end;
            // Dropped before its end is told.
            let mut driver = pin!(driver);
            poll_fn(|cx| {
                end.0.0.turn.begin(cx);
                driver.as_mut().poll(cx)
            })
            .await;
        }
    }

    /// The answer of the driver task to this request, or the error that it has ended without one.
    ///
    /// It is asked through a channel of tokio's. A request that is put there while the task ends may stay
    /// there for as long as anybody could send another one: whoever waits for the answer can, and would wait
    /// for ever.
    ///
    /// The request is pinned by its caller: it is large, and to move it costs more than all that is done here.
    pub(super) async fn answered<T>(
        &self,
        mut request: Pin<&mut impl Future<Output = RedisResult<T>>>,
    ) -> RedisResult<T> {
        let mut ended = pin!(self.0.ended.notified());
        poll_fn(|cx| {
            if let Poll::Ready(answer) = request.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            // Registered before the look: whoever ends it says so first, and wakes then.
            let _ = ended.as_mut().poll(cx);
            if !self.0.has_ended.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            // Whatever it answered is there by now.
            match request.as_mut().poll(cx) {
                Poll::Pending => {
                    Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()))
                }
                answer => answer,
            }
        })
        .await
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

/// Tells of the driver's end when it is dropped, which is with the task, or after the driver.
struct EndOfDriver(SharedWire);

impl Drop for EndOfDriver {
    fn drop(&mut self) {
        self.0.0.has_ended.store(true, Ordering::SeqCst);
        self.0.0.ended.notify_waiters();
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

    use futures_util::future::join_all;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;

    /// On a paused clock it is over when nothing else can happen.
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    /// A request that is in the driver's channel for good: it was put there by one who was let in before the
    /// channel was closed, and after all that is in it was taken out.
    async fn too_late(permit: mpsc::OwnedPermit<oneshot::Sender<()>>) -> RedisResult<()> {
        let (answer, answered) = oneshot::channel();
        let _can_send_another = permit.send(answer);
        answered.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset).into())
    }

    async fn never(wire: &SharedWire) -> RedisResult<()> {
        wire.answered(pin!(std::future::pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_as_the_driver_ends_fails_with_it_and_is_not_waited_for() {
        let (requests, mut channel) = mpsc::channel(2);
        let wire = SharedWire::of(None);
        let (end, ends) = oneshot::channel::<()>();
        let driver = tokio::spawn(wire.clone().drive(async move {
            let _ = ends.await;
            channel.close();
            drop(channel);
        }));
        let permit = requests.clone().reserve_owned().await.unwrap();
        end.send(()).unwrap();
        driver.await.unwrap();
        // The crate alone waits for ever.
        let other = mpsc::channel(1);
        let other = (other.0.reserve_owned().await.unwrap(), drop(other.1)).0;
        assert!(timeout(DAY, too_late(other)).await.is_err());
        let error = timeout(DAY, wire.answered(pin!(too_late(permit)))).await.unwrap().unwrap_err();
        assert!(error.is_connection_dropped(), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_are_told_of_the_drivers_end_however_it_ends_and_have_what_it_answered() {
        for is_aborted in [false, true] {
            let wire = SharedWire::of(None);
            let (end, ends) = oneshot::channel::<()>();
            let driver = tokio::spawn(wire.clone().drive(async move {
                let _ = ends.await;
            }));
            let waiting = join_all((0..3).map(|_| never(&wire)));
            let (answers, ()) = tokio::join!(timeout(DAY, waiting), async {
                tokio::task::yield_now().await;
                if is_aborted { driver.abort() } else { end.send(()).unwrap() }
            });
            assert!(
                answers
                    .unwrap()
                    .iter()
                    .all(|answer| answer.as_ref().unwrap_err().is_connection_dropped())
            );
            let second_look = pin!(async {
                tokio::task::yield_now().await;
                RedisResult::Ok(7)
            });
            assert_eq!(wire.answered(second_look).await.unwrap(), 7);
        }
        // One that never ran has ended, too.
        let wire = SharedWire::of(None);
        drop(wire.clone().drive(std::future::pending()));
        timeout(DAY, never(&wire)).await.unwrap().unwrap_err();
    }

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
