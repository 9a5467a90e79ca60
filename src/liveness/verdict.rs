//! What a look at an idle socket means. Pure.

use crate::event::CloseReason;
use crate::sys::peek::Peeked;

/// The answer of a rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing speaks against using the connection.
    Alive,
    /// It must not be used, for this reason.
    Dead(CloseReason),
}

impl Verdict {
    /// Judges an idle connection by what a peek found. The error of a socket is one-shot: whoever
    /// peeks first learns it, so it is turned into a reason here and nowhere else.
    #[inline(always)]
    pub(crate) fn of_peek(peeked: Peeked) -> Self {
        match peeked {
            Peeked::Empty => Self::Alive,
            Peeked::Closed => Self::Dead(CloseReason::PeerClosed),
            // A late answer, or a goodbye that is followed by a close: either way the next reader
            // would take it for its own answer.
            Peeked::Bytes => Self::Dead(CloseReason::Dirty),
            Peeked::Error(error) => Self::Dead(CloseReason::of_io_error(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_an_empty_socket_is_alive_and_every_other_finding_has_its_reason() {
        let dead = |kind: ErrorKind| Verdict::of_peek(Peeked::Error(Error::from(kind)));
        assert_eq!(Verdict::of_peek(Peeked::Empty), Verdict::Alive);
        assert_eq!(Verdict::of_peek(Peeked::Closed), Verdict::Dead(CloseReason::PeerClosed));
        assert_eq!(Verdict::of_peek(Peeked::Bytes), Verdict::Dead(CloseReason::Dirty));
        assert_eq!(dead(ErrorKind::ConnectionReset), Verdict::Dead(CloseReason::Reset));
        assert_eq!(dead(ErrorKind::TimedOut), Verdict::Dead(CloseReason::KeepaliveTimeout));
        assert_eq!(dead(ErrorKind::HostUnreachable), Verdict::Dead(CloseReason::KeepaliveTimeout));
        assert_eq!(dead(ErrorKind::Other), Verdict::Dead(CloseReason::IoError));
    }
}
