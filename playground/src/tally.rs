//! What callers of one pool met: counted as it happens, and taken tick by tick.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// How a caller fared.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It got its answer.
    Served,
    /// It got a connection, and an error instead of an answer.
    Failed {
        error: String,
        /// The connection was dead when it was handed out.
        was_dead: bool,
    },
    /// It got somebody else's answer.
    WrongAnswer,
    /// It got no connection.
    NotServed(String),
    /// It was cancelled.
    Cancelled,
}

/// Sums since the beginning, or since they were set to zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    pub(crate) checkouts: u64,
    pub(crate) served: u64,
    pub(crate) errors: u64,
    pub(crate) dead: u64,
    pub(crate) wrong: u64,
    pub(crate) cancelled: u64,
    /// Callers who did not come, since too many were there.
    pub(crate) held_back: u64,
    /// The longest time from the question for a connection to the answer or the error, think time left
    /// out.
    pub(crate) longest: Duration,
    pub(crate) kinds: BTreeMap<String, u64>,
}

/// The waits of one tick.
pub(crate) type Waits = Histogram<u64>;

/// An empty one: from a microsecond to a minute, with two figures.
pub(crate) fn no_waits() -> Waits {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("these bounds are valid")
}

pub(crate) struct Tally(Mutex<Inside>);

struct Inside {
    sums: Sums,
    waits: Waits,
}

impl Default for Tally {
    fn default() -> Self {
        Self(Mutex::new(Inside { sums: Sums::default(), waits: no_waits() }))
    }
}

impl Tally {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a caller fared who waited so long for its connection, or for none, and so long in all.
    pub(crate) fn note(&self, fate: Fate, waited: Duration, in_all: Duration) {
        let mut inside = self.inside();
        if !matches!(fate, Fate::Cancelled) {
            inside.waits.saturating_record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        }
        let sums = &mut inside.sums;
        sums.longest = sums.longest.max(in_all);
        sums.checkouts +=
            u64::from(matches!(fate, Fate::Served | Fate::Failed { .. } | Fate::WrongAnswer));
        let kind = match fate {
            Fate::Served => {
                sums.served += 1;
                return;
            }
            Fate::Cancelled => {
                sums.cancelled += 1;
                return;
            }
            Fate::Failed { error, was_dead } => {
                sums.dead += u64::from(was_dead);
                error
            }
            Fate::WrongAnswer => {
                sums.wrong += 1;
                "somebody else's answer".to_owned()
            }
            Fate::NotServed(error) => error,
        };
        sums.errors += 1;
        // The kinds are few: they come from `in_a_word`.
        *sums.kinds.entry(kind).or_default() += 1;
    }

    pub(crate) fn hold_back(&self, callers: u64) {
        self.inside().sums.held_back += callers;
    }

    pub(crate) fn sums(&self) -> Sums {
        self.inside().sums.clone()
    }

    /// The waits since the last time.
    pub(crate) fn take_waits(&self) -> Waits {
        std::mem::replace(&mut self.inside().waits, no_waits())
    }

    pub(crate) fn zero(&self) {
        self.inside().sums = Sums::default();
    }
}
