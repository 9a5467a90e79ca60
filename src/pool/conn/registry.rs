//! The registry: every connection of a pool that is not closed, whatever it is doing.

use std::collections::HashMap;

use crate::event::ConnId;
use crate::pool::conn::entry::{Entry, State};
use crate::pool::dial::slots::Slots;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How many connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct Counts {
    pub(in crate::pool) idle: usize,
    /// With a user, on the way to or from one, or being looked at.
    pub(in crate::pool) in_use: usize,
    /// Slots without a connection: a dial is under way, or the slot is about to be given back.
    pub(in crate::pool) connecting: usize,
}

/// Reached by background work; it owns nothing. Handles in the idle set and guards own the entries.
#[derive(Debug, Default)]
pub(in crate::pool) struct Registry {
    /// Looked up, inserted and removed under this lock, nothing else.
    entries: Mutex<HashMap<ConnId, Weak<Entry>>>,
}

impl Registry {
    pub(in crate::pool) fn add(&self, entry: &Arc<Entry>) {
        self.lock().insert(entry.id, Arc::downgrade(entry));
    }

    pub(in crate::pool) fn remove(&self, id: ConnId) {
        self.lock().remove(&id);
    }

    /// This connection, if it is known.
    pub(in crate::pool) fn get(&self, id: ConnId) -> Option<Arc<Entry>> {
        self.lock().get(&id).and_then(Weak::upgrade)
    }

    pub(in crate::pool) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Every connection.
    pub(in crate::pool) fn all(&self) -> Vec<Arc<Entry>> {
        // Upgraded entries are never dropped under the lock: dropping the last one locks it again.
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Every idle connection.
    pub(in crate::pool) fn idle(&self) -> Vec<Arc<Entry>> {
        let mut all = self.all();
        all.retain(|entry| entry.is(State::Idle));
        all
    }

    /// Every connection with a user, or on its way from or to one.
    pub(in crate::pool) fn in_use(&self) -> Vec<Arc<Entry>> {
        let mut all = self.all();
        all.retain(|entry| entry.is(State::InUse));
        all
    }

    /// How many are idle.
    pub(in crate::pool) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    /// How many there are of each kind, as of one moment.
    pub(in crate::pool) fn count(&self, slots: &Slots) -> Counts {
        let (all, total, used) = {
            let entries = self.lock();
            let all: Vec<Arc<Entry>> = entries.values().filter_map(Weak::upgrade).collect();
            // Read under the lock: a connection has its slot before it is added and until after it
            // is removed, so that the two numbers belong together and their sum is never too high.
            (all, entries.len(), slots.used())
        };
        // Counted outside of the lock: ten thousand states are as many reads from memory.
        let idle = all.iter().filter(|entry| entry.is(State::Idle)).count();
        Counts { idle, in_use: total - idle, connecting: used - total }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnId, Weak<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
