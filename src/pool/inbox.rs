//! [`Inbox`]: what callers leave to the background tasks of a pool.

use std::fmt;

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// Filled by anybody, emptied by one task. Once it is closed nothing gets in: nothing that holds a
/// connection outlives its pool in here.
pub(in crate::pool) struct Inbox<T> {
    /// Pushed and taken under this lock, nothing else: nothing is dropped here.
    contents: Mutex<Contents<T>>,
}

struct Contents<T> {
    items: Vec<T>,
    is_closed: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { contents: Mutex::new(Contents { items: Vec::new(), is_closed: false }) }
    }
}

impl<T> Inbox<T> {
    /// Leaves this here. Returns it if the inbox is closed.
    pub(in crate::pool) fn push(&self, item: T) -> Result<(), T> {
        let mut contents = self.lock();
        if contents.is_closed {
            return Err(item);
        }
        contents.items.push(item);
        Ok(())
    }

    /// Takes all items.
    pub(in crate::pool) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().items)
    }

    /// Lets nothing in from now on. Returns all that is here.
    pub(in crate::pool) fn close(&self) -> Vec<T> {
        let mut contents = self.lock();
        contents.is_closed = true;
        std::mem::take(&mut contents.items)
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}
