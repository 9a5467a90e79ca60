//! [`Wire`]: the stream of a connection, in the hands of a client library.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::aside::SideChannel;
use super::driver::Driver;
use super::linger::{Linger, Lingering};
use super::scanner::Scanner;
use super::shared::{Duplex, Shared};
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId};
use crate::net::PeerAddr;
use crate::stream::{Ledger, Link, Stream};
use crate::sync::Arc;

/// The stream of one connection, as a client library gets it.
///
/// Reads and writes have their timeouts, as those of a [`Stream`] do. Put it into a codec, a TLS
/// session or a driver task: the pool keeps its own hold on the socket, and looks at it while the
/// connection is idle. When the pool closes the connection, every operation fails with
/// [`Interrupted`](crate::Interrupted). When the wire is dropped, the connection is not reused.
///
/// ```
/// use livepool::protocol::Wire;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// /// A handshake: the protocol's name, and the server's version.
/// async fn handshake(mut wire: Wire) -> std::io::Result<(u8, Wire)> {
///     wire.write_all(b"ECHO").await?;
///     Ok((wire.read_u8().await?, wire))
/// }
/// ```
pub struct Wire {
    shared: Arc<Shared>,
    /// Below its layer, where the bytes are those of the socket.
    is_below: bool,
    /// The next write has waited for those who have something to send as well.
    has_waited: bool,
    deadline: Deadline,
}

impl Wire {
    pub(crate) fn new(shared: &Arc<Shared>, deadline: Deadline) -> Self {
        Self { shared: Arc::clone(shared), is_below: false, has_waited: false, deadline }
    }

    /// Whether a write is put off until all tasks that can run have run. The first of many callers wakes the
    /// client's task, which runs next: what the others are about to ask goes out with the same system call,
    /// and is answered with one.
    fn waits_for_others(&mut self, cx: &Context<'_>) -> bool {
        if self.is_below || !self.shared.is_shared() || std::mem::take(&mut self.has_waited) {
            return false;
        }
        self.has_waited = true;
        // A task that wakes itself goes to the end of its runtime's queue.
        cx.waker().wake_by_ref();
        true
    }

    /// When the dial is over, `timeouts.connect` after it began: the protocol's
    /// [`connect`](crate::protocol::Protocol::connect) is dropped then.
    pub fn dial_deadline(&self) -> Deadline {
        self.deadline
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
    ///
    /// This is for a protocol to do while it [makes](crate::protocol::Protocol::connect) its client. Later, when
    /// callers may have the wire in their hands, it changes nothing, or one of them could change how
    /// the connections of others are judged: the ledger that is returned then is nobody's. A connection
    /// that was [detached](crate::Guard::detach) is judged by nobody, and its owner may do as he likes.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&self) -> Ledger {
        if self.shared.is_settled("count_debt() comes too late: the protocol has made its client") {
            return Ledger(Link::new());
        }
        self.shared.count_debt()
    }

    /// As [`count_debt`](Self::count_debt), counted by this scanner, which reads along from now on. What
    /// the ledger is told to [owe](Ledger::owe) is owed on top of what the scanner counts.
    pub fn scan(&self, scanner: impl Scanner) -> Ledger {
        if self.shared.is_settled("scan() comes too late: the protocol has made its client") {
            return Ledger(Link::new());
        }
        self.shared.scan(Box::new(scanner));
        self.shared.count_debt()
    }

    /// Runs the task in which the client reads and writes, if it has one that is asked through a
    /// channel: what is in the channel is then as good as sent. Without this, a request whose caller
    /// has gone may still be sent when the connection has its next user, and a read of the task that is
    /// pending, as it always is, is taken for a caller's that was given up.
    ///
    /// Whoever asks the task waits for its end as well as for the answer. What is put into a channel of
    /// tokio's as its receiver is dropped may stay there until the last sender is gone, and whoever waits for
    /// an answer has one.
    ///
    /// Without a [ledger](Self::count_debt) a connection with a driver is reused after
    /// [`Guard::release`](crate::Guard::release) only, and the read timeout runs from a request to
    /// the first bytes that come after it.
    ///
    /// As [`count_debt`](Self::count_debt) it is for the protocol, while it makes its client.
    pub fn driver(&self) -> Driver {
        if self.shared.is_settled("driver() comes too late: the protocol has made its client") {
            return Driver::new(&Arc::default());
        }
        self.shared.is_driven();
        Driver::new(self.shared.rest())
    }

