//! Why something failed: which phase, how long it waited, how full the pool was, what to change.

use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

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
    /// No connection could be made; the source says why.
    Connect,
    /// The pool was closed.
    Closed,
}

/// A checkout that ended without a connection.
///
/// Its text answers what an operator asks first: what it waited for, how long, how full the pool
/// was, and what to change. [`source`](std::error::Error::source) is the connect error, where there
/// was one.
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
            CheckoutFailure::Closed => false,
        }
    }
}

impl fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckoutDetails { pool, waited, status, .. } = &*self.0;
        match self.0.failure {
            CheckoutFailure::Timeout(Phase::Queue) => write!(
                f,
                "pool {pool}: no connection became free within {waited:.1?} ({status}); \
                 raise max_size, hold connections for a shorter time, or raise timeouts.checkout"
            ),
            CheckoutFailure::Timeout(Phase::Check) => write!(
                f,
                "pool {pool}: its peers are silent, and none answered within {waited:.1?} \
                 ({status}); check that the upstream is reachable, or raise timeouts.checkout"
            ),
            CheckoutFailure::Timeout(Phase::Paused) => write!(
                f,
                "pool {pool}: it was paused, and not resumed within {waited:.1?} ({status}); \
                 call resume(), or raise timeouts.checkout"
            ),
            CheckoutFailure::Timeout(Phase::Connect) => write!(
                f,
                "pool {pool}: no connection could be made within {waited:.1?} ({status}); {}",
                self.connect_error()
                    .and_then(ConnectError::shortage)
                    .unwrap_or("check that the upstream is reachable, or raise timeouts.checkout")
            ),
            CheckoutFailure::QueueFull => write!(
                f,
                "pool {pool}: the queue is full ({status}); \
                 shed load earlier, or raise max_size or max_waiting"
            ),
            CheckoutFailure::Connect => {
                write!(f, "pool {pool}: no connection could be made ({status})")
            }
            CheckoutFailure::Closed => write!(f, "pool {pool}: the pool is closed"),
        }?;
        for (index, holder) in self.0.holders.iter().enumerate() {
            write!(f, "{} {holder}", if index == 0 { "; longest held:" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for CheckoutError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.connect.as_deref().map(|e| e as _)
    }
}

impl From<CheckoutError> for io::Error {
    fn from(error: CheckoutError) -> Self {
        let kind = match error.failure() {
            _ if error.is_timeout() => io::ErrorKind::TimedOut,
            CheckoutFailure::QueueFull => io::ErrorKind::ResourceBusy,
            CheckoutFailure::Closed => io::ErrorKind::NotConnected,
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
