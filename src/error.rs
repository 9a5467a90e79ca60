//! Why something failed: which phase, how long it waited, how full the pool was, what to change.
//!
//! The text of every error of this crate carries its causes, each once and in one line, so that a service
//! logs it as it is. So [`source`](std::error::Error::source) is `None` for all of them: a walk over the
//! sources, as of `{:#}` in `anyhow` or `eyre`, would say the same again. Whoever wants a cause with its
//! type asks for it: [`CheckoutError::find`], [`ConnectError::find`], or a field or method of the error.

use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

pub use crate::causes::find;
pub use crate::config::{ConfigError, Problem};
use crate::event::ConnId;
pub use crate::listener::BindError;
pub use crate::net::{ConnectAttempt, ConnectError};
use crate::status::Status;
pub use crate::stream::{Interrupted, OpTimeout, PeerSilent};

/// What a checkout was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting in the queue: every connection was in use.
    Queue,
    /// Waiting for a connection to be made.
    Connect,
    /// Waiting for a silent peer to answer a probe.
    Check,
    /// Waiting for a paused pool to be resumed.
    Paused,
}

/// Why a checkout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckoutFailure {
    /// The checkout deadline passed in this phase.
    Timeout(Phase),
    /// As many callers were waiting as `max_waiting` allows.
    QueueFull,
    /// No connection could be made: [`CheckoutError::connect_error`] says why.
    Connect,
    /// The pool was closed.
    Closed,
    /// The caller was outside a tokio runtime, and no connection was idle.
    NoRuntime,
}

/// A checkout that ended without a connection.
///
/// Its text answers what an operator asks first: what it waited for, how long, how full the pool
/// was, why the last dial failed, and what to change. It is one line, and has all of it: there is no
/// [`source`](std::error::Error::source). A cause that is wanted with its type is [found](Self::find).
#[derive(Debug, Clone)]
pub struct CheckoutError(Box<CheckoutDetails>);

/// Boxed: a checkout that succeeds carries none of it around.
#[derive(Debug, Clone)]
pub(crate) struct CheckoutDetails {
    pub(crate) failure: CheckoutFailure,
    pub(crate) pool: Arc<str>,
    pub(crate) waited: Duration,
    pub(crate) status: Status,
    pub(crate) connect: Option<Arc<ConnectError>>,
    pub(crate) holders: Vec<Holder>,
}

/// Who holds a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Holder {
    /// The connection.
    pub conn: ConnId,
    /// For how long so far.
    pub held: Duration,
    /// Where it was checked out.
    pub taken_at: &'static Location<'static>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}, taken at {}", self.conn, self.held, self.taken_at)
    }
}

impl CheckoutError {
    pub(crate) fn new(details: CheckoutDetails) -> Self {
        Self(Box::new(details))
    }

    /// Why it failed.
    pub fn failure(&self) -> CheckoutFailure {
        self.0.failure
    }

    /// How long the caller had waited.
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// How full the pool was.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The connect error, where there was one.
    pub fn connect_error(&self) -> Option<&ConnectError> {
        self.0.connect.as_deref()
    }

    /// The cause of this type, wherever it stands: the error of the pool's protocol, say.
    ///
    /// ```
    /// # fn f(error: livepool::CheckoutError) {
    /// if let Some(error) = error.find::<std::io::Error>() {
    ///     println!("the last dial failed with {:?}", error.kind());
    /// }
    /// # }
    /// ```
    pub fn find<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let connect = self.connect_error()?;
        let itself: &(dyn std::error::Error + 'static) = connect;
        itself.downcast_ref().or_else(|| connect.find())
    }

    /// Who has held connections the longest, up to three. Empty unless `hold_warning` is set.
    pub fn holders(&self) -> &[Holder] {
        &self.0.holders
    }

    /// Whether a deadline passed: the checkout's own, or the connect's.
    pub fn is_timeout(&self) -> bool {
        match self.0.failure {
            CheckoutFailure::Timeout(_) => true,
            CheckoutFailure::Connect => self.0.connect.as_ref().is_some_and(|e| e.is_timeout()),
            _ => false,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self.0.failure {
            CheckoutFailure::Timeout(_) | CheckoutFailure::QueueFull => true,
            CheckoutFailure::Connect => self.0.connect.as_ref().is_some_and(|e| e.is_retryable()),
            CheckoutFailure::Closed | CheckoutFailure::NoRuntime => false,
        }
    }
}

impl fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckoutDetails { pool, waited, status, connect, .. } = &*self.0;
        write!(f, "pool {pool}: ")?;
        match (self.0.failure, connect.as_deref()) {
            (CheckoutFailure::Timeout(Phase::Queue), _) => {
                let hold = match status.resetting {
                    0 => "hold connections for a shorter time",
                    _ => "leave less behind that has to be undone",
                };
                write!(
                    f,
                    "no connection became free within {waited:.1?} ({status}); \
                     raise max_size, {hold}, or raise timeouts.checkout"
                )
            }
            (CheckoutFailure::Timeout(Phase::Check), _) => write!(
                f,
                "its peers are silent, and none answered within {waited:.1?} ({status}); \
                 check that the upstream is reachable"
            ),
            (CheckoutFailure::Timeout(Phase::Paused), _) => write!(
                f,
                "it was paused, and not resumed within {waited:.1?} ({status}); \
                 call resume(), or raise timeouts.checkout"
            ),
            // What to change is said by the dial.
            (CheckoutFailure::Timeout(Phase::Connect), Some(error)) => write!(
                f,
                "no connection could be made within {waited:.1?} ({status}); the last dial: {error}"
            ),
            (CheckoutFailure::Timeout(Phase::Connect), None) => write!(
                f,
                "no connection was made within {waited:.1?} ({status}), and no dial has failed; \
                 check that the upstream is reachable, or raise timeouts.checkout if it is just slow"
            ),
            (CheckoutFailure::QueueFull, _) => write!(
                f,
                "the queue is full ({status}); \
                 shed load earlier, or raise max_size or max_waiting"
            ),
            (CheckoutFailure::Connect, Some(error)) => {
                write!(f, "no connection could be made ({status}): {error}")
            }
            (CheckoutFailure::Connect, None) => write!(f, "no connection could be made ({status})"),
            (CheckoutFailure::Closed, _) => f.write_str("the pool is closed"),
            (CheckoutFailure::NoRuntime, _) => f.write_str(
                "there is no tokio runtime here; await this inside one: in a function with \
                 #[tokio::main] or #[tokio::test], or in Runtime::block_on",
            ),
        }?;
        for (index, holder) in self.0.holders.iter().enumerate() {
            write!(f, "{} {holder}", if index == 0 { "; longest held:" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for CheckoutError {}

impl From<CheckoutError> for io::Error {
    fn from(error: CheckoutError) -> Self {
        let kind = match error.failure() {
            _ if error.is_timeout() => io::ErrorKind::TimedOut,
            CheckoutFailure::QueueFull => io::ErrorKind::ResourceBusy,
            CheckoutFailure::Closed => io::ErrorKind::NotConnected,
            CheckoutFailure::NoRuntime => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::ConnectionRefused,
        };
        io::Error::new(kind, error)
    }
}

/// Whether `error` is a deadline of ours passing: a read, write, flush, shutdown, accept, connect or
/// checkout. The kernel's own `ETIMEDOUT`, which means that the peer is dead, is not one.
pub fn is_timeout(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    inner.is::<OpTimeout>()
        || inner.downcast_ref::<CheckoutError>().is_some_and(CheckoutError::is_timeout)
        || inner.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_timeout)
}
