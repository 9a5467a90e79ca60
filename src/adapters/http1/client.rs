//! [`Client`]: one connection, and the request that is on it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use super::driver::Driver;
use super::hints::Hints;
use super::request_body::RequestBody;
use crate::event::CloseReason;
use crate::stream::{Ledger, Owed};

/// The rest of a response that is read for nobody, so that its connection can be used again. More
/// than this is slower to read than a new connection is to make.
const MOST_DRAINED: u64 = 64 * 1024;

/// A connection that speaks HTTP/1.1. [`Guard::send`](crate::Guard::send) makes a request on it.
pub struct Client {
    sender: SendRequest<RequestBody>,
    driver: Driver,
    ledger: Ledger,
    /// From the first byte of a request to the last of its response, whoever waits for that.
    owed: Option<Owed>,
    /// The head of the response is there.
    is_answering: bool,
    /// The request said that it is the last.
    said_goodbye: bool,
    hints: Hints,
    /// A response that nobody reads.
    abandoned: Option<Incoming>,
    pub(super) host: HeaderValue,
    pub(super) is_secure: bool,
}

/// Where the exchange on a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    UnderWay,
    /// Both sides are done, and the next request may come.
    Done,
    /// Nothing comes here again.
    Over,
}

impl Client {
    pub(super) fn new(
        sender: SendRequest<RequestBody>,
        driver: Driver,
        ledger: Ledger,
        host: HeaderValue,
        is_secure: bool,
    ) -> Self {
        Self {
            sender,
            driver,
            ledger,
            owed: None,
            is_answering: false,
            said_goodbye: false,
            hints: Hints::default(),
            abandoned: None,
            host,
            is_secure,
        }
    }

    /// Sends the request, as far as that goes, and waits for the head of the answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.owed = Some(self.ledger.owe());
        self.is_answering = false;
        self.said_goodbye = super::hints::has_token(request.headers(), "close");
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let response = poll_fn(|cx| {
            driver.poll(cx);
            // Nothing but the driver answers, and it did so just now or not at all.
            answer.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
        })
        .await?;
        self.is_answering = true;
        self.hints = Hints::of(response.version(), response.headers());
        Ok(response)
    }

    /// Where the exchange stands now.
    pub(super) fn progress(&mut self) -> Progress {
        if self.driver.is_over() {
            return Progress::Over;
        }
        if !self.is_answering || !self.sender.is_ready() {
            return Progress::UnderWay;
        }
        self.owed = None;
        self.driver.rest();
        Progress::Done
    }

    /// Whether another request may come now.
    pub(super) fn is_free(&mut self) -> bool {
        self.progress() == Progress::Done && self.farewell().is_none()
    }

    /// The next piece of this response.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut noop = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        self.driver.poll(cx);
        match self.driver.is_over() {
            true => Pin::new(body).poll_frame(cx),
            false => Pin::new(body).poll_frame(&mut noop),
        }
    }

    /// Why the connection is not for another request, though this exchange went well.
    pub(super) fn farewell(&self) -> Option<CloseReason> {
        if self.driver.error().is_some() {
            // More came than was asked for.
            return Some(CloseReason::Dirty);
        }
        if self.hints.is_last {
            return Some(CloseReason::PeerClosed);
        }
        self.said_goodbye.then_some(CloseReason::Discarded)
    }

    /// How long the server keeps the connection.
    pub(super) fn idle_limit(&self) -> Option<std::time::Duration> {
        self.hints.idle_limit
    }

    /// Nobody reads the rest of this response.
    pub(super) fn abandon(&mut self, body: Incoming) {
        let is_short = body.size_hint().upper().is_some_and(|rest| rest <= MOST_DRAINED);
        if is_short && !self.driver.is_over() && self.farewell().is_none() {
            self.abandoned = Some(body);
        }
    }

    /// Whether there is a rest that is worth reading.
    pub(super) fn has_rest(&self) -> bool {
        self.abandoned.is_some()
    }

    /// Reads that rest. Returns whether another request may come then.
    pub(super) async fn drain(&mut self) -> Result<bool, hyper::Error> {
        let Some(mut body) = self.abandoned.take() else { return Ok(true) };
        while let Some(frame) = poll_fn(|cx| self.poll_body(&mut body, cx)).await {
            frame?;
        }
        Ok(self.is_free())
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
