//! [`Verdict`]: the consequence of what a protocol has seen.

use crate::event::CloseReason;

/// The consequence of what a [`Protocol`](super::Protocol) or [`Scanner`](super::Scanner) has seen,
/// for the connection that it was seen on, and for the others.
///
/// The same words wherever a protocol is asked:
///
/// | verdict | [`reuse`](super::Protocol::reuse): a connection came back | [`classify`](super::Protocol::classify) and [`Scanner::verdict`](super::Scanner::verdict): an error, an answer | [`unread`](super::Protocol::unread): bytes that nobody asked for |
/// |---|---|---|---|
/// | `Keep` | goes to the next caller, if nothing is owed | nothing follows | they stay, for the client to read |
/// | `NeedsReset` | is [reset](super::Protocol::reset) first, even if something is owed | is reset when it comes back | as `Close`: a reset takes no bytes back |
/// | `Close` | is closed: `not_reusable`, or `unfinished` if something is owed | is closed when it comes back: `protocol_error` | is closed: `dirty` |
/// | `PeerCloses` | is closed: `peer_closed` | the same, when it comes back | the same |
/// | `InvalidatePool` | is closed, and so is every one that was made before: `invalidated` | the same, those in use when they come back | the same |
///
/// ```
/// use livepool::protocol::Verdict;
///
/// /// What an error of the server means, by its code.
/// fn judge(code: &str) -> Verdict {
///     match code {
///         "READONLY" => Verdict::InvalidatePool,
///         "SHUTDOWN" => Verdict::PeerCloses,
///         _ => Verdict::Keep,
///     }
/// }
/// assert_eq!(judge("READONLY"), Verdict::InvalidatePool);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The connection is fine.
    Keep,
    /// The connection is fine once it was reset.
    NeedsReset,
    /// The connection must not be reused.
    Close,
    /// The connection must not be reused: the peer has said that it ends it.
    PeerCloses,
    /// The connection is of no use, nor is any other that was made before: the upstream has changed
    /// its role, or is going away.
    InvalidatePool,
}

impl Verdict {
    /// The reason that the connection ends with; `close` where nothing more is known.
    #[inline]
    pub(crate) fn reason(self, close: CloseReason) -> Option<CloseReason> {
        match self {
            Self::Keep | Self::NeedsReset => None,
            Self::Close => Some(close),
            Self::PeerCloses => Some(CloseReason::PeerClosed),
            Self::InvalidatePool => Some(CloseReason::Invalidated),
        }
    }
}
