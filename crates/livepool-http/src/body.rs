//! [`Body`]: what a response carries, and the connection it comes over.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::background::{self, finish_in_background};
use super::client::Progress;
use super::error::RequestTarget;
use super::{Error, Failure, Http1};
use livepool::Guard;
use livepool::event::{CloseReason, ConnId};
use livepool::protocol::GuardExt;

/// What a response carries. It holds its connection until both sides are done with the exchange, and
/// gives it back then; see [when a connection is used again](super#when-a-connection-is-used-again).
///
/// The connection moves only while this is polled: a request body that is still being sent, too. When
/// this was read to its end, or is dropped, the rest of a request [goes on by
/// itself](super#when-the-answer-comes-before-the-request-is-over).
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_http::Http1>) -> Result<(), livepool_http::Error> {
/// let request = livepool_http::Request::get("/log").body(()).unwrap();
/// let mut body = pool.send(request).await?.into_body();
/// while let Some(frame) = body.frame().await {
///     if let Ok(data) = frame?.into_data() {
///         println!("{} bytes more", data.len());
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// A frame whose future was dropped is not lost.
pub struct Body {
    /// Taken out when it is left unread.
    incoming: Option<Incoming>,
    /// Until both sides are done.
    guard: Option<Guard<Http1>>,
    /// What the connection was closed for, though a part of this may have been received.
    close_reason: Option<CloseReason>,
    conn: ConnId,
    target: RequestTarget,
}

impl Body {
    pub(super) fn new(incoming: Incoming, guard: Guard<Http1>, target: RequestTarget) -> Self {
        let conn = guard.id();
        let mut body =
            Self { incoming: Some(incoming), guard: Some(guard), close_reason: None, conn, target };
        body.release_if_done();
        body
    }

    /// The connection it comes over, as in events and logs.
    pub fn conn_id(&self) -> ConnId {
        self.conn
    }

    /// Whether it still holds its connection.
    pub fn holds_connection(&self) -> bool {
        self.guard.is_some()
    }

    /// All of it, if that is at most `most` bytes.
    ///
    /// # Errors
    ///
    /// [`Failure::Body`], if it breaks off; [`Failure::TooLong`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body.
    pub async fn bytes(mut self, most: usize) -> Result<Bytes, Error> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if first.len() + all.len() + data.len() > most {
                return Err(Error::new(Failure::TooLong).at(&self.target));
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// The next piece: data, or the trailers. `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Failure::Body`], if it breaks off.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *self), cx)).await
    }

    /// Gives the connection back, or closes it, if nothing more comes over it.
    fn release_if_done(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let progress = guard.progress();
        if progress == Progress::InProgress {
            if self.incoming.as_ref().is_some_and(http_body::Body::is_end_stream) {
                self.finish_request();
            }
            return;
        }
        self.close_reason = background::finish_exchange(guard);
        // hyper gave up, and the body is going to say why.
        if progress == Progress::Done || self.close_reason.is_some() {
            self.guard = None;
        }
    }

    /// This was read to its end, and of the request something is left.
    fn finish_request(&mut self) {
        if let Some(mut guard) = self.guard.take()
            && guard.progress() == Progress::InProgress
            && !guard.is_upload_unwanted()
        {
            finish_in_background(guard);
        }
    }

    fn failed(&mut self, source: hyper::Error) -> Error {
        let error = Error::of_body(source).at(&self.target);
        if let Some(mut guard) = self.guard.take() {
            guard.taint_as(error.close_reason());
            self.close_reason = guard.tainted();
        }
        error.closed_for(self.close_reason)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = ready!(match &mut this.guard {
            Some(guard) => guard.poll_body(incoming, cx),
            None => Pin::new(incoming).poll_frame(cx),
        });
        match frame {
            Some(Ok(frame)) => {
                this.release_if_done();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(this.failed(error)))),
            None => {
                this.release_if_done();
                this.finish_request();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.release_if_done();
        let (Some(mut guard), Some(incoming)) = (self.guard.take(), self.incoming.take()) else {
            return;
        };
        if guard.leave_unread(incoming) && !guard.upload.is_sent() {
            finish_in_background(guard);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("conn", &self.conn)
            .field("holds_connection", &self.holds_connection())
            .finish_non_exhaustive()
    }
}
