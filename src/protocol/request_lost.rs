//! [`RequestLost`]: what those are told whose request was lost with a connection that they shared.

use std::fmt;
use std::io;

use crate::event::CloseReason;

/// A request over a shared connection has failed with the connection. It travels inside an
/// [`io::Error`] of kind [`io::ErrorKind::ConnectionAborted`].
///
/// ```
/// use livepool::protocol::RequestLost;
///
/// /// Whether a request that failed with this may be made again, whatever it does.
/// fn may_be_made_again(error: &std::io::Error) -> bool {
///     RequestLost::of(error).is_some_and(|lost| !lost.maybe_done)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestLost {
    /// Why the connection ended.
    pub reason: CloseReason,
    /// Whether the request may have been carried out: it may have been sent. If not, it may be made
    /// again whatever it does.
    pub maybe_done: bool,
}

impl RequestLost {
    /// The error of a request that a connection was lost with, for this reason.
    pub fn new(reason: CloseReason, maybe_done: bool) -> Self {
        Self { reason, maybe_done }
    }

    /// The lost request inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for RequestLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, maybe_done } = self;
        match maybe_done {
            true => write!(
                f,
                "the shared connection ended ({reason}) with this request in flight: it may have been \
                 carried out"
            ),
            false => write!(
                f,
                "the shared connection had ended ({reason}) before this request was sent: it was not \
                 carried out"
            ),
        }
    }
}

impl std::error::Error for RequestLost {}

impl From<RequestLost> for io::Error {
    fn from(lost: RequestLost) -> Self {
        io::Error::new(io::ErrorKind::ConnectionAborted, lost)
    }
}
