//! [`Http2Body`]: the body of a response, and its part of a connection.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use super::Http2;
use super::exchange::{Clock, Stage, failed, poll_over};
use super::upload::{Upload, UploadTask};
use crate::error::RequestTarget;
use crate::{Error, Failure};
use livepool::event::ConnId;
use livepool::protocol::{Owed, Share};

/// The body of a response, and its part of a connection.
pub(crate) struct Http2Body {
    /// `None` once it has failed: dropped, it ends.
    stream: Option<RecvStream>,
    /// What it holds until the response is over.
    held: Option<Held>,
    length: Option<u64>,
    has_data: bool,
    /// The last poll found nothing.
    is_waiting: bool,
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
        let stream = Some(stream);
        let (has_data, is_waiting) = (true, false);
        let mut body = Self { stream, held, length, has_data, is_waiting, conn, target };
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
        if self.has_all() {
            self.release();
        }
    }

    /// Whether nothing more is to come.
    fn has_all(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take()
            && let Some(upload) = held.upload
        {
            upload.leave();
        }
    }

    /// The response has failed: nothing more comes of it.
    fn fail(&mut self, error: h2::Error) -> Option<Error> {
        let (held, stream) = (self.held.take()?, self.stream.take()?);
        if let Some(source) = held.upload.as_ref().and_then(UploadTask::failed) {
            return Some(Error::new(Failure::RequestBody).because_of(source).at(&self.target));
        }
        let number = stream.stream_id().as_u32();
        let (error, _) = failed(&held.share, Some(number), error, Stage::Body);
        Some(error.at(&self.target))
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        if self.has_data {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It is the caller's from here on.
                    let released = stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_data = false,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    /// Nothing has come: resolves when the time for it is over.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(Held { share, upload, clock: Some(clock), .. }) = &mut self.held else {
            return Poll::Pending;
        };
        // It runs while somebody waits for the server, and the server not for us.
        let is_paused = upload.as_ref().is_some_and(UploadTask::is_paused);
        if !self.is_waiting || is_paused {
            clock.as_mut().restart();
        }
        self.is_waiting = true;
        let late = ready!(poll_over(clock, share, cx));
        // The stream ends with what is dropped.
        (self.held, self.stream) = (None, None);
        Poll::Ready(Error::new(Failure::Body).because_of(late).at(&self.target))
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
        let frame = match this.poll_stream(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return this.poll_late(cx).map(|late| Some(Err(late))),
        };
        this.is_waiting = false;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(length)) = (frame.data_ref(), &mut this.length) {
                    *length = length.saturating_sub(data.len() as u64);
                }
                if frame.is_trailers() || this.has_all() {
                    this.release();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => this.fail(error).map(Err),
            None => {
                this.release();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_all()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
