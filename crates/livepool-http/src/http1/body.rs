//! [`Http1Body`]: the body of a response, and the connection that is its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::Http1;
use super::background::{self, finish_in_background};
use super::client::Progress;
use crate::Error;
use crate::error::RequestTarget;
use livepool::Guard;
use livepool::event::{CloseReason, ConnId};
use livepool::protocol::GuardExt;

/// The body of a response, and the connection that is its own.
pub(crate) struct Http1Body {
    /// The rest of the body; `None` once the pool reads it in the background.
    incoming: Option<Incoming>,
    /// The connection, until both sides are done.
    guard: Option<Guard<Http1>>,
    /// The reason for which the connection was closed, although a part of the body may have been
    /// received.
    close_reason: Option<CloseReason>,
    conn: ConnId,
    target: RequestTarget,
}

impl Http1Body {
    pub(super) fn new(incoming: Incoming, guard: Guard<Http1>, target: RequestTarget) -> Self {
        let conn = guard.id();
        let mut body =
            Self { incoming: Some(incoming), guard: Some(guard), close_reason: None, conn, target };
        body.release_if_done();
        body
    }

    pub(crate) fn conn_id(&self) -> ConnId {
        self.conn
    }

    /// Whether the body still holds its connection.
    pub(crate) fn holds_connection(&self) -> bool {
        self.guard.is_some()
    }

    pub(crate) fn target(&self) -> &RequestTarget {
        &self.target
    }

    /// Gives the connection back, or closes it, if the exchange is over.
    fn release_if_done(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let progress = guard.progress();
        if progress == Progress::Ongoing {
            if self.incoming.as_ref().is_some_and(http_body::Body::is_end_stream) {
                self.finish_request();
            }
            return;
        }
        self.close_reason = background::finish_exchange(guard);
        // If hyper gave up, the body's next frame is the error: the guard is needed for it.
        if progress == Progress::Done || self.close_reason.is_some() {
            self.guard = None;
        }
    }

    /// Has the rest of the request sent, once the body was read to its end.
    fn finish_request(&mut self) {
        if let Some(mut guard) = self.guard.take()
            && guard.progress() == Progress::Ongoing
            // The server refused the request or closes: it does not want the rest.
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

impl http_body::Body for Http1Body {
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
                // With the last frame, not with the end behind it, for which a caller need not poll.
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

impl Drop for Http1Body {
    fn drop(&mut self) {
        // The exchange may have ended while no caller polled the body.
        self.release_if_done();
        let (Some(mut guard), Some(incoming)) = (self.guard.take(), self.incoming.take()) else {
            return;
        };
        // A short rest is read by `reset`; a task is needed only while the upload goes on.
        if guard.leave_unread(incoming) && !guard.upload.is_sent() {
            finish_in_background(guard);
        }
    }
}
