//! [`Generation`]: connections older than the current one are not used again.

use std::ops::Deref;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::event::CloseReason;

/// A number that rises when everything made so far is to be given up, and why it last rose. Of a
/// pool, or of one of its peers.
#[derive(Debug, Default)]
pub(in crate::pool) struct Generation(AtomicU64);

/// The number, above the reason's eight bits: one word, so that neither is seen without the other.
const ONE: u64 = 1 << 8;

impl Generation {
    /// The generation of connections that are made now.
    pub(in crate::pool) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire) / ONE
    }

    /// Ends the current one.
    pub(in crate::pool) fn end(&self, why: CloseReason) {
        // Again if another thread ended it meanwhile: this call is later, and its reason counts.
        while !self.end_of(self.now(), why) {}
    }

    /// Ends this one, unless it has ended already. Returns whether it did.
    pub(in crate::pool) fn end_of(&self, generation: u64, why: CloseReason) -> bool {
        let current = self.0.load(Ordering::Acquire);
        let next = (generation + 1) * ONE + why as u64;
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        current / ONE == generation && self.0.compare_exchange(current, next, order, failed).is_ok()
    }

    /// Why what was made in this generation must not be used again, if so.
    pub(in crate::pool) fn ended(&self, generation: u64) -> Option<CloseReason> {
        let current = self.0.load(Ordering::Acquire);
        if current / ONE == generation {
            return None;
        }
        CloseReason::from_index((current % ONE) as u8)
    }
}

/// The generation of a pool, which may be paused: then whatever comes back is closed.
#[derive(Debug, Default)]
pub(in crate::pool) struct PoolGeneration {
    current: Generation,
    paused: AtomicBool,
}

impl PoolGeneration {
    pub(in crate::pool) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    pub(in crate::pool) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Why a connection of this generation must not be used again, if so.
    #[inline]
    pub(in crate::pool) fn retired(&self, generation: u64) -> Option<CloseReason> {
        if self.is_paused() { Some(CloseReason::Paused) } else { self.current.ended(generation) }
    }
}

impl Deref for PoolGeneration {
    type Target = Generation;

    fn deref(&self) -> &Generation {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CloseReason::{Drained, Paused};

    #[test]
    fn what_was_made_before_its_end_must_not_be_used_and_the_reason_is_that_of_the_end() {
        let generation = Generation::default();
        let old = generation.now();
        assert_eq!(generation.ended(old), None);
        generation.end(Drained);
        assert_eq!(generation.ended(old), Some(Drained));
        assert_eq!(generation.ended(generation.now()), None);
    }

    #[test]
    fn a_generation_ends_once() {
        let generation = Generation::default();
        let old = generation.now();
        assert!(generation.end_of(old, Paused));
        assert!(!generation.end_of(old, Drained));
        assert_eq!(generation.ended(old), Some(Paused), "the reason stays");
    }
}
