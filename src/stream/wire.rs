//! [`Wire`]: the stream of a connection, in the hands of a client library.

use crate::sync::Arc;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use super::driver::Driver;
use super::link::Ledger;
use super::scan::Scanner;
use super::shared::{Duplex, Shared};
use crate::event::{CloseReason, ConnId};
use crate::net::PeerAddr;

/// The stream of one connection, as a client library gets it.
///
/// Reads and writes have their timeouts, as those of a [`Stream`] do. Put it into a codec, a TLS
/// session or a driver task: the pool keeps its own hold on the socket, and looks at it while the
/// connection is idle. When the pool closes the connection, every operation fails with
/// [`Interrupted`](crate::Interrupted). When the wire is dropped, the connection is not reused.
pub struct Wire {
    shared: Arc<Shared>,
    /// Below its layer, where the bytes are those of the socket.
    is_below: bool,
}

impl Wire {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), is_below: false }
    }

    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.shared.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.shared.peer()
    }

    /// The name in the pool's `upstream` under which that address was found; `None` where it was an
    /// address from the start.
    pub fn host(&self) -> Option<&str> {
        self.shared.host()
    }

    /// From now on the read timeout runs only while an answer is owed, as counted by the returned
    /// ledger, and the connection may be reused when nothing is. For as long as it lives.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&self) -> Ledger {
        self.shared.count_debt()
    }

    /// As [`count_debt`](Self::count_debt), counted by this scanner, which reads along from now on.
    pub fn scan(&self, scanner: impl Scanner) -> Ledger {
        self.shared.scan(Box::new(scanner));
        self.shared.count_debt()
    }

    /// Runs the task in which the client reads and writes, if it has one that is asked through a
    /// channel: what is in the channel is then as good as sent. Without this, a request whose caller
    /// has gone may still be sent when the connection has its next user.
    pub fn driver(&self) -> Driver {
        Driver { rest: Arc::clone(self.shared.rest()) }
    }

    /// Puts something between the socket and the client, which encrypts, say: `wrap` gets the wire
    /// below it, and what it makes of that is below the wire returned.
    ///
    /// # Errors
    ///
    /// That of `wrap`; and of kind `Unsupported` for a second layer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the wire.
    pub async fn layer<L, F>(self, wrap: impl FnOnce(Self) -> F) -> io::Result<Self>
    where
        L: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = io::Result<L>>,
    {
        if self.is_below || !self.shared.begin_layer() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a wire has one layer at most"));
        }
        let below = Self { shared: Arc::clone(&self.shared), is_below: true };
        let layer = wrap(below).await?;
        self.shared.set_layer(Box::new(layer));
        Ok(self)
    }

    /// The stream, which nobody shares any more.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        self.shared.take().map(|stream| *stream).ok_or_else(|| self.shared.lost())
    }

    /// One operation, and what it means for the connection.
    fn poll<T>(
        &self,
        operation: impl FnOnce(Pin<&mut dyn Duplex>) -> Poll<io::Result<T>>,
        record: impl FnOnce(&mut Stream, &T),
        record_pending: impl FnOnce(&mut Stream),
    ) -> Poll<io::Result<T>> {
        if self.is_below || !self.shared.is_layered() {
            return self.shared.poll_stream(|stream| operation(Pin::new(stream)));
        }
        let result = self.shared.poll_layer(operation);
        self.shared.record(|stream| match &result {
            Poll::Ready(Ok(done)) => record(stream, done),
            Poll::Ready(Err(error)) => stream.taint(CloseReason::of_io_error(error)),
            Poll::Pending => record_pending(stream),
        });
        result
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.is_below {
            self.shared.abandon();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let result = if !self.is_below && self.shared.take_kept(buf) {
            Poll::Ready(Ok(()))
        } else {
            self.poll(
                |io| io.poll_read(cx, buf).map_ok(|()| buf.filled().len() - before),
                |stream, bytes| stream.record_read(*bytes, had_room),
                Stream::record_pending_read,
            )
            .map_ok(drop)
        };
        // The pool may have taken in meanwhile what would have woken this task. It looks for a task to
        // wake before it takes anything in, and both take turns at the layer.
        let result = match result {
            Poll::Pending if !self.is_below && self.shared.take_kept(buf) => Poll::Ready(Ok(())),
            result => result,
        };
        if !self.is_below && matches!(result, Poll::Ready(Ok(()))) {
            match &buf.filled()[before..] {
                // The client learns it here, and the pool has to.
                [] if had_room => self.shared.taint(CloseReason::PeerClosed),
                [] => {}
                bytes => self.shared.received(bytes),
            }
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = self.poll(
            |io| io.poll_write(cx, buf),
            |stream, bytes| stream.record_written(*bytes),
            Stream::record_pending_write,
        );
        if let (Poll::Ready(Ok(bytes)), false) = (&result, self.is_below) {
            self.shared.sent(&buf[..*bytes]);
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = |stream: &mut Stream, (): &()| stream.record_written(0);
        self.poll(|io| io.poll_flush(cx), done, Stream::record_pending_write)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = |stream: &mut Stream, (): &()| stream.record_written(0);
        self.poll(|io| io.poll_shutdown(cx), done, Stream::record_pending_write)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("id", &self.id())
            .field("peer", self.peer_addr())
            .finish_non_exhaustive()
    }
}
