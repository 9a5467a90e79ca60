//! [`Seldom`]: a log line that is written once per second at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two such lines.
const APART: Duration = Duration::from_secs(1);

/// When a line was written last, and how many were left out since.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// Looked at and changed under this lock, nothing else.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// Whether one more is to be written now: with how many were left out before it.
    pub(super) fn next(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, left_out) = &mut *last;
        if written.is_some_and(|written| now.saturating_duration_since(written) < APART) {
            *left_out += 1;
            return None;
        }
        *written = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |ms| seldom.next(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 999, 1000, 1001, 5000, 9000].map(at),
            [Some(0), None, None, Some(2), None, Some(1), Some(0)]
        );
    }
}
