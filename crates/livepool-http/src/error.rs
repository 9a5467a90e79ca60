//! [`Error`]: a request without a response, or a response that broke off.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use http::{Method, Request, Uri};

use super::request_body::BoxError;
use livepool::error::{CheckoutError, ConfigError};
use livepool::event::CloseReason;
use livepool::net::PeerAddr;
use livepool::protocol::Escaped;
use livepool::protocol::OneLine;
use livepool::{OpTimeout, SetupError};

/// The step at which a request failed.
///
/// ```
/// use livepool_http::{Error, Failure};
///
/// /// Whether the server cannot have seen the request.
/// fn is_unseen(error: &Error) -> bool {
///     matches!(error.failure(), Failure::Refused | Failure::Checkout | Failure::Unsent)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The URL, the configuration or the certificates are not ones to make a pool of, or the
    /// handshake of a new connection failed.
    Setup,
    /// The request was refused before anything was sent: the error's text says why.
    Refused,
    /// No connection was to be had: [`Error::checkout_error`] is why. Not where one was to be had before,
    /// on which the request was sent and lost.
    Checkout,
    /// The connection ended before anything of the request was sent.
    Unsent,
    /// The request was sent, or a part of it, and no byte of an answer came. The server may have
    /// acted on it.
    Unanswered,
    /// The server says that it did not take the request, and has done nothing of it: with `GOAWAY`, or
    /// `REFUSED_STREAM` (RFC 9113 section 8.7).
    Unprocessed,
    /// The server has ended the request (`RST_STREAM`), and may have acted on it. [`Error::http2_code`] says
    /// more.
    Reset,
    /// The answer broke off in its head.
    Answer,
    /// The answer, or the body of the response, cannot be understood, or its head is more than this
    /// pool [takes](super::Http1::with_max_headers): its text says why. The same request would fare no
    /// better.
    Malformed,
    /// The response broke off in its body.
    Body,
    /// The body that was to be sent failed. [`Error::find`] finds its error by its type.
    RequestBody,
    /// The body of the response is longer than the caller takes.
    TooLong,
}

/// A request without a response, or a response that broke off.
///
/// The text carries the causes, in one line; so there is no [`source`](StdError::source), and a
/// cause is found by its type with [`find`](Self::find).
///
/// Of the request's URI its text and its `Debug` show the path alone: the query, and what stands before
/// the host, may hold what no log should.
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_http::Http1>) -> Result<(), Box<dyn std::error::Error>> {
///
/// use livepool_http::{PoolExt, Request};
///
/// if let Err(error) = pool.send(Request::get("/status").body(())?).await {
///     // One line, with the causes in it.
///     eprintln!("{error} (timeout: {}, retryable: {})", error.is_timeout(), error.is_retryable());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Error {
    failure: Failure,
    target: Option<Box<RequestTarget>>,
    /// The reason for which the connection was closed.
    reason: Option<CloseReason>,
    why: Option<Box<str>>,
    source: Option<BoxError>,
}

/// The request that failed, and its peer. Cheap to clone.
#[derive(Clone)]
pub(super) struct RequestTarget {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) peer: Option<PeerAddr>,
}

impl RequestTarget {
    /// That of a request that has no connection yet, and so no peer.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), peer: None }
    }
}

impl fmt::Debug for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("method", &self.method)
            .field("path", &self.uri.path())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// So that `?` works where a pool is made and used.
impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        Self::setup(error)
    }
}

impl Error {
    pub(super) fn new(failure: Failure) -> Self {
        Self { failure, target: None, reason: None, why: None, source: None }
    }

    pub(super) fn setup(source: impl Into<BoxError>) -> Self {
        Self::new(Failure::Setup).because_of(source)
    }

    pub(super) fn refused(why: impl Into<Box<str>>) -> Self {
        Self { why: Some(why.into()), ..Self::new(Failure::Refused) }
    }

    /// An answer that is not HTTP, for this reason.
    pub(super) fn malformed(why: impl Into<Box<str>>) -> Self {
        Self { why: Some(why.into()), ..Self::new(Failure::Malformed) }
    }

    /// The error of a head that hyper could not parse; `None` if it was understood as far as it
    /// came.
    pub(super) fn of_head(source: &hyper::Error) -> Option<Self> {
        if !source.is_parse() {
            return None;
        }
        let mut why = Escaped(source).to_string();
        // hyper tells clients by its text alone.
        if why.contains("too large") {
            why += "; Http1::with_max_headers, with_max_head_size and with_max_buf_size say how much is \
                    taken";
        }
        Some(Self::malformed(why))
    }

    /// A body that broke off, or that hyper could not understand.
    pub(super) fn of_body(source: hyper::Error) -> Self {
        let io = source.source().and_then(|source| source.downcast_ref::<io::Error>());
        match io {
            Some(io) if matches!(io.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                Self::malformed(Escaped(io).to_string())
            }
            _ => Self::new(Failure::Body).because_of(source),
        }
    }

    /// The reason for which the connection is closed, unless it has one already.
    pub(super) fn close_reason(&self) -> CloseReason {
        match self.failure {
            // An idle connection that still stands can only have been spoken on.
            Failure::Unsent => CloseReason::Dirty,
            Failure::RequestBody => CloseReason::Unfinished,
            Failure::Malformed => CloseReason::ProtocolError,
            _ => CloseReason::IoError,
        }
    }

