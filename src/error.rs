//! Errors that say what failed: the phase, the wait, how full the pool was, what to change.
//!
//! The text of every error of this crate carries its causes, each once and in one line, so that a
//! service logs it as it is. So [`source`](std::error::Error::source) is `None` for all of them: a
//! walk over the sources, as of `{:#}` in `anyhow` or `eyre`, would say the same again. A cause
//! with its type is had from [`CheckoutError::find`], [`ConnectError::find`], or a field or method
//! of the error.

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

/// The phase of a checkout in which it failed.
///
/// ```
/// use livepool::CheckoutError;
/// use livepool::error::{CheckoutFailure, Phase};
///
/// fn is_pool_too_small(error: &CheckoutError) -> bool {
///     error.failure() == CheckoutFailure::Timeout(Phase::Queue)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The wait in the queue: every connection was in use.
    Queue,
    /// The wait for a connection to be made.
    Connect,
    /// The wait for a silent peer to answer a probe.
    Check,
    /// The wait for a paused pool to be resumed.
    Paused,
}

/// The reason why a checkout failed.
///
/// ```
/// use livepool::CheckoutError;
/// use livepool::error::CheckoutFailure;
///
/// fn is_overload(error: &CheckoutError) -> bool {
///     matches!(error.failure(), CheckoutFailure::QueueFull | CheckoutFailure::Timeout(_))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckoutFailure {
    /// The checkout deadline passed in this phase.
    Timeout(Phase),
    /// The queue was full: as many callers were waiting as `max_waiting` allows.
    QueueFull,
    /// No connection could be made: [`CheckoutError::connect_error`] says why.
    Connect,
    /// The hook before a checkout ([`Builder::before_checkout`](crate::Builder::before_checkout)) refused
    /// a connection that was just made.
    Hook,
    /// The pool was closed.
    Closed,
    /// The caller was outside a tokio runtime, and no connection was idle.
    NoRuntime,
}

/// A checkout that ended without a connection.
///
/// The text answers what an operator asks first: what the checkout waited for, how long, how full
/// the pool was, why the last dial failed, and what to change. The text is one line with all of
/// that, and there is no [`source`](std::error::Error::source). A cause that is wanted with its
/// type is [found](Self::find).
///
/// ```
/// # async fn f(pool: livepool::Pool) -> Result<(), livepool::CheckoutError> {
/// let guard = match pool.get().await {
///     Ok(guard) => guard,
///     Err(error) => {
///         // One line, with the causes in it.
///         eprintln!("{error}");
///         let status = if error.is_retryable() { 503 } else { 500 };
///         # let _ = status;
///         return Err(error);
///     }
/// };
/// # drop(guard); Ok(()) }
/// ```
#[derive(Debug, Clone)]
// Boxed: the result of a checkout that succeeds is not made larger by an error it does not have.
pub struct CheckoutError(Box<CheckoutDetails>);

/// The parts of a [`CheckoutError`].
#[derive(Debug, Clone)]
pub(crate) struct CheckoutDetails {
    pub(crate) failure: CheckoutFailure,
    pub(crate) pool: Arc<str>,
    pub(crate) waited: Duration,
    pub(crate) status: Status,
    pub(crate) connect: Option<Arc<ConnectError>>,
    pub(crate) hook: Option<Arc<str>>,
    pub(crate) holders: Vec<Holder>,
}

/// A holder of a connection: the place in a program that checked it out.
///
/// ```
/// fn show(error: &livepool::CheckoutError) {
///     // With `hold_warning` set: who has the connections that this caller did not get.
///     for holder in error.holders() {
///         println!("{holder}");
///     }
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Holder {
    /// The connection that is held.
    pub conn: ConnId,
    /// The time since its checkout.
    pub held: Duration,
    /// The place where it was checked out.
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

    /// The reason why the checkout failed.
    pub fn failure(&self) -> CheckoutFailure {
        self.0.failure
    }

    /// The time for which the caller had waited.
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// The status of the pool when the checkout failed.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The error of the last dial, where one had failed.
    pub fn connect_error(&self) -> Option<&ConnectError> {
        self.0.connect.as_deref()
    }

    /// The cause of this type, wherever it is in the error: the error of the pool's protocol, say.
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
        // The caller may ask for the `ConnectError` itself, and not for a cause inside it.
        itself.downcast_ref().or_else(|| connect.find())
    }

    /// The up to three holders that have held connections the longest. Empty unless `hold_warning`
    /// is set.
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
            CheckoutFailure::Timeout(_) | CheckoutFailure::QueueFull | CheckoutFailure::Hook => {
                true
            }
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
                // Connections that are being reset are in use, too, and no caller holds them.
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
            (CheckoutFailure::Hook, _) => {
                let why = self.0.hook.as_deref().unwrap_or("the hook before a checkout failed");
                write!(f, "{why}, over a connection that was just made ({status})")
            }
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
            // First: a connect error that ran out of time is a timeout, and no refusal.
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
    // An error of the kernel holds no other one.
    let Some(inner) = error.get_ref() else { return false };
    inner.is::<OpTimeout>()
        || inner.downcast_ref::<CheckoutError>().is_some_and(CheckoutError::is_timeout)
        || inner.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_timeout)
}
