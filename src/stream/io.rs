//! `AsyncRead` and `AsyncWrite` for [`Stream`]: tokio's own operations, with a clock on `Pending`.
//!
//! What an operation needs that is ready is inlined into its caller, and everything else is a
//! function of its own: see [`sys::peek`](crate::sys::peek) for what each frame costs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Interrupted, Stream};
use crate::event::{CloseReason, Operation};

impl Stream {
    /// Why an operation may not even begin. An operation that was not interrupted and has no
    /// deadline pays next to nothing.
    #[inline]
    fn refused(&mut self, operation: Operation) -> Option<io::Error> {
        if self.deadline().is_none() && !self.link.is_interrupted() {
            return None;
        }
        self.refusal(operation)
    }

    #[cold]
    fn refusal(&mut self, operation: Operation) -> Option<io::Error> {
        if let Some(reason) = self.link.interrupted() {
            return Some(Interrupted { reason }.into());
        }
        // What is read, and a flush of nothing, for nobody is no part of an exchange: whoever asks next
        // is told.
        if matches!(operation, Operation::Read | Operation::Flush) && self.owes_nothing() {
            return None;
        }
        // A peer that trickles bytes is never pending for long; only looking at the clock every
        // time holds it to the deadline.
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            return Some(self.time_out(operation, Duration::ZERO));
        }
        None
    }

    #[cold]
    fn failed(&mut self, error: io::Error) -> io::Error {
        self.exchange.taint(CloseReason::of_io_error(&error));
        error
    }

    /// The end of each operation of the writing side, once tokio has answered.
    #[inline]
    fn settle<T>(
        &mut self,
        cx: &mut Context<'_>,
        operation: Operation,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(value)) => {
                self.writing.stop();
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error))),
            Poll::Pending => self.write_waits(cx, operation).map(Err),
        }
    }

    /// For an operation of the writing side that is pending. Ready when it has to end.
    pub(super) fn write_waits(
        &mut self,
        cx: &mut Context<'_>,
        operation: Operation,
    ) -> Poll<io::Error> {
        if !self.recorded_above {
            self.record_pending_write();
        }
        self.was_awaited = true;
        self.link.writer().register(cx.waker());
        // An interrupt between the check at the start and the registration woke nobody.
        if let Some(reason) = self.link.interrupted() {
            return Poll::Ready(Interrupted { reason }.into());
        }
        self.poll_write_clock(operation)
    }

    /// For a read that is pending. Ready when it has to end.
    fn read_waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.recorded_above {
            self.record_pending_read();
        }
        self.read_waits = true;
        self.was_awaited = true;
        // With a bell it was registered before the poll.
        if self.bell.is_none() {
            self.link.reader().register(cx.waker());
        }
        if let Some(reason) = self.link.interrupted() {
            return Poll::Ready(Interrupted { reason }.into());
        }
        self.poll_read_clock()
    }

    /// A read that had to wait is over.
    pub(crate) fn has_read(&mut self) {
        self.read_waits = false;
        self.reading.stop();
        self.end_watch();
    }

    /// Bytes went out: the answer they ask for has its full time from now.
    #[inline]
    fn wrote(&mut self, bytes: usize) {
        if !self.recorded_above {
            self.record_written(bytes);
        }
        self.link.touch();
        if self.reading.is_running() {
            let (limit, cap) = (self.read_limit(), self.deadline());
            self.reading.restart(limit, cap);
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.refused(Operation::Read) {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let polled = match &this.bell {
            None => Pin::new(&mut this.io).poll_read(cx, buf),
            Some(bell) => {
                // Registered first: the bell may ring at once.
                this.link.reader().register(cx.waker());
                Pin::new(&mut this.io).poll_read(&mut Context::from_waker(bell), buf)
            }
        };
        match polled {
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().len() - before;
                if this.read_waits {
                    this.has_read();
                }
                if !this.recorded_above {
                    this.record_read(bytes, had_room);
                }
                if bytes > 0 {
                    this.link.touch();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(this.failed(error))),
            Poll::Pending => this.read_waits(cx).map(Err),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(error) = this.refused(Operation::Write) {
            return Poll::Ready(Err(error));
        }
        let result = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = result {
            this.wrote(bytes);
        }
        this.settle(cx, Operation::Write, result)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(error) = this.refused(Operation::Write) {
            return Poll::Ready(Err(error));
        }
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = result {
            this.wrote(bytes);
        }
        this.settle(cx, Operation::Write, result)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.refused(Operation::Flush) {
            return Poll::Ready(Err(error));
        }
        let result = Pin::new(&mut this.io).poll_flush(cx);
        this.settle(cx, Operation::Flush, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.refused(Operation::Shutdown) {
            return Poll::Ready(Err(error));
        }
        let result = Pin::new(&mut this.io).poll_shutdown(cx);
        // Once asked for, whether it succeeded or not, nobody can write here again.
        this.exchange.taint(this.ended_by_client());
        this.settle(cx, Operation::Shutdown, result)
    }
}

/// `AsyncRead` and `AsyncWrite` for a type that holds a stream and gives it with `stream_mut`.
macro_rules! delegate_io {
    (impl[$($generics:tt)*] for $type:ty) => {
        impl<$($generics)*> tokio::io::AsyncRead for $type {
            #[inline]
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(self.get_mut().stream_mut()).poll_read(cx, buf)
            }
        }

        impl<$($generics)*> tokio::io::AsyncWrite for $type {
            #[inline]
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(self.get_mut().stream_mut()).poll_write(cx, buf)
            }

            #[inline]
            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(self.get_mut().stream_mut()).poll_write_vectored(cx, bufs)
            }

            #[inline]
            fn is_write_vectored(&self) -> bool {
                self.stream().is_write_vectored()
            }

            #[inline]
            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(self.get_mut().stream_mut()).poll_flush(cx)
            }

            #[inline]
            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(self.get_mut().stream_mut()).poll_shutdown(cx)
            }
        }
    };
}
pub(crate) use delegate_io;
