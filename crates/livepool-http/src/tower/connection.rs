//! [`Connection`]: a stream as hyper wants it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{self, Connected};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_tracker::{RequestTracker, TLS};
use livepool::Stream;
use livepool::protocol::{Ledger, Owed};

/// A connection made by [`Connect`](super::Connect), with its timeouts, and with hyper's `Read` and
/// `Write`.
///
/// ```
/// use livepool_http::tower::Connection;
///
/// fn show(connection: &Connection) {
///     println!("{} to {}", connection.stream().id(), connection.stream().peer_addr());
/// }
/// ```
pub struct Connection(TokioIo<TimedStream>);

/// A stream whose read timeout runs while a request that was written in full has had no answer.
#[derive(Debug)]
struct TimedStream {
    stream: Stream,
    ledger: Ledger,
    owed: Option<Owed>,
    requests: RequestTracker,
    /// Whether the first byte has to be TLS, as the URI says.
    is_for_tls: bool,
}

impl Connection {
    pub(super) fn new(mut stream: Stream, is_for_tls: bool) -> Self {
        let ledger = stream.count_debt_for_good();
        let requests = RequestTracker::default();
        Self(TokioIo::new(TimedStream { stream, ledger, owed: None, requests, is_for_tls }))
    }

    /// The stream below: its number, addresses, socket options.
    pub fn stream(&self) -> &Stream {
        &self.0.inner().stream
    }
}

impl connect::Connection for Connection {
    /// As hyper-util says it of its own connector's: with an
    /// [`HttpInfo`](hyper_util::client::legacy::connect::HttpInfo) for TCP.
    fn connected(&self) -> Connected {
        self.stream().tcp().map_or_else(Connected::new, connect::Connection::connected)
    }
}

impl TimedStream {
    /// Refuses a first byte in the clear where the URI asks for TLS.
    fn check_encrypted(&mut self, first: &[u8]) -> io::Result<()> {
        let Some(first) = first.first() else { return Ok(()) };
        if self.is_for_tls && *first != TLS {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "a URI of https or wss was to be spoken to without TLS: wrap the connector in one that \
                 adds TLS, such as that of hyper-rustls",
            ));
        }
        // Only the first byte of a connection tells.
        self.is_for_tls = false;
        Ok(())
    }

    /// Records so many bytes of these as written.
    fn wrote<'a>(
        &mut self,
        bufs: impl IntoIterator<Item = &'a [u8]>,
        result: &Poll<io::Result<usize>>,
    ) {
        let Poll::Ready(Ok(mut left)) = *result else { return };
        for buf in bufs {
            let written = &buf[..left.min(buf.len())];
            left -= written.len();
            self.requests.note_write(written);
        }
        if !self.requests.is_reply_owed() {
            self.owed = None;
        } else if self.owed.is_none() {
            self.owed = Some(self.ledger.owe());
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        // An end of stream is no answer.
        if buf.filled().len() > before {
            this.requests.note_read();
            this.owed = None;
        }
        result
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_encrypted(buf)?;
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote([buf], &result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_encrypted(bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf))?;
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(bufs.iter().map(|buf| &**buf), &result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(Pin::new(&mut self.0), cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write_vectored(Pin::new(&mut self.0), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        Write::is_write_vectored(&self.0)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(self.stream()).finish()
    }
}
