//! [`Numbers`]: names for pools that come and go, of which there are never more than pools at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers from 1 on; each is one pool's while it lives, and another one's then. A pool's name is a label of
/// metrics: two with one name would overwrite each other's gauges, and names of addresses would never end.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Arc<Mutex<BTreeSet<usize>>>);

impl Numbers {
    /// The lowest that is free.
    pub(super) fn take(&self) -> Number {
        let mut taken = self.lock();
        let free = (1..).zip(taken.iter()).find(|(number, taken)| number != *taken);
        let number = free.map_or(taken.len() + 1, |(number, _)| number);
        taken.insert(number);
        drop(taken);
        Number { number, numbers: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Number {
    number: usize,
    numbers: Numbers,
}

impl Number {
    /// The name of the pool that has it.
    pub(super) fn name(&self, of: &str) -> String {
        format!("{of} {}", self.number)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.numbers.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_anothers_only_when_its_owner_is_gone() {
        let numbers = Numbers::default();
        let [first, second, third] = [(); 3].map(|()| numbers.take());
        assert_eq!([first.name("a"), second.name("a"), third.name("a")], ["a 1", "a 2", "a 3"]);
        drop(second);
        let again = numbers.take();
        assert_eq!((again.name("a"), numbers.take().name("a")), ("a 2".into(), "a 4".into()));
        drop(first);
        assert_eq!(numbers.take().name("a"), "a 1");
    }
}
