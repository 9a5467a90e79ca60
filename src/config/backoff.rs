//! [`Backoff`]: how long to wait after a failure.

use std::time::Duration;

/// How long an address is left alone after a dial to it has failed: a random time up to a bound
/// that begins with `first` and doubles with every further failure, up to `most`.
///
/// While a caller waits, the bound is at most `while_waiting`, and counted from the beginning of the
/// dial that failed; one dial at a time finds out whether the upstream is back. Before the time of
/// a waiting caller is over one more is tried, up to 20 a second.
///
/// The time is drawn anew from the whole range each time ("full jitter"), so that the programs that
/// lost the same upstream do not come back to it together.
///
/// ```
/// use std::time::Duration;
/// use livepool::{Backoff, Config};
///
/// // An upstream that should not see more than a dial each 10 s while nobody waits.
/// let backoff = Backoff::default().with_most(Duration::from_secs(10));
/// assert!(Config::new("db.internal:5432").with_backoff(backoff).check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Backoff {
    /// Bound after the first failure. Default 50 ms; 1 ms to 365 days.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub first: Duration,
    /// The highest bound while nobody waits. Default 5 s. Not below `first`.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub most: Duration,
    /// The highest bound while a caller waits. Default 200 ms: so soon after its return an upstream
    /// is used again. At least 1 ms.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub while_waiting: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            most: Duration::from_secs(5),
            while_waiting: Duration::from_millis(200),
        }
    }
}

impl Backoff {
    setters! {
        with_first first: plain Duration;
        with_most most: plain Duration;
        with_while_waiting while_waiting: plain Duration;
    }

    /// The bound after this many failures in a row, which are one at least.
    pub(crate) fn bound(&self, failures: u32) -> Duration {
        // Both saturate: after some 30 failures, or with a `first` of years, the bound is `most` anyway.
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_highest() {
        let backoff = Backoff::default();
        let ms = Duration::from_millis;
        assert_eq!(
            [1, 2, 3, 7, 8, 99].map(|n| backoff.bound(n)),
            [50, 100, 200, 3200, 5000, 5000].map(ms)
        );
    }
}
