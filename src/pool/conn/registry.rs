//! The registry: every connection of a pool that is not closed, whatever it is doing.

use std::collections::HashMap;

use crate::event::ConnId;
use crate::pool::conn::entry::{Core, State};
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

/// Reached by background work; it owns nothing. Handles in the store and guards own the cores.
#[derive(Debug, Default)]
pub(in crate::pool) struct Registry {
    /// Looked up, inserted and removed under this lock, nothing else.
    cores: Mutex<HashMap<ConnId, Weak<Core>>>,
}

impl Registry {
    pub(in crate::pool) fn add(&self, core: &Arc<Core>) {
        self.lock().insert(core.id, Arc::downgrade(core));
    }

    pub(in crate::pool) fn remove(&self, id: ConnId) {
        self.lock().remove(&id);
    }

    /// Every connection.
    pub(in crate::pool) fn all(&self) -> Vec<Arc<Core>> {
        // Upgraded cores are never dropped under the lock: dropping the last one locks it again.
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Every idle connection.
    pub(in crate::pool) fn idle(&self) -> Vec<Arc<Core>> {
        let mut all = self.all();
        all.retain(|core| core.is(State::Idle));
        all
    }

    /// Every connection with a user, or on its way from or to one.
    pub(in crate::pool) fn in_use(&self) -> Vec<Arc<Core>> {
        let mut all = self.all();
        all.retain(|core| core.is(State::InUse));
        all
    }

    /// How many are idle.
    pub(in crate::pool) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    /// How many there are of each kind, as of one moment.
    pub(in crate::pool) fn count(&self, slots: &Slots) -> Counts {
        let (all, total, used) = {
            let cores = self.lock();
            let all: Vec<Arc<Core>> = cores.values().filter_map(Weak::upgrade).collect();
            // Read under the lock: a connection has its slot before it is added and until after it
            // is removed, so that the two numbers belong together and their sum is never too high.
            (all, cores.len(), slots.used())
        };
        let idle = all.iter().filter(|core| core.is(State::Idle)).count();
        Counts { idle, in_use: total - idle, connecting: used - total }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnId, Weak<Core>>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
