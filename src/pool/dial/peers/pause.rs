//! The pause after a dial that failed: how long, counted from when, and for whom. Pure but for the
//! draw.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Backoff;

/// However short the time of those who wait, a dial does not begin for that sooner than this after
/// the last one. With the pauses that are shorter by the draw that makes 20 dials a second.
pub(super) const APART: Duration = Duration::from_millis(60);
/// So long before the time of a waiting caller is over, a dial is tried though the pause is not.
pub(in crate::pool) const LAST_CALL: Duration = Duration::from_millis(100);

/// For whom a connection is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Demand {
    /// For callers who wait; the time of the first one is over at this moment.
    Callers(Option<Instant>),
    /// For nobody yet: to have enough idle connections, or to see whether a peer is back.
    Nobody,
}

/// The pause after one failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    began: Instant,
    ended: Instant,
    failures: u32,
    /// The part of the bound that was drawn ("full jitter"), above 0 and at most 1.
    share: f64,
}

impl Pause {
    /// After the failure of a dial that took from `began` to `ended`, the `failures`-th in a row.
    pub(super) fn after(began: Instant, ended: Instant, failures: u32) -> Self {
        Self { began, ended, failures, share: 1.0 - fastrand::f64() }
    }

    /// Whether a dial that began at this moment was under way when the failure came: then its own
    /// failure is the same one.
    pub(super) fn covers(&self, began: Instant) -> bool {
        began < self.ended
    }

    /// When the next dial may begin.
    ///
    /// While callers wait the pause is short, and counted from the beginning of the dial: one that
    /// timed out has waited already. For nobody it grows, and is counted from the end.
    pub(super) fn is_over_at(&self, backoff: &Backoff, demand: Demand) -> Instant {
        let bound = backoff.bound(self.failures);
        let Demand::Callers(first) = demand else {
            return self.ended + bound.mul_f64(self.share);
        };
        let end = self.began + bound.min(backoff.while_waiting).mul_f64(self.share);
        let last_call = first.and_then(|first| first.checked_sub(LAST_CALL));
        last_call.map_or(end, |last_call| end.min(last_call.max(self.began + APART)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_pause_is_short_while_somebody_waits_and_counted_from_the_beginning_of_the_dial() {
        let backoff = Backoff::default();
        let began = Instant::now();
        let ended = began + 3_000 * MS;
        for _ in 0..100 {
            let pause = Pause::after(began, ended, 9);
            let waiting = pause.is_over_at(&backoff, Demand::Callers(None));
            assert!(waiting > began && waiting <= began + 200 * MS);
            let nobody = pause.is_over_at(&backoff, Demand::Nobody);
            assert!(nobody > ended && nobody <= ended + 5_000 * MS);
        }
        let pause = Pause { began, ended: began, failures: 9, share: 1.0 };
        assert_eq!(pause.is_over_at(&backoff, Demand::Callers(None)), began + 200 * MS);
        assert_eq!(pause.is_over_at(&backoff, Demand::Nobody), began + 5_000 * MS);
        // The first ones are shorter still.
        let first = Pause { failures: 1, ..pause };
        assert_eq!(first.is_over_at(&backoff, Demand::Callers(None)), began + 50 * MS);
    }

    #[test]
    fn a_dial_is_tried_before_the_time_of_the_first_caller_is_over_but_never_many() {
        let backoff = Backoff::default();
        let began = Instant::now();
        let pause = Pause { began, ended: began, failures: 9, share: 1.0 };
        let table = [(400, 200), (300, 200), (290, 190), (161, 61), (160, 60), (20, 60), (0, 60)];
        for (deadline, due) in table {
            let demand = Demand::Callers(Some(began + deadline * MS));
            assert_eq!(pause.is_over_at(&backoff, demand), began + due * MS, "{deadline}");
        }
    }
}
