//! [`UnreadBody`]: the rest of an exchange that no caller waits for, finished in the background.
//!
//! A little of the response is read, so that the connection can be used again. All of the request
//! is sent, since the caller was told that the server had accepted it.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::Http1;
use super::client::{Client, Progress};
use crate::{Error, Failure};
use livepool::Guard;
use livepool::event::CloseReason;
use livepool::protocol::{GuardExt, log_trouble};

/// The most that is read for nobody: 64 KiB. More is slower to read than a new connection is to
/// make.
const MAX_DRAINED: u64 = 64 * 1024;

/// The time for which an end is awaited that was not announced: 50 ms. The end of a small response
/// comes right behind it; the end of a stream of events never does, and its place in the pool is
/// wanted.
const UNANNOUNCED_END_TIMEOUT: Duration = Duration::from_millis(50);

/// The rest of a response that nobody reads.
pub(super) struct UnreadBody {
    body: Incoming,
    /// The bytes that may still be read.
    left: u64,
    is_announced: bool,
}

impl UnreadBody {
    /// Takes over a body; `None` if it is not worth reading.
    pub(super) fn of(body: Incoming, is_chunked: bool) -> Option<Self> {
        let announced = body.size_hint().upper();
        // Without a length or chunks the response ends with its connection.
        let is_worth_it = announced.map_or(is_chunked, |rest| rest <= MAX_DRAINED);
        is_worth_it.then(|| Self { body, left: MAX_DRAINED, is_announced: announced.is_some() })
    }
}

impl Client {
    /// Reads the rest of the response. If that is too long or takes too long, the answer is still
    /// owed afterwards.
    pub(super) async fn drain(&mut self) -> Result<(), Error> {
        let is_endless = self.unread.as_ref().is_some_and(|rest| !rest.is_announced);
        let limit = is_endless.then_some(UNANNOUNCED_END_TIMEOUT);
        let drained = within(limit, poll_fn(|cx| self.poll_drain(cx))).await;
        self.unread = None;
        match drained {
            None | Some(Ok(Drained::TooLong)) => Ok(()),
            Some(Ok(Drained::All)) if self.is_free() => Ok(()),
            Some(Ok(Drained::All)) => Err(Error::new(Failure::Body)),
            Some(Err(error)) => Err(Error::new(Failure::Body).because_of(error)),
        }
    }

    /// Sends the rest of the request, and reads the response meanwhile. Ends with both, or when
    /// only the response goes on, or when no byte has moved for too long.
    async fn finish_upload(&mut self) {
        loop {
            let writes = self.upload.writes();
            let sent = within(self.longest_pause, poll_fn(|cx| self.poll_upload(cx))).await;
            // Only a pause counts: a slow upload goes on for as long as bytes move.
            if sent.is_some() || self.upload.writes() == writes {
                break;
            }
        }
        // Otherwise `reset` would read a response whose request was never completed.
        if !self.upload.is_sent() {
            self.unread = None;
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Both directions at once: a server may not read on before its answer is taken.
        let is_over = self.poll_drain(cx).is_ready();
        if is_over || self.upload.is_sent() && self.unread.is_some() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Reads the rest, and has the request sent. Ready when the exchange is over on both sides.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<Drained, hyper::Error>> {
        while let Some(mut rest) = self.unread.take() {
            match self.poll_body(&mut rest.body, cx) {
                Poll::Pending => {
                    self.unread = Some(rest);
                    return Poll::Pending;
                }
                Poll::Ready(None) => {}
                Poll::Ready(Some(frame)) => {
                    let length = frame?.data_ref().map_or(0, |data| data.len() as u64);
                    let Some(left) = rest.left.checked_sub(length) else {
                        return Poll::Ready(Ok(Drained::TooLong));
                    };
                    self.unread = Some(UnreadBody { left, ..rest });
                }
            }
        }
        self.drive(cx);
        match self.progress() {
            Progress::Ongoing => Poll::Pending,
            Progress::Done | Progress::Over => Poll::Ready(Ok(Drained::All)),
        }
    }
}

/// The output of the future, or `None` where it takes longer.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// The end of an attempt to read the rest of a response.
enum Drained {
    All,
    TooLong,
}

/// Has a task of the pool send the rest of a request, and gives the connection back then.
pub(super) fn finish_in_background(guard: Guard<Http1>) {
    guard.work_on(async |mut guard| {
        // The source of the body is the caller's code, and may panic in this task.
        if AssertUnwindSafe(guard.finish_upload()).catch_unwind().await.is_err() {
            // Half a request is on the wire, and its body is gone.
            guard.taint_as(CloseReason::Panicked);
        }
        if !guard.upload.is_sent() {
            let why = guard.tainted().map_or("its source paused for too long", CloseReason::as_str);
            log_trouble(Some(guard.id()), &why, "the rest of a request was not sent");
        } else if guard.progress() != Progress::Ongoing {
            finish_exchange(&mut guard);
        }
    });
}

/// Ends an exchange. Returns the reason for which its connection is to be closed, if it is.
pub(super) fn finish_exchange(guard: &mut Guard<Http1>) -> Option<CloseReason> {
    if let Some(reason) = guard.close_reason() {
        guard.taint_as(reason);
    }
    guard.tainted()
}
