//! Which idle connections have outlived their welcome. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::CloseReason;

/// Why an idle connection should be evicted now, if it should.
///
/// Lifetime comes first: it names the older fact.
pub(super) fn due(
    now: Instant,
    idle_since: Instant,
    expires: Option<Instant>,
    idle_timeout: Option<Duration>,
) -> Option<CloseReason> {
    if expires.is_some_and(|expires| now >= expires) {
        return Some(CloseReason::MaxLifetime);
    }
    let idle = now.saturating_duration_since(idle_since);
    idle_timeout.filter(|limit| idle >= *limit).map(|_| CloseReason::IdleTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_connection_is_due_when_idle_too_long_or_too_old_and_age_is_named_first() {
        let start = Instant::now();
        let now = start + 10 * MINUTE;
        let table = [
            // idle since, expires, idle timeout => due
            (start, None, None, None),
            (start, None, Some(11 * MINUTE), None),
            (start, None, Some(10 * MINUTE), Some(CloseReason::IdleTimeout)),
            (now, None, Some(MINUTE), None),
            (now, Some(now), None, Some(CloseReason::MaxLifetime)),
            (now, Some(now + MINUTE), None, None),
            (start, Some(start), Some(MINUTE), Some(CloseReason::MaxLifetime)),
            // A clock read before the return that is being judged.
            (now + MINUTE, None, Some(MINUTE), None),
        ];
        for (index, (since, expires, timeout, expected)) in table.into_iter().enumerate() {
            assert_eq!(due(now, since, expires, timeout), expected, "row {index}");
        }
    }
}
