//! Connections that are to be closed, one by one between other work.
//!
//! Closing a socket costs about 10 µs. Whoever meets very many that have to go (a checkout, `close`,
//! a mass death) closes a few in its own time and leaves the others here, for the maintenance task.
//! Each keeps its slot until it is closed.

use crate::sync::{Arc, Mutex, PoisonError};

use crate::event::CloseReason;
use crate::pool::conn::entry::Entry;
use crate::stream::Conn;

/// Connections that nobody uses any more and that are not closed yet.
#[derive(Debug, Default)]
pub(in crate::pool) struct Closing {
    /// Pushed and taken under this lock, nothing else.
    left: Mutex<Vec<Ending>>,
}

impl Closing {
    pub(in crate::pool) fn add(&self, ending: Ending) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(ending);
    }

    /// All of them. Whoever drops one closes it.
    pub(in crate::pool) fn take(&self) -> Vec<Ending> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One connection. It is closed when this is dropped.
#[derive(Debug)]
pub(in crate::pool) struct Ending {
    entry: Arc<Entry>,
    /// Always there until then.
    conn: Option<Conn>,
    reason: CloseReason,
}

impl Ending {
    /// Only for whoever owns the connection's stream.
    pub(in crate::pool) fn new(entry: Arc<Entry>, conn: Conn, reason: CloseReason) -> Self {
        Self { entry, conn: Some(conn), reason }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.entry.close(conn, self.reason, None);
        }
    }
}
