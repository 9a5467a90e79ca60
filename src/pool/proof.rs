//! Proof of life: when the peer of a connection was last known to be heard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A moment that only moves forward, kept without a lock.
#[derive(Debug)]
pub(super) struct Proof {
    opened: Instant,
    /// Nanoseconds since `opened`.
    at: AtomicU64,
}

impl Proof {
    /// The handshake was heard.
    pub(super) fn new(opened: Instant) -> Self {
        Self { opened, at: AtomicU64::new(0) }
    }

    pub(super) fn heard_at(&self, moment: Instant) {
        let nanos = moment.saturating_duration_since(self.opened).as_nanos();
        self.at.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// How old it is.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let at = Duration::from_nanos(self.at.load(Ordering::Acquire));
        now.saturating_duration_since(self.opened).saturating_sub(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_moves_forward() {
        let opened = Instant::now();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let proof = Proof::new(opened);
        assert_eq!(proof.age(at(7)).as_secs(), 7);
        proof.heard_at(at(5));
        proof.heard_at(at(3));
        assert_eq!(proof.age(at(7)).as_secs(), 2);
        assert_eq!(proof.age(at(4)).as_secs(), 0);
    }
}
