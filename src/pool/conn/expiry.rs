//! Which idle connections have outlived their welcome. Pure.

use crate::event::CloseReason;
use crate::pool::conn::age::Age;

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
    use std::time::Duration;

    use super::*;

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
