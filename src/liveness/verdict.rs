//! The meaning of a look at an idle socket: of what a peek found, and of what the kernel remembers
//! of the peer.

use std::task::Waker;
use std::time::Duration;

use super::runtime_gone;
use crate::event::CloseReason;
use crate::net::Io;
use crate::sys::peek::Peeked;

/// The answer to a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// The connection may be used.
    Alive,
    /// The connection must not be used, for this reason.
    Dead(CloseReason),
}

impl Liveness {
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

/// Checks an idle connection before it is handed out; this never waits. Where the sentinel has fired,
/// that may be for the end of its runtime, which no peek shows: `waker` is left in the reader slot then.
#[inline(always)]
pub(crate) fn check(io: &Io, has_fired: bool, waker: &Waker) -> Liveness {
    if has_fired && runtime_gone(io, waker) {
        return Liveness::Dead(CloseReason::RuntimeGone);
    }
    Liveness::of_peek(io.peek())
}

/// The meaning of a reading of `TCP_INFO`, for a connection over which nothing is known to have
/// come for at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// The peer was heard this long ago, lately enough.
    Heard(Duration),
    /// It was not: ask.
    Silent,
    /// Nobody can tell.
    Unknown,
}

impl Life {
    /// `heard`: how long ago, if the system says; `max`: how long a peer may be silent.
    ///
    /// Exactly zero is no proof. An emulated kernel (gVisor) fills the field with zeros, whatever
    /// has become of the peer. A real one says zero in the very millisecond of an answer only, and
    /// something else at the next look.
    pub(crate) fn of(heard: Option<Duration>, max: Duration) -> Self {
        match heard {
            None | Some(Duration::ZERO) => Self::Unknown,
            Some(ago) if ago >= max => Self::Silent,
            Some(ago) => Self::Heard(ago),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_an_empty_socket_is_alive_and_every_other_finding_has_its_reason() {
        let dead = |kind: ErrorKind| Liveness::of_peek(Peeked::Error(Error::from(kind)));
        assert_eq!(Liveness::of_peek(Peeked::Empty), Liveness::Alive);
        assert_eq!(Liveness::of_peek(Peeked::Closed), Liveness::Dead(CloseReason::PeerClosed));
        assert_eq!(Liveness::of_peek(Peeked::Bytes), Liveness::Dead(CloseReason::Dirty));
        assert_eq!(dead(ErrorKind::ConnectionReset), Liveness::Dead(CloseReason::Reset));
        assert_eq!(dead(ErrorKind::TimedOut), Liveness::Dead(CloseReason::KeepaliveTimeout));
        assert_eq!(dead(ErrorKind::HostUnreachable), Liveness::Dead(CloseReason::KeepaliveTimeout));
        assert_eq!(dead(ErrorKind::Other), Liveness::Dead(CloseReason::IoError));
    }

    #[test]
    fn a_peer_heard_lately_lives_and_a_clock_that_stands_still_proves_nothing() {
        let ms = Duration::from_millis;
        let table = [
            (Some(ms(1)), Life::Heard(ms(1))),
            (Some(ms(4999)), Life::Heard(ms(4999))),
            (Some(ms(5000)), Life::Silent),
            (Some(ms(0)), Life::Unknown),
            (None, Life::Unknown),
        ];
        for (heard, expected) in table {
            assert_eq!(Life::of(heard, ms(5000)), expected, "{heard:?}");
        }
    }
}