    /// Puts something between the socket and the client, which encrypts, say: `wrap` gets the wire
    /// below it, and what it makes of that is below the wire returned.
    ///
    /// # Errors
    ///
    /// That of `wrap`; and of kind `Unsupported` for a second layer, or when the protocol has made its
    /// client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the wire.
    pub async fn layer<L, F>(self, wrap: impl FnOnce(Self) -> F) -> io::Result<Self>
    where
        L: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = io::Result<L>>,
    {
        let is_late = "layer() comes too late: the protocol has made its client";
        if self.is_below || self.shared.is_settled(is_late) || !self.shared.begin_layer() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a wire has one layer at most, from the start",
            ));
        }
        let below = Self {
            shared: Arc::clone(&self.shared),
            is_below: true,
            has_waited: false,
            deadline: self.deadline,
        };
        let layer = wrap(below).await?;
        self.shared.set_layer(Box::new(layer));
        Ok(self)
    }

    /// The way to the same peer over connections of their own, to ask it to stop what it does for
    /// this one. Returns `None` for a connection that no pool has dialed.
    pub fn side_channel(&self) -> Option<SideChannel> {
        self.shared.side_channel()
    }

    /// For a protocol that can ask its peer to stop: the slot and the socket of a connection that is
    /// closed while something is owed on it are kept for as long as the returned value is held.
    ///
    /// As [`count_debt`](Self::count_debt) it is for the protocol, while it makes its client.
    #[must_use = "dropping it lets go of what it keeps"]
    pub fn linger(&self) -> Linger {
        if self.shared.is_settled("linger() comes too late: the protocol has made its client") {
            let nobodys = Arc::<Lingering>::default();
            nobodys.pass();
            return Linger(nobodys);
        }
        self.shared.linger()
    }

    /// Reports that the protocol would have encrypted this connection, and could not: the peer
    /// would not (`was_asked`), or the pool has no TLS. The event is
    /// [`Event::Unencrypted`](crate::Event::Unencrypted).
    pub fn report_unencrypted(&self, was_asked: bool) {
        self.shared.is_unencrypted(was_asked);
    }

    /// For a client that polls this wire with a lock of its own held. Observers are called in the middle
    /// of a poll, and must not be called under a lock.
    pub fn defer_events(&self) -> DeferredEvents {
        DeferredEvents(Arc::clone(&self.shared))
    }

    /// Whether it is that of this connection.
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The stream, which nobody shares any more.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        self.shared.take().map(|stream| *stream).ok_or_else(|| self.shared.lost())
    }

    /// Runs one operation, and notes what it means for the connection.
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

/// Keeps the events of a [`Wire`] until a lock is free that is held for its polls. Get one with
/// [`Wire::defer_events`].
///
/// ```
/// use std::io;
/// use std::pin::Pin;
/// use std::sync::{Arc, Mutex};
/// use std::task::{Context, Poll};
/// use livepool::protocol::{DeferredEvents, Wire};
/// use tokio::io::{AsyncRead, ReadBuf};
///
/// /// A wire that its client can take back from the library that reads it.
/// struct Lent {
///     wire: Arc<Mutex<Option<Wire>>>,
///     events: DeferredEvents,
/// }
///
/// impl AsyncRead for Lent {
///     fn poll_read(
///         self: Pin<&mut Self>,
///         cx: &mut Context<'_>,
///         buf: &mut ReadBuf<'_>,
///     ) -> Poll<io::Result<()>> {
///         // The lock is taken, and free again, before an observer hears of anything.
///         self.events.during(|| match &mut *self.wire.lock().unwrap() {
///             Some(wire) => Pin::new(wire).poll_read(cx, buf),
///             None => Poll::Pending,
///         })
///     }
/// }
/// ```
#[derive(Debug)]
pub struct DeferredEvents(Arc<Shared>);

impl DeferredEvents {
    /// Makes a poll, and tells afterwards what happened in it. The lock is taken in `poll`, and is free
    /// when it returns.
    pub fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.0.tell_later(poll)
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
        let _telling = (!self.is_below).then(|| self.shared.moves());
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
        if !matches!(result, Poll::Ready(Ok(()))) {
            if result.is_pending() && !self.is_below {
                self.shared.rest().has_read_all();
            }
            return result;
        }
        let within = match &buf.filled()[before..] {
            bytes if self.is_below => self.shared.received_below(bytes.len()),
            // The client learns it here, and the pool has to.
            [] if had_room => {
                self.shared.taint(CloseReason::PeerClosed);
                Ok(())
            }
            [] => Ok(()),
            bytes => self.shared.received(bytes),
        };
        if within.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(within)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waits_for_others(cx) {
            return Poll::Pending;
        }
        // The answer may be there before what was written is counted.
        let _telling = (!self.is_below).then(|| self.shared.moves());
        let result = self.poll(
            |io| io.poll_write(cx, buf),
            |stream, bytes| stream.record_written(*bytes),
            Stream::record_pending_write,
        );
        if let (Poll::Ready(Ok(bytes)), false) = (&result, self.is_below) {
            self.shared.sent([&buf[..*bytes]], buf.len());
        }
        result
    }

    /// A client that has many requests to send sends them with one system call.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waits_for_others(cx) {
            return Poll::Pending;
        }
        let _telling = (!self.is_below).then(|| self.shared.moves());
        let result = self.poll(
            |io| io.poll_write_vectored(cx, bufs),
            |stream, bytes| stream.record_written(*bytes),
            Stream::record_pending_write,
        );
        if let (Poll::Ready(Ok(bytes)), false) = (&result, self.is_below) {
            let of = bufs.iter().map(|buf| buf.len()).sum();
            let mut left = *bytes;
            let sent = bufs.iter().map(|buf| {
                let (sent, _) = buf.split_at(buf.len().min(left));
                left -= sent.len();
                sent
            });
            self.shared.sent(sent, of);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.is_below || !self.shared.is_layered()
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
