//! Exchanges through a codec, with the codec's buffers counted before the connection is reused.

use std::borrow::BorrowMut;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{self, Decoder, Encoder};

use crate::event::CloseReason;
use crate::pool::conn::lease::Release;
use crate::pool::guard::Guard;

/// A guard behind a [`tokio_util`] codec: a stream of decoded and a sink of encoded items.
///
/// If the codec's buffers hold bytes when the exchange ends (read ahead, or encoded and not
/// flushed), the connection is discarded with reason `unfinished`. A codec's inner state is its
/// own: use one codec per exchange, or one that is empty between answers.
///
/// Made by [`Guard::framed`], which owns the guard, and [`Guard::framed_mut`], which borrows it.
///
/// ```
/// use futures_util::{SinkExt, StreamExt};
/// use tokio_util::codec::LinesCodec;
///
/// # async fn f(pool: livepool::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut lines = pool.get().await?.framed(LinesCodec::new());
/// lines.send("how are you?").await?;
/// println!("{:?}", lines.next().await.transpose()?);
/// // Closed instead, if the codec has read more than that answer.
/// lines.release();
/// # Ok(()) }
/// ```
pub struct Framed<G: BorrowMut<Guard>, C> {
    /// Always there until `release` or drop takes it.
    inner: Option<codec::Framed<G, C>>,
}

impl Guard {
    /// An exchange through `codec`.
    pub fn framed<C>(self, codec: C) -> Framed<Self, C> {
        Framed { inner: Some(codec::Framed::new(self, codec)) }
    }

    /// As [`framed`](Self::framed), for a borrowed guard: inside `Pool::run`, say.
    pub fn framed_mut<C>(&mut self, codec: C) -> Framed<&mut Self, C> {
        Framed { inner: Some(codec::Framed::new(self, codec)) }
    }
}

impl<C> Framed<Guard, C> {
    /// As [`Guard::release`]; buffers that still hold bytes make it a discard.
    pub fn release(mut self) -> Release {
        self.settle().map_or(Release::Discarded(CloseReason::Unfinished), Guard::release)
    }
}

impl<G: BorrowMut<Guard>, C> Framed<G, C> {
    /// The guard inside: timeouts, deadline, addresses.
    pub fn guard_mut(&mut self) -> &mut Guard {
        self.frames().get_mut().borrow_mut()
    }

    /// The codec.
    pub fn codec_mut(&mut self) -> &mut C {
        self.frames().codec_mut()
    }

    fn frames(&mut self) -> &mut codec::Framed<G, C> {
        match &mut self.inner {
            Some(frames) => frames,
            None => unreachable!("consumed by release and drop only"),
        }
    }

    /// Takes the guard out and taints it if a buffer holds bytes.
    fn settle(&mut self) -> Option<G> {
        let parts = self.inner.take()?.into_parts();
        let mut guard = parts.io;
        if !parts.read_buf.is_empty() || !parts.write_buf.is_empty() {
            guard.borrow_mut().stream_mut().taint(CloseReason::Unfinished);
        }
        Some(guard)
    }
}

impl<G: BorrowMut<Guard>, C> Drop for Framed<G, C> {
    fn drop(&mut self) {
        drop(self.settle());
    }
}

impl<G, C> Stream for Framed<G, C>
where
    G: BorrowMut<Guard> + AsyncRead + Unpin,
    C: Decoder + Unpin,
{
    type Item = Result<C::Item, C::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(self.frames()).poll_next(cx)
    }
}

impl<G, C, I> Sink<I> for Framed<G, C>
where
    G: BorrowMut<Guard> + AsyncWrite + Unpin,
    C: Encoder<I> + Unpin,
{
    type Error = C::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        Pin::new(self.frames()).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: I) -> Result<(), C::Error> {
        Pin::new(self.frames()).start_send(item)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        Pin::new(self.frames()).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        Pin::new(self.frames()).poll_close(cx)
    }
}

impl<G: BorrowMut<Guard>, C> fmt::Debug for Framed<G, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed").finish_non_exhaustive()
    }
}
