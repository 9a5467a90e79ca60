//! [`Client`]: one connection, and the request that is on it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use super::Http1;
use super::background::UnreadBody;
use super::driver::HyperDriver;
use super::persistence::Persistence;
use super::upload::Upload;
use crate::request_body::RequestBody;
use livepool::event::CloseReason;
use livepool::protocol::{Ledger, Owed};
use std::sync::Arc;

/// A connection that speaks HTTP/1.1. [`GuardExt::send`](crate::GuardExt::send) makes a request on one.
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_http::Http1>) -> Result<(), Box<dyn std::error::Error>> {
///
/// use livepool_http::{GuardExt, Request};
///
/// // What a guard holds. A request on this very connection:
/// let guard = pool.get().await?;
/// let response = guard.send(Request::get("/status").body(())?).await?;
/// # Ok(()) }
/// ```
pub struct Client {
    sender: SendRequest<RequestBody>,
    driver: HyperDriver,
    ledger: Ledger,
    pub(super) upload: Arc<Upload>,
    /// The debt of an answer, from the first byte of a request to the last of its response.
    owed: Option<Owed>,
    /// Whether the head of the response has arrived.
    is_answering: bool,
    /// Whether the response has a status of 400 or more, so that the rest of the request is not
    /// wanted.
    is_refused: bool,
    /// Whether the request had `Connection: close`.
    requested_close: bool,
    persistence: Persistence,
    /// The rest of a response that nobody reads.
    pub(super) unread: Option<UnreadBody>,
    /// The time for which the source of an upload may pause that nobody waits for.
    pub(super) longest_pause: Option<Duration>,
    pub(super) host: HeaderValue,
    pub(super) is_secure: bool,
}

/// Where the exchange on a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Ongoing,
    /// Both sides are done, so the next request may come.
    Done,
    /// hyper has ended the connection.
    Over,
}

impl Client {
    pub(super) fn new(
        http1: &Http1,
        sender: SendRequest<RequestBody>,
        driver: HyperDriver,
        upload: Arc<Upload>,
        ledger: Ledger,
        host: HeaderValue,
    ) -> Self {
        Self {
            sender,
            driver,
            ledger,
            upload,
            owed: None,
            is_answering: false,
            is_refused: false,
            requested_close: false,
            persistence: Persistence::default(),
            unread: None,
            longest_pause: http1.longest_pause,
            host,
            is_secure: http1.is_secure(),
        }
    }

    /// Sends the request, as far as that goes, and waits for the head of the answer.
    pub(super) async fn ask(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        request.body_mut().attach(self.upload.begin());
        // Before the first byte, so that no answer counts as one that nobody asked for.
        self.owed = Some(self.ledger.owe());
        self.is_answering = false;
        self.requested_close = crate::prepare::has_token(request.headers(), "close");
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let response = poll_fn(|cx| {
            driver.poll(cx);
            // Nothing but the driver answers, and it did so just now or not at all.
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await?;
        self.is_answering = true;
        self.is_refused = response.status().as_u16() >= 400;
        self.persistence = Persistence::of(response.version(), response.headers());
        Ok(response)
    }

    /// Where the exchange stands now.
    pub(super) fn progress(&mut self) -> Progress {
        if self.driver.is_over() {
            return Progress::Over;
        }
        // hyper takes the next request although its buffers hold some of this one.
        if !self.is_answering || !self.sender.is_ready() || !self.upload.is_sent() {
            return Progress::Ongoing;
        }
        self.owed = None;
        self.driver.clear_waker();
        Progress::Done
    }

    /// Whether another request may come now.
    pub(super) fn is_free(&mut self) -> bool {
        self.progress() == Progress::Done && self.close_reason().is_none()
    }

    /// The next piece of this response.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // A frame that hyper has ready needs no reading from the socket.
        let mut noop = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        self.driver.poll(cx);
        match self.driver.is_over() {
            // No driver wakes the caller any more, so the body has to.
            true => Pin::new(body).poll_frame(cx),
            false => Pin::new(body).poll_frame(&mut noop),
        }
    }

    /// Why the connection is not for another request, though this exchange went well.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        if self.driver.error().is_some() {
            // More came than was asked for.
            return Some(CloseReason::Dirty);
        }
        if self.persistence.has_two_lengths {
            return Some(CloseReason::ProtocolError);
        }
        if self.persistence.is_last {
            return Some(CloseReason::PeerClosed);
        }
        self.requested_close.then_some(CloseReason::Discarded)
    }

    /// How long the server keeps the connection.
    pub(super) fn idle_limit(&self) -> Option<std::time::Duration> {
        self.persistence.idle_limit
    }

    /// Whether the request has a rest that is not sent when nobody waits for the response any more,
    /// because the server does not want it: it refused the request, or said that it closes the
    /// connection (RFC 9112 section 9.6).
    pub(super) fn is_upload_unwanted(&self) -> bool {
        let is_unwanted = self.is_refused || self.persistence.is_last || self.driver.is_over();
        is_unwanted && !self.upload.is_sent()
    }

    /// Takes the rest of a response that nobody reads. Returns whether it is little enough to be
    /// read in the background.
    pub(super) fn leave_unread(&mut self, body: Incoming) -> bool {
        if !self.is_upload_unwanted() && !self.driver.is_over() && self.close_reason().is_none() {
            self.unread = UnreadBody::of(body, self.persistence.is_chunked);
        }
        self.unread.is_some()
    }

    /// Whether there is a rest that is worth reading.
    pub(super) fn has_unread_rest(&self) -> bool {
        self.unread.is_some()
    }

    /// Moves what can be moved.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.poll(cx);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host)
            .field("is_ready", &self.sender.is_ready())
            .finish_non_exhaustive()
    }
}
