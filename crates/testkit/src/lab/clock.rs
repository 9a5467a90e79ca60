//! Packets on their way: what arrives when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::network::Port;

/// Ordered by arrival. Of those that arrive at the same time, the one sent first is the first.
#[derive(Default)]
pub(super) struct Clock {
    travelling: BTreeMap<(Instant, u64), (Arc<Port>, Vec<u8>)>,
    sent: u64,
}

impl Clock {
    pub(super) fn send(&mut self, due: Instant, to: Arc<Port>, bytes: Vec<u8>) {
        self.sent += 1;
        self.travelling.insert((due, self.sent), (to, bytes));
    }

    /// When the next one arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.travelling.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes one that has arrived by now. Never one too early: the delay is a lower bound.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<(Arc<Port>, Vec<u8>)> {
        if self.next()? > now {
            return None;
        }
        self.travelling.pop_first().map(|(_, packet)| packet)
    }
}
