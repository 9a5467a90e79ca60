//! Proof of life: what the kernel's memory of the peer says. Pure.

use std::time::Duration;

/// What a reading of `TCP_INFO` says about a connection over which nothing is known to have come for
/// at least a second.
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
    use super::*;

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
