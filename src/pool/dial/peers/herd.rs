//! A simulation of the pure rule: what many programs, each with a caller who waits, do to the one
//! upstream that they have lost, and how soon each is served when it is back.
//!
//! `cargo test --lib -- --nocapture many_programs` prints the table.

use super::pause::{Demand, Pause};
use super::*;
use crate::config::Backoff;

const PROGRAMS: usize = 10_000;
const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(10);

/// How a program waits after a failure.
trait Rule {
    /// When its next dials begin, after its `failures`-th in a row, of dials that failed at once.
    fn next(&self, now: Instant, failures: u32) -> Instant;
    /// How many it makes at a time.
    fn at_a_time(&self) -> usize;
}

/// Until now: a pause up to 5 s, whoever waited, and as many dials as may be under way.
struct Before;

impl Rule for Before {
    fn next(&self, now: Instant, failures: u32) -> Instant {
        Pause::after(now, now, failures).is_over_at(&Backoff::default(), Demand::Nobody)
    }

    fn at_a_time(&self) -> usize {
        2
    }
}

/// From now on.
struct Now;

impl Rule for Now {
    fn next(&self, now: Instant, failures: u32) -> Instant {
        Pause::after(now, now, failures).is_over_at(&Backoff::default(), Demand::Callers(None))
    }

    fn at_a_time(&self) -> usize {
        1
    }
}

struct Outcome {
    /// Dials in a second while it is away, once the pauses have grown, and in its busiest tick.
    away_per_second: usize,
    peak_away: usize,
    /// The same from its return on, until all are served.
    total_back: usize,
    peak_back: usize,
    median: Duration,
    all: Duration,
}

/// Away for so long; then it lets in so many in a tick, and refuses the others.
fn simulate(rule: &impl Rule, away: Duration, room: usize) -> Outcome {
    let start = Instant::now();
    let back = start + away;
    // They lose it within a second of each other.
    let mut due: Vec<(Instant, u32)> = (0..PROGRAMS)
        .map(|_| (start + Duration::from_secs(1).mul_f64(fastrand::f64()), 0))
        .collect();
    let (mut now, mut served) = (start, Vec::new());
    let mut outcome = Outcome {
        away_per_second: 0,
        peak_away: 0,
        total_back: 0,
        peak_back: 0,
        median: Duration::ZERO,
        all: Duration::ZERO,
    };
    while !due.is_empty() {
        assert!(now < back + Duration::from_secs(60), "{} are never served", due.len());
        let (mut dials, mut left) = (0, if now >= back { room } else { 0 });
        due.retain_mut(|(at, failures)| {
            if *at > now {
                return true;
            }
            dials += rule.at_a_time();
            if left > 0 {
                left = left.saturating_sub(rule.at_a_time());
                served.push(now - back);
                return false;
            }
            *failures += 1;
            *at = rule.next(now, *failures);
            true
        });
        if now >= back {
            outcome.total_back += dials;
            outcome.peak_back = outcome.peak_back.max(dials);
        } else if now + Duration::from_secs(1) >= back {
            outcome.away_per_second += dials;
            outcome.peak_away = outcome.peak_away.max(dials);
        }
        now += TICK;
    }
    served.sort();
    outcome.median = served[PROGRAMS / 2];
    outcome.all = served[PROGRAMS - 1];
    outcome
}

#[test]
fn many_programs_do_not_meet_an_upstream_that_comes_back_at_once() {
    fastrand::seed(7);
    println!("{PROGRAMS} programs with a caller each, away for 10 s; dials:");
    println!("room/s   rule    away/s  peak/10ms  back: total  peak/10ms  served: p50  all");
    for room in [PROGRAMS, 100, 20] {
        for (name, outcome) in [
            ("before", simulate(&Before, 10_000 * MS, room)),
            ("now", simulate(&Now, 10_000 * MS, room)),
        ] {
            let Outcome { away_per_second, peak_away, total_back, peak_back, median, all } =
                outcome;
            println!(
                "{:>7}  {name:<7} {away_per_second:>6} {peak_away:>9} {total_back:>12} \
                 {peak_back:>9} {median:>12.2?} {all:.2?}",
                room * 100
            );
            if name == "now" {
                // Ten a second from each program, spread: an even share of them, and half as much
                // by chance. Were they in step, a peak would be all of them.
                assert!(peak_away <= PROGRAMS / 10 * 3 / 2, "{peak_away}");
                assert!(peak_back <= PROGRAMS / 10 * 3 / 2, "{peak_back}");
                if room == PROGRAMS {
                    assert!(median <= 100 * MS && all <= 250 * MS, "{median:?} {all:?}");
                }
            }
        }
    }
}
