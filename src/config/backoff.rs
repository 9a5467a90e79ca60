//! [`Backoff`]: how long to wait after a failure.

use std::time::Duration;

/// How long an address is left alone after a dial to it has failed: a random time up to a bound
/// that begins with `first` and doubles with every further failure, up to `most`.
///
/// Drawn anew from the whole range each time ("full jitter"), so that the programs that lost the
/// same upstream do not come back to it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Backoff {
    /// Bound after the first failure. Default 50 ms, at least 1 ms.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub first: Duration,
    /// The highest bound. Default 5 s: a peer that is back is found within that. Not below `first`.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), most: Duration::from_secs(5) }
    }
}

impl Backoff {
    setters! {
        with_first first: plain Duration;
        with_most most: plain Duration;
    }

    /// The bound after this many failures in a row, at least one.
    pub(crate) fn bound(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.most)
    }

    /// A time within the bound. Never zero, so that a failure is always followed by a pause.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.bound(failures).mul_f64(1.0 - fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_highest_and_the_pause_is_anywhere_below() {
        let backoff = Backoff::default();
        let ms = Duration::from_millis;
        assert_eq!(
            [1, 2, 3, 7, 8, 99].map(|n| backoff.bound(n)),
            [50, 100, 200, 3200, 5000, 5000].map(ms)
        );
        let pauses: Vec<_> = (0..1000).map(|_| backoff.pause(8)).collect();
        assert!(pauses.iter().all(|pause| !pause.is_zero() && *pause <= ms(5000)));
        let early = pauses.iter().filter(|pause| **pause < ms(2500)).count();
        assert!((300..700).contains(&early), "{early} of 1000 in the first half");
    }
}
