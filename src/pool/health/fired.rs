//! The fired_queue of the maintenance task: connections whose sentinel fired.

use crate::sync::{Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::pool::conn::entry::Entry;

/// Filled by wakers on whatever thread the reactor runs, emptied by the one maintenance task. It
/// keeps no connection alive.
#[derive(Debug, Default)]
pub(in crate::pool) struct FiredQueue {
    /// Pushed and taken under this lock, nothing else.
    fired: Mutex<Vec<Weak<Entry>>>,
    notify: Notify,
}

impl FiredQueue {
    pub(in crate::pool) fn push(&self, entry: Weak<Entry>) {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        self.notify.notify_one();
    }

    pub(in crate::pool) fn take(&self) -> Vec<Weak<Entry>> {
        std::mem::take(&mut *self.fired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the maintenance task to look at everything else: the pool was closed, say.
    pub(in crate::pool) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Resolves when something was pushed. One task waits here.
    pub(in crate::pool) async fn filled(&self) {
        self.notify.notified().await;
    }
}
