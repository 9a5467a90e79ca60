//! The errors a stream adds to those of the system, carried inside [`std::io::Error`].

use std::fmt;
use std::io;
use std::time::Duration;

use crate::event::{CloseReason, Operation};

/// An operation on a stream passed its deadline.
///
/// The error travels inside an [`io::Error`] of kind [`io::ErrorKind::TimedOut`]. The kernel's own
/// `ETIMEDOUT` (keepalive or `TCP_USER_TIMEOUT` gave the peer up) has the same kind but not this
/// content: [`OpTimeout::of`] tells them apart.
///
/// ```
/// use std::io;
/// use livepool::OpTimeout;
///
/// fn show(error: &io::Error) {
///     if let Some(timeout) = OpTimeout::of(error) {
///         println!("{} took longer than {:?} ({})", timeout.operation, timeout.after, timeout.setting);
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpTimeout {
    /// The operation that took too long.
    pub operation: Operation,
    /// The time it, or the exchange around it, was given.
    pub after: Duration,
    /// Whether the deadline of the whole exchange cut it, rather than its own timeout.
    pub of_exchange: bool,
    /// The setting of that time: `timeouts.read`, say, `timeouts.operation`, `set_read_timeout`, or
    /// `deadline` for the one that its user gave the exchange.
    pub setting: &'static str,
}

/// The exchange's own deadline, as [`OpTimeout::setting`].
pub(super) const DEADLINE: &str = "deadline";

impl OpTimeout {
    /// The error of an operation that had so much time, by this setting. For tests of what makes
    /// something of it.
    pub fn new(operation: Operation, after: Duration, setting: &'static str) -> Self {
        Self { operation, after, of_exchange: false, setting }
    }

    /// The timeout inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for OpTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.operation {
            Operation::Write | Operation::Flush => "the peer took no more bytes",
            Operation::Shutdown => "the connection could not be shut down",
            _ => "the peer sent nothing",
        };
        let Self { operation, after, setting, .. } = self;
        match (self.of_exchange, *setting) {
            (true, DEADLINE) => {
                write!(
                    f,
                    "{operation} cut by the deadline of its exchange after {after:.1?}: {why} in time"
                )
            }
            (true, _) => write!(f, "{operation} cut by {setting} after {after:.1?}: {why} in time"),
            (false, _) => write!(f, "{operation} timed out after {after:.1?} ({setting}): {why}"),
        }
    }
}

impl std::error::Error for OpTimeout {}

impl From<OpTimeout> for io::Error {
    fn from(timeout: OpTimeout) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, timeout)
    }
}

/// The peer of a pooled connection was silent while an answer was owed, and did not answer the
/// probes it was sent: it is dead, or cannot be reached. Found long before a read timeout.
///
/// It travels inside an [`io::Error`] of kind [`io::ErrorKind::TimedOut`], as the kernel's own
/// verdict does. It is not a deadline of yours: [`is_timeout`](crate::is_timeout) says no.
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use livepool::{CloseReason, PeerSilent};
///
/// let error = io::Error::from(PeerSilent::new(Duration::from_secs(3), CloseReason::ProbeTimeout));
/// assert!(PeerSilent::of(&error).is_some());
/// // Its peer is gone, and no time of ours was over.
/// assert!(!livepool::is_timeout(&error));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSilent {
    /// How long ago the peer was last heard.
    pub silent_for: Duration,
    /// `probe_timeout`, or `retransmit_timeout` if bytes of ours were on their way.
    pub reason: CloseReason,
}

impl PeerSilent {
    /// The error of a peer that was last heard so long ago. For tests of what makes something of
    /// it.
    pub fn new(silent_for: Duration, reason: CloseReason) -> Self {
        Self { silent_for, reason }
    }

    /// The silence inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for PeerSilent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evidence = match self.reason {
            CloseReason::RetransmitTimeout => "what we sent was not acknowledged",
            _ => "it did not answer the probes it was sent",
        };
        write!(f, "peer silent for {:.1?}: {evidence}", self.silent_for)
    }
}

impl std::error::Error for PeerSilent {}

impl From<PeerSilent> for io::Error {
    fn from(silent: PeerSilent) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, silent)
    }
}

/// A stream was ended from outside while its user held it: an idle client of a listener, say.
///
/// It travels inside an [`io::Error`] of kind [`io::ErrorKind::ConnectionAborted`], so that it can
/// never be taken for a clean end of stream.
///
/// ```
/// use std::io;
/// use livepool::{CloseReason, Interrupted};
///
/// let error = io::Error::from(Interrupted::new(CloseReason::Invalidated));
/// assert_eq!(Interrupted::of(&error).unwrap().reason, CloseReason::Invalidated);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interrupted {
    /// Why.
    pub reason: CloseReason,
}

impl Interrupted {
    /// The error for this reason. For tests of what makes something of it.
    pub fn new(reason: CloseReason) -> Self {
        Self { reason }
    }

    /// The interrupt inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection was interrupted: {}", self.reason)
    }
}

impl std::error::Error for Interrupted {}

impl From<Interrupted> for io::Error {
    fn from(interrupted: Interrupted) -> Self {
        io::Error::new(io::ErrorKind::ConnectionAborted, interrupted)
    }
}

/// A peer sent, or announced, more than a client library is to hold: a message longer than
/// `limits.message`, or more than `limits.handshake` before the connection's handshake was over.
///
/// It travels inside an [`io::Error`] of kind [`io::ErrorKind::InvalidData`]. The connection is not
/// used again; its reason is `too_large`.
///
/// ```
/// use std::io;
/// use livepool::TooLarge;
///
/// fn is_too_long(error: &io::Error) -> bool {
///     TooLarge::of(error).is_some_and(|large| !large.in_handshake)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLarge {
    /// How long: as announced, or how far it had come.
    pub length: u64,
    /// The limit.
    pub limit: usize,
    /// Whether it was `limits.handshake`.
    pub in_handshake: bool,
}

impl TooLarge {
    /// The error of a message of so many bytes, where this was the limit. For tests of what makes
    /// something of it.
    pub fn new(length: u64, limit: usize) -> Self {
        Self { length, limit, in_handshake: false }
    }

    /// The length inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, limit, .. } = self;
        if self.in_handshake {
            write!(
                f,
                "the peer sent or announced {length} bytes before its handshake was over, and \
                 limits.handshake is {limit}; check that this is the right server, or raise limits.handshake"
            )
        } else {
            write!(
                f,
                "the peer's message takes {length} bytes, and limits.message is {limit}; ask for less \
                 at a time, or raise limits.message"
            )
        }
    }
}

impl std::error::Error for TooLarge {}

impl From<TooLarge> for io::Error {
    fn from(exceeded: TooLarge) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_a_text_is_rounded_and_has_the_name_of_its_setting() {
        let after = Duration::from_nanos(1_999_999_670);
        let text = |of_exchange, setting| {
            OpTimeout { operation: Operation::Read, after, of_exchange, setting }.to_string()
        };
        for (text, expected) in [
            (
                text(false, "timeouts.read"),
                "read timed out after 2.0s (timeouts.read): the peer sent nothing",
            ),
            (
                text(true, "timeouts.operation"),
                "read cut by timeouts.operation after 2.0s: the peer sent nothing in time",
            ),
            (
                text(true, DEADLINE),
                "read cut by the deadline of its exchange after 2.0s: the peer sent nothing in time",
            ),
        ] {
            assert_eq!(text, expected);
        }
        let silent = PeerSilent { silent_for: after, reason: CloseReason::PeerSilent };
        assert!(silent.to_string().starts_with("peer silent for 2.0s:"), "{silent}");
    }
}
