//! The schedule: which idle connection is looked at next, and when.
//!
//! Connections that were made together fall silent together. Asked all at once, their probes would
//! overrun a queue on the way (Linux's loopback drops what exceeds `net.core.netdev_max_backlog`,
//! 1 000 packets) and be sent again; so each is looked at when it is due, and never many together.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Connections that are looked at, less than a microsecond each, before other tasks run.
pub(in crate::pool) const LOOKS: usize = 16;

/// So many may be looked at together; more only where there would be no time for all of them.
const TOGETHER: usize = 64;
/// The time between two such looks. A look comes this much late, to be shared with those due
/// meanwhile.
const APART: Duration = Duration::from_millis(10);

/// Connections to look at before the next tick, in order of when.
#[derive(Debug)]
pub(in crate::pool) struct ProbeSchedule<T> {
    due: VecDeque<(Instant, T)>,
    together: usize,
    /// When the last ones were looked at.
    last: Option<Instant>,
}

impl<T> ProbeSchedule<T> {
    pub(in crate::pool) fn new() -> Self {
        Self { due: VecDeque::new(), together: TOGETHER, last: None }
    }

    /// Plans the time until the next beat anew.
    pub(in crate::pool) fn plan(&mut self, beat: Duration, mut due: Vec<(Instant, T)>) {
        due.sort_by_key(|(due, _)| *due);
        self.due = due.into();
        // All of them in half that time, if they are due at once.
        let looks = (beat.as_millis() / (2 * APART.as_millis())).max(1);
        self.together = TOGETHER.max(self.due.len().div_ceil(looks as usize));
    }

    /// When to look next.
    pub(in crate::pool) fn due(&self) -> Option<Instant> {
        let (due, _) = self.due.front()?;
        Some(self.last.map_or(*due, |last| last.max(*due)) + APART)
    }

    /// Takes those that are due now.
    pub(in crate::pool) fn take(&mut self, now: Instant) -> Vec<T> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.last = Some(now);
        let count = self.due.iter().take(self.together).take_while(|(due, _)| *due <= now).count();
        self.due.drain(..count).map(|(_, who)| who).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BEAT: Duration = Duration::from_secs(1);

    #[test]
    fn each_is_looked_at_when_it_is_due_and_those_due_soon_with_it() {
        let start = Instant::now();
        let mut schedule = ProbeSchedule::new();
        let at = |ms: u32| start + ms * MS;
        schedule.plan(BEAT, vec![(at(40), 'c'), (at(10), 'a'), (at(14), 'b')]);
        assert_eq!(schedule.due(), Some(at(20)));
        assert!(schedule.take(at(19)).is_empty());
        assert_eq!(schedule.take(at(20)), ['a', 'b']);
        assert_eq!(schedule.due(), Some(at(50)));
        assert_eq!(schedule.take(at(51)), ['c']);
        assert_eq!(schedule.due(), None);
    }

    /// Takes all of so many that are due at once. Returns how long that takes, and how many there are
    /// together at most.
    fn spread(count: usize) -> (Duration, usize) {
        let start = Instant::now();
        let mut schedule = ProbeSchedule::new();
        schedule.plan(BEAT, (0..count).map(|who| (start, who)).collect());
        let (mut now, mut most, mut seen) = (start, 0, Vec::new());
        while let Some(due) = schedule.due() {
            now = now.max(due);
            let these = schedule.take(now);
            most = most.max(these.len());
            seen.extend(these);
        }
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
        (now - start, most)
    }

    #[test]
    fn many_that_are_due_together_are_spread() {
        assert_eq!(spread(1000), (16 * APART, TOGETHER));
    }

    #[test]
    fn however_many_there_are_all_have_their_turn_before_the_next_beat() {
        let (took, together) = spread(100_000);
        assert!(took <= BEAT / 2 && together <= 2000, "{took:?}, {together}");
    }
}
