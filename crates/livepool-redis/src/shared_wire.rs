//! [`SharedWireIo`]: a wire in the hands of the crate's driver task that can be taken back.
//!
//! The driver keeps what it is given for good, and a subscription needs the connection for itself. So
//! the driver gets this; the wire stays in a slot that the [`Client`](super::Client) can reach too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use livepool::protocol::{DeferredEvents, Wire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The place of the wire, shared by the client and the driver task. The lock is held for one poll.
#[derive(Debug, Clone)]
pub(super) struct SharedWire(Arc<Mutex<Option<Wire>>>);

impl SharedWire {
    pub(super) fn new(wire: Wire) -> Self {
        Self(Arc::new(Mutex::new(Some(wire))))
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.poll(|wire| wire.poll_read(cx, buf))
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
