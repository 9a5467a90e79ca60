//! [`Age`]: a moment in the life of a connection.
//!
//! A word, where an `Instant` is two and subtracting two of them costs more than reading the clock:
//! a checkout reads the clock once, and compares ages from then on.

use std::time::Duration;

use crate::event::CloseReason;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds since the connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::pool) struct Age(u64);

impl Age {
    pub(in crate::pool) const ZERO: Self = Self(0);
    /// No connection gets that old.
    pub(in crate::pool) const NEVER: Self = Self(u64::MAX);

    pub(in crate::pool) fn of(since_opened: Duration) -> Self {
        let seconds = since_opened.as_secs().saturating_mul(1_000_000_000);
        Self(seconds.saturating_add(since_opened.subsec_nanos().into()))
    }

    pub(in crate::pool) fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Whether less than a second passed since then. Without the divisions that a `Duration` costs.
    pub(in crate::pool) fn is_within_a_second_of(self, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) < 1_000_000_000
    }

    /// Time passed since then; zero, if that is later.
    pub(in crate::pool) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// An age that changes, read by everybody. Written by whoever owns the connection's stream, but for
/// [`replace`](Self::replace).
#[derive(Debug)]
pub(in crate::pool) struct AtomicAge(AtomicU64);

impl AtomicAge {
    pub(in crate::pool) const fn new(age: Age) -> Self {
        Self(AtomicU64::new(age.0))
    }

    pub(in crate::pool) fn get(&self) -> Age {
        Age(self.0.load(Ordering::Acquire))
    }

    pub(in crate::pool) fn set(&self, age: Age) {
        self.0.store(age.0, Ordering::Release);
    }

    /// As [`set`](Self::set), for whoever does not own the stream: in one order with all that is `SeqCst`,
    /// so that a look afterwards misses nothing that came before a later write.
    pub(in crate::pool) fn replace(&self, age: Age) {
        self.0.store(age.0, Ordering::SeqCst);
    }

    /// Moves it forward, never back.
    pub(in crate::pool) fn raise(&self, age: Age) {
        if self.get() < age {
            self.set(age);
        }
    }
}

/// Why an idle connection should be evicted now, if it should.
///
/// Lifetime comes first: it names the older fact.
pub(in crate::pool) fn due(
    now: Age,
    idle_since: Age,
    expires: Age,
    idle_limit: Age,
) -> Option<CloseReason> {
    if now >= expires {
        return Some(CloseReason::MaxLifetime);
    }
    let idle = Age::of(now.since(idle_since));
    (idle >= idle_limit).then_some(CloseReason::IdleTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Age {
        Age::of(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_raised_only_moves_forward() {
        let age = AtomicAge::new(Age::ZERO);
        age.raise(seconds(5));
        age.raise(seconds(3));
        assert_eq!(age.get(), seconds(5));
        assert_eq!(seconds(7).since(age.get()).as_secs(), 2);
        assert_eq!(seconds(4).since(age.get()).as_secs(), 0);
    }

    #[test]
    fn a_time_longer_than_any_life_is_never() {
        assert_eq!(Age::of(Duration::MAX), Age::NEVER);
        assert_eq!(Age::of(Duration::new(1, 5)).duration(), Duration::new(1, 5));
    }

    #[test]
    fn a_connection_is_due_when_idle_too_long_or_too_old_and_age_is_named_first() {
        const NEVER: Age = Age::NEVER;
        let minutes = |minutes: u64| Age::of(Duration::from_secs(60 * minutes));
        let (start, now) = (minutes(0), minutes(10));
        let table = [
            // idle since, expires, idle limit => due
            (start, NEVER, NEVER, None),
            (start, NEVER, minutes(11), None),
            (start, NEVER, minutes(10), Some(CloseReason::IdleTimeout)),
            (now, NEVER, minutes(1), None),
            (now, now, NEVER, Some(CloseReason::MaxLifetime)),
            (now, minutes(11), NEVER, None),
            (start, start, minutes(1), Some(CloseReason::MaxLifetime)),
            // A clock read before the return that is being judged.
            (minutes(11), NEVER, minutes(1), None),
        ];
        for (index, (since, expires, limit, expected)) in table.into_iter().enumerate() {
            assert_eq!(due(now, since, expires, limit), expected, "row {index}");
        }
    }
}
