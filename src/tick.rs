//! The tick of background tasks, which look at time limits and gauges.

use std::time::Duration;

/// The time between two ticks: a quarter of the shortest limit, so that no limit is exceeded by
/// more than that, and at most a second, which is also how often gauges are set.
pub(crate) fn tick_period(limits: impl IntoIterator<Item = Option<Duration>>) -> Duration {
    const LONGEST: Duration = Duration::from_secs(1);
    // Below this a task would do little else than look.
    const SHORTEST: Duration = Duration::from_millis(5);
    let shortest = limits.into_iter().flatten().min();
    shortest.map_or(LONGEST, |limit| (limit / 4).clamp(SHORTEST, LONGEST))
}

/// The time before the first tick: a random part of the period, so that tasks that start together
/// do not tick together.
pub(crate) fn first_delay(period: Duration) -> Duration {
    period.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_follows_the_shortest_limit_and_never_exceeds_a_second() {
        let ms = Duration::from_millis;
        let minute = Duration::from_secs(60);
        assert_eq!(tick_period([None, None]), ms(1000));
        assert_eq!(tick_period([Some(10 * minute), None]), ms(1000));
        assert_eq!(tick_period([Some(minute), Some(ms(400))]), ms(100));
        assert_eq!(tick_period([Some(ms(1)), None]), ms(5));
    }
}