    pub(super) fn because_of(self, source: impl Into<BoxError>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    pub(super) fn at(self, target: &RequestTarget) -> Self {
        Self { target: Some(Box::new(target.clone())), ..self }
    }

    pub(super) fn closed_for(self, reason: Option<CloseReason>) -> Self {
        Self { reason, ..self }
    }

    /// The same request was sent before, and lost with `sent`: that the server has not seen it this time
    /// says nothing of that.
    pub(crate) fn after(self, sent: Option<Self>) -> Self {
        match self.failure {
            Failure::Refused | Failure::Checkout | Failure::Unsent | Failure::Unprocessed => {
                sent.unwrap_or(self)
            }
            _ => self,
        }
    }

    /// How far the request came.
    pub fn failure(&self) -> Failure {
        self.failure
    }

    /// The reason for which the request's connection was closed, as in the event; `None` if there
    /// was no connection, or it stays open.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// Whether a deadline passed: of the checkout, of a read or a write, or of the whole request.
    pub fn is_timeout(&self) -> bool {
        self.reason == Some(CloseReason::OpTimeout)
            || self.find::<OpTimeout>().is_some()
            || self.checkout_error().is_some_and(CheckoutError::is_timeout)
    }

    /// Whether the same request may be made again, and may succeed then: nothing of it was sent, or
    /// its method is idempotent (RFC 9110 section 9.2.2).
    pub fn is_retryable(&self) -> bool {
        match self.failure {
            Failure::Checkout => self.checkout_error().is_some_and(CheckoutError::is_retryable),
            Failure::Unsent | Failure::Unprocessed => true,
            // The server may have acted on it already.
            Failure::Unanswered | Failure::Answer | Failure::Reset | Failure::Body => {
                self.target.as_ref().is_some_and(|target| target.method.is_idempotent())
            }
            _ => false,
        }
    }

    /// The code of HTTP/2 (RFC 9113 section 7) that the server has ended the request or its connection with.
    #[cfg(feature = "http2")]
    pub fn http2_code(&self) -> Option<u32> {
        let error = self.find::<h2::Error>()?;
        Some(error.reason().filter(|_| error.is_remote())?.into())
    }

    /// Why no connection was to be had, if that is what happened.
    pub fn checkout_error(&self) -> Option<&CheckoutError> {
        self.source.as_deref()?.downcast_ref()
    }

    /// The cause of this type, if it is among them: an [`OpTimeout`](livepool::OpTimeout), an
    /// [`io::Error`](std::io::Error), the error of the body that was to be sent.
    pub fn find<E: StdError + 'static>(&self) -> Option<&E> {
        // A checkout error hides its causes from `source`, so it is asked itself.
        livepool::error::find(self.cause()?).or_else(|| self.checkout_error()?.find())
    }

    /// Whether the server's certificate is not one to trust: [`livepool_tls::is_distrusted`], which does
    /// not see into this error.
    #[cfg(feature = "tls")]
    pub fn is_distrusted(&self) -> bool {
        self.cause().is_some_and(|cause| {
            // Where no connection could be made, the error of the handshake is one of ours.
            let checkout = livepool::error::find::<CheckoutError>(cause);
            let own = checkout.and_then(CheckoutError::find::<Self>);
            let own = own.or_else(|| livepool::error::find::<Self>(cause));
            own.map_or_else(|| livepool_tls::is_distrusted(cause), Self::is_distrusted)
        })
    }

    pub(crate) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(RequestTarget { method, uri, peer }) = self.target.as_deref() {
            // Without the query, which may hold what no log should.
            write!(f, "{method} {}", uri.path())?;
            if let Some(peer) = peer {
                write!(f, " at {peer}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(match (self.failure, self.is_timeout()) {
            (Failure::Setup, _) => "no connection for HTTP can be made",
            (Failure::Refused, _) => "the request was refused",
            (Failure::Checkout, _) => "no connection was to be had",
            (Failure::Unsent, _) => "the connection ended before the request was sent",
            (Failure::Unanswered, true) => "no answer came in time",
            (Failure::Unanswered, false) => {
                "the connection ended before any answer; the server may have seen the request"
            }
            (Failure::Unprocessed, _) => "the server did not take the request",
            (Failure::Reset, _) => "the server has ended the request; it may have acted on it",
            (Failure::Answer, true) => "the answer did not come in time",
            (Failure::Answer, false) => "the answer broke off",
            (Failure::Malformed, _) => "the answer cannot be understood",
            (Failure::Body, true) => "the rest of the response did not come in time",
            (Failure::Body, false) => "the response broke off before its end",
            (Failure::RequestBody, _) => "the body that was to be sent failed",
            (Failure::TooLong, _) => "the response is longer than allowed",
        })?;
        if let Some(reason) = self.reason {
            write!(f, " ({reason})")?;
        }
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        match self.cause() {
            // Texts of ours may be longer than what others may say.
            Some(cause) if cause.is::<CheckoutError>() || cause.is::<ConfigError>() => {
                write!(f, ": {cause}")
            }
            Some(cause) => write!(f, ": {}", OneLine(cause)),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

impl From<CheckoutError> for Error {
    fn from(error: CheckoutError) -> Self {
        Self::new(Failure::Checkout).because_of(error)
    }
}
