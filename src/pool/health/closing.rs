//! Connections that are to be closed, one by one between other work.
//!
//! Closing a socket costs about 10 µs. A thread that meets very many that have to go (in a
//! checkout, in `close`, after a mass death) closes a few in its own time and leaves the others to
//! the maintenance task. A connection keeps its slot until it is closed.

use crate::event::CloseReason;
use crate::pool::conn::entry::Entry;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::sync::Arc;

/// The most connections that a caller closes in its own time. A model has few connections.
pub(in crate::pool) const MOST_CLOSED: usize = if cfg!(shuttle) { 1 } else { 64 };

/// A connection that nobody uses any more. Dropping this closes the connection.
#[derive(Debug)]
pub(in crate::pool) struct DeferredClose {
    pool: Arc<PoolInner>,
    entry: Arc<Entry>,
    /// Always there until then.
    conn: Option<Conn>,
    reason: CloseReason,
}

impl DeferredClose {
    /// Only for whoever has the connection's stream.
    pub(in crate::pool) fn new(
        pool: &Arc<PoolInner>,
        entry: Arc<Entry>,
        conn: Conn,
        reason: CloseReason,
    ) -> Self {
        Self { pool: Arc::clone(pool), entry, conn: Some(conn), reason }
    }
}

impl Drop for DeferredClose {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.finish(&self.entry, conn, self.reason, None);
        }
    }
}
