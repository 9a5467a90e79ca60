//! Reading through a buffer, with the buffer's rest counted before the connection is reused.

use std::borrow::BorrowMut;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

use crate::event::CloseReason;
use crate::pool::conn::lease::Release;
use crate::pool::guard::Guard;

/// A guard with a read buffer of its own, for line protocols and the like.
///
/// A buffer reads ahead: it may hold the beginning of what the next caller would take for its own
/// answer. So this one is part of the guard: if it holds bytes when the exchange ends, the
/// connection is discarded with reason `unfinished`. A `BufReader` that you wrap around `&mut guard`
/// yourself is your own promise that it was empty.
///
/// Made by [`Guard::buffered`], which owns the guard, and [`Guard::buffered_mut`], which borrows it.
///
/// ```
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
///
/// # async fn f(pool: livepool::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut conn = pool.get().await?.buffered();
/// conn.write_all(b"how are you?\n").await?;
/// let mut answer = String::new();
/// conn.read_line(&mut answer).await?;
/// // Closed instead, if the buffer holds more than that answer.
/// conn.release();
/// # Ok(()) }
/// ```
pub struct Buffered<G: BorrowMut<Guard> + AsyncRead> {
    /// Always there until `release` or drop takes it.
    inner: Option<BufReader<G>>,
}

impl Guard {
    /// A read buffer over this connection. Writes go straight through.
    pub fn buffered(self) -> Buffered<Self> {
        Buffered { inner: Some(BufReader::new(self)) }
    }

    /// As [`buffered`](Self::buffered), for a borrowed guard: inside `Pool::run`, say.
    pub fn buffered_mut(&mut self) -> Buffered<&mut Self> {
        Buffered { inner: Some(BufReader::new(self)) }
    }
}

impl Buffered<Guard> {
    /// As [`Guard::release`]; a buffer that still holds bytes makes it a discard.
    pub fn release(mut self) -> Release {
        self.settle().map_or(Release::Discarded(CloseReason::Unfinished), Guard::release)
    }
}

impl<G: BorrowMut<Guard> + AsyncRead + Unpin> Buffered<G> {
    /// The bytes that were read ahead and not yet used.
    pub fn buffer(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], BufReader::buffer)
    }

    /// The guard inside: timeouts, deadline, addresses.
    pub fn guard_mut(&mut self) -> &mut Guard {
        self.reader().get_mut().borrow_mut()
    }
}

impl<G: BorrowMut<Guard> + AsyncRead> Buffered<G> {
    fn reader(&mut self) -> &mut BufReader<G> {
        match &mut self.inner {
            Some(reader) => reader,
            None => unreachable!("consumed by release and drop only"),
        }
    }

    /// Takes the guard out and taints it if bytes were read ahead.
    fn settle(&mut self) -> Option<G> {
        let reader = self.inner.take()?;
        let dirty = !reader.buffer().is_empty();
        let mut guard = reader.into_inner();
        if dirty {
            guard.borrow_mut().stream_mut().taint(CloseReason::Unfinished);
        }
        Some(guard)
    }
}

impl<G: BorrowMut<Guard> + AsyncRead> Drop for Buffered<G> {
    fn drop(&mut self) {
        drop(self.settle());
    }
}

impl<G: BorrowMut<Guard> + AsyncRead + Unpin> AsyncRead for Buffered<G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.reader()).poll_read(cx, buf)
    }
}

impl<G: BorrowMut<Guard> + AsyncRead + Unpin> AsyncBufRead for Buffered<G> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(self.get_mut().reader()).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(self.reader()).consume(amount);
    }
}

impl<G: BorrowMut<Guard> + AsyncRead + AsyncWrite + Unpin> AsyncWrite for Buffered<G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.reader()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.reader()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(|reader| reader.get_ref().is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.reader()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.reader()).poll_shutdown(cx)
    }
}

impl<G: BorrowMut<Guard> + AsyncRead> fmt::Debug for Buffered<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").finish_non_exhaustive()
    }
}
