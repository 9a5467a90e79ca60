//! The registry: every connection of a pool that is not closed, whatever it is doing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::core::{Core, State};
use crate::event::ConnId;

/// Reached by background work; it owns nothing. Handles in the store and guards own the cores.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Looked up, inserted and removed under this lock, nothing else.
    cores: Mutex<HashMap<ConnId, Weak<Core>>>,
}

impl Registry {
    pub(super) fn add(&self, core: &Arc<Core>) {
        self.lock().insert(core.id, Arc::downgrade(core));
    }

    pub(super) fn remove(&self, id: ConnId) {
        self.lock().remove(&id);
    }

    /// Every idle connection, and how many are in use or on their way.
    pub(super) fn idle(&self) -> (Vec<Arc<Core>>, usize) {
        // Upgraded cores are never dropped under the lock: dropping the last one locks it again.
        let all: Vec<Arc<Core>> = self.lock().values().filter_map(Weak::upgrade).collect();
        let total = all.len();
        let idle: Vec<_> = all.into_iter().filter(|core| core.is(State::Idle)).collect();
        let busy = total - idle.len();
        (idle, busy)
    }

    /// How many are idle, and how many are in use.
    pub(super) fn count(&self) -> (usize, usize) {
        let (idle, busy) = self.idle();
        (idle.len(), busy)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnId, Weak<Core>>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
