//! The fired queue: connections whose sentinel fired, for the maintenance task.

use tokio::sync::Notify;

use crate::pool::inbox::Inbox;

/// Filled by wakers on whatever thread the reactor runs, emptied by the one maintenance task. The
/// queue keeps no connection alive.
#[derive(Debug)]
pub(in crate::pool) struct FiredQueue<T> {
    fired: Inbox<T>,
    notify: Notify,
}

impl<T> Default for FiredQueue<T> {
    fn default() -> Self {
        Self { fired: Inbox::default(), notify: Notify::new() }
    }
}

impl<T> FiredQueue<T> {
    pub(in crate::pool) fn push(&self, entry: T) {
        // It is never closed.
        let _ = self.fired.push(entry);
        self.notify.notify_one();
    }

    pub(in crate::pool) fn take(&self) -> Vec<T> {
        self.fired.take()
    }

    /// Wakes the maintenance task to look at everything else: the pool was closed, say.
    pub(in crate::pool) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Resolves when something was pushed. Only the maintenance task waits here.
    pub(in crate::pool) async fn filled(&self) {
        self.notify.notified().await;
    }
}
