//! [`Upload`]: the body of a request on its way, as fast as the server takes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Http2;
use crate::RequestBody;
use crate::request_body::BoxError;
use livepool::protocol::Share;

/// So much of a stream is kept, so that the request can be made again: 64 KiB.
const MOST_KEPT: usize = 64 * 1024;

/// The body of a request on its way. Dropped before its end, it ends the stream.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// What the server has no room for yet.
    data: Bytes,
    is_over: bool,
    /// Its source has nothing to give now.
    is_paused: bool,
    /// How often something moved.
    moves: usize,
    kept: Kept,
}

/// What is needed to send it again.
enum Kept {
    Whole(RequestBody),
    /// Of a stream: all that it gave.
    Pieces(Vec<Bytes>, usize),
    Lost,
}

/// Why an upload ended before its end.
pub(super) enum Stopped {
    /// Its source failed.
    Source(BoxError),
    /// Its stream has ended, as its response will say.
    Stream,
}

impl Upload {
    /// `is_over`: it was said with the head that nothing follows.
    pub(super) fn new(stream: SendStream<Bytes>, body: RequestBody, is_over: bool) -> Self {
        let kept = body.try_clone().map_or(Kept::Pieces(Vec::new(), 0), Kept::Whole);
        Self { stream, body, data: Bytes::new(), is_over, is_paused: false, moves: 0, kept }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How often something moved.
    pub(super) fn moves(&self) -> usize {
        self.moves
    }

    /// Whether it waits for its source, and not for the server.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused && !self.is_over
    }

    /// Sends what there is and the server takes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        while !self.is_over {
            if !self.data.is_empty() {
                ready!(self.poll_data(cx))?;
                continue;
            }
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            self.is_paused = frame.is_pending();
            match frame {
                Poll::Pending => {
                    // Nothing else would tell that nobody wants the rest.
                    return self.stream.poll_reset(cx).map(|_| self.stop());
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.keep(&data);
                        self.data = data;
                    }
                    Err(frame) => {
                        self.kept = Kept::Lost;
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        if let Err(error) = self.stream.send_trailers(trailers) {
                            return self.fail(error.into());
                        }
                        self.has_moved(true, Ok(()))?;
                    }
                },
                Poll::Ready(Some(Err(error))) => return self.fail(error),
                Poll::Ready(None) => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    self.has_moved(true, sent)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends some of the data: no more than the server has room for, or it would be held in memory here.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.stream.reserve_capacity(self.data.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(self.stop()),
            }
        }
        let piece = self.data.split_to(self.stream.capacity().min(self.data.len()));
        let is_last = self.data.is_empty() && self.body.is_end_stream();
        let sent = self.stream.send_data(piece, is_last);
        Poll::Ready(self.has_moved(is_last, sent))
    }

    fn has_moved(&mut self, is_over: bool, sent: Result<(), h2::Error>) -> Result<(), Stopped> {
        self.moves = self.moves.wrapping_add(1);
        self.is_over |= is_over;
        sent.or_else(|_| self.stop())
    }

    /// What is to be sent cannot be.
    fn fail(&mut self, error: BoxError) -> Poll<Result<(), Stopped>> {
        self.stream.send_reset(Reason::CANCEL);
        self.is_over = true;
        Poll::Ready(Err(Stopped::Source(error)))
    }

    fn stop(&mut self) -> Result<(), Stopped> {
        self.is_over = true;
        Err(Stopped::Stream)
    }

    fn keep(&mut self, data: &Bytes) {
        let Kept::Pieces(pieces, length) = &mut self.kept else { return };
        *length += data.len();
        match *length <= MOST_KEPT {
            true => pieces.push(data.clone()),
            false => self.kept = Kept::Lost,
        }
    }

    /// Nobody needs it again.
    pub(super) fn forget(&mut self) {
        self.kept = Kept::Lost;
    }

    /// The body as it was before, if it can be sent again.
    pub(super) fn take_back(mut self) -> Option<RequestBody> {
        match std::mem::replace(&mut self.kept, Kept::Lost) {
            Kept::Whole(body) => Some(body),
            Kept::Pieces(pieces, _) => Some(std::mem::take(&mut self.body).after(pieces)),
            Kept::Lost => None,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Not of itself, while its response is still held.
        if !self.is_over {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// An upload that goes on while its response comes, in a task of its own. Dropped, it ends.
pub(super) struct UploadTask {
    task: AbortHandle,
    progress: Arc<Progress>,
    goes_on: bool,
}

/// What its response sees of an upload.
#[derive(Default)]
struct Progress {
    is_alone: Notify,
    is_paused: AtomicBool,
    /// The error of its source. Put and taken under this lock, nothing else.
    failed: Mutex<Option<BoxError>>,
}

impl UploadTask {
    /// Its share is held until it is over.
    pub(super) fn start(mut upload: Upload, share: Arc<Share<Http2>>) -> Self {
        upload.forget();
        let progress = Arc::<Progress>::default();
        let seen = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            let longest_pause = share.client().http2.longest_pause;
            let sent = poll_fn(|cx| {
                let result = upload.poll(cx);
                seen.is_paused.store(upload.is_paused(), Ordering::Relaxed);
                if let Poll::Ready(Err(Stopped::Source(error))) = result {
                    seen.failed.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                    return Poll::Ready(());
                }
                result.map(drop)
            });
            let (sent, left) = (pin!(sent), pin!(seen.is_alone.notified()));
            if let Either::Right(_) = select(sent, left).await {
                finish(upload, longest_pause).await;
            }
        });
        Self { task: task.abort_handle(), progress, goes_on: false }
    }

    /// Whether it waits for its source, and not for the server.
    pub(super) fn is_paused(&self) -> bool {
        self.progress.is_paused.load(Ordering::Relaxed)
    }

    /// The error of its source, if it has failed.
    pub(super) fn failed(&self) -> Option<BoxError> {
        self.progress.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its response is over: it goes on by itself.
    pub(super) fn leave(mut self) {
        self.goes_on = true;
        self.progress.is_alone.notify_one();
    }
}

impl Drop for UploadTask {
    fn drop(&mut self) {
        if !self.goes_on {
            self.task.abort();
        }
    }
}

/// Sends the rest, unless it pauses for too long.
async fn finish(mut upload: Upload, longest_pause: Option<Duration>) {
    loop {
        let moves = upload.moves;
        let some = poll_fn(|cx| match upload.poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if upload.moves != moves => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        });
        let is_late = match longest_pause {
            Some(limit) => timeout(limit, some).await.is_err(),
            None => {
                some.await;
                false
            }
        };
        if is_late || upload.is_over {
            return;
        }
    }
}
