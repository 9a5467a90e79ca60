//! [`Http2Body`]: the body of a response, and its part of a connection.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use super::Http2;
use super::exchange::{Clock, Stage, failed};
use super::upload::{Upload, UploadTask};
use crate::Error;
use crate::error::RequestTarget;
use livepool::event::ConnId;
use livepool::protocol::{Owed, Share};

/// The body of a response, and its part of a connection.
pub(crate) struct Http2Body {
    stream: RecvStream,
    /// What it holds until the response is over.
    held: Option<Held>,
    length: Option<u64>,
    has_data: bool,
    conn: ConnId,
    target: RequestTarget,
}

struct Held {
    // Before the share: what comes back owes nothing.
    _owed: Owed,
    share: ShareRef,
    upload: Option<UploadTask>,
    clock: Option<Clock>,
}

/// A share, alone or together with an upload.
enum ShareRef {
    Alone(Share<Http2>),
    Both(Arc<Share<Http2>>),
}

impl Deref for ShareRef {
    type Target = Share<Http2>;

    fn deref(&self) -> &Share<Http2> {
        match self {
            Self::Alone(share) => share,
            Self::Both(share) => share,
        }
    }
}

impl Http2Body {
    pub(super) fn new(
        (stream, headers): (RecvStream, &HeaderMap),
        share: Share<Http2>,
        owed: Owed,
        upload: Upload,
        clock: Option<Clock>,
        target: RequestTarget,
    ) -> Self {
        let conn = share.id();
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let (share, upload) = match upload.is_over() {
            true => (ShareRef::Alone(share), None),
            false => {
                let share = Arc::new(share);
                let upload = UploadTask::start(upload, Arc::clone(&share));
                (ShareRef::Both(share), Some(upload))
            }
        };
        let held = Some(Held { _owed: owed, share, upload, clock });
        let mut body = Self { stream, held, length, has_data: true, conn, target };
        body.release_if_done();
        body
    }

    pub(crate) fn conn_id(&self) -> ConnId {
        self.conn
    }

    pub(crate) fn holds_connection(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn target(&self) -> &RequestTarget {
        &self.target
    }

    /// Gives the share back with the last frame, not with the end behind it, for which a caller need not
    /// poll.
    fn release_if_done(&mut self) {
        if self.stream.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take()
            && let Some(upload) = held.upload
        {
            upload.leave();
        }
    }

    fn is_over(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, Error>> {
        // RFC 9113 section 8.1: the response is complete, and the rest of the request not wanted.
        if error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR) {
            self.held = None;
            return None;
        }
        let held = self.held.take()?;
        let stream = self.stream.stream_id().as_u32();
        let (error, _) = failed(&held.share, Some(stream), error, Stage::Body);
        Some(Err(error.at(&self.target)))
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It is the caller's from here on.
                    let released = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_data = false,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }
}

impl http_body::Body for Http2Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        match this.poll_stream(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(length)) = (frame.data_ref(), &mut this.length) {
                    *length = length.saturating_sub(data.len() as u64);
                }
                let is_trailers = frame.is_trailers();
                match &mut this.held {
                    _ if is_trailers || this.stream.is_end_stream() => this.release(),
                    Some(Held { clock: Some(clock), .. }) => clock.as_mut().restart(),
                    _ => {}
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(this.is_over(error)),
            Poll::Ready(None) => {
                this.release();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(Held { share, clock: Some(clock), .. }) = &mut this.held else {
                    return Poll::Pending;
                };
                let late = ready!(clock.as_mut().poll_over(share, cx));
                // The stream ends with what is dropped.
                this.held = None;
                let error = Error::new(crate::Failure::Body).because_of(late);
                Poll::Ready(Some(Err(error.at(&this.target))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
