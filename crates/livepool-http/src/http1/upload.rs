//! [`Upload`]: how far the request on a connection has been sent, and who is waited for.
//!
//! hyper tells nobody. But it drops a body whose end it has taken in, and it flushes its connection
//! when everything it had to write is written: what is flushed behind that drop is the whole request.

use std::time::Duration;

use livepool::protocol::Ledger;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The progress of the request on a connection, kept for the connection's life.
#[derive(Debug)]
pub(super) struct Upload {
    stage: AtomicU8,
    /// A number that changes whenever the server takes bytes.
    writes: AtomicUsize,
    ledger: Ledger,
}

/// The body may have more to come.
const BODY_OPEN: u8 = 0;
/// hyper has all of it, and may have to write some.
const BODY_TAKEN: u8 = 1;
/// The request is in the server's kernel, or in ours.
const SENT: u8 = 2;

/// The default time for which the source of a body may pause once nobody waits for the response: 5
/// minutes.
pub(crate) const DEFAULT_LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Upload {
    pub(super) fn new(ledger: Ledger) -> Arc<Self> {
        let (stage, writes) = (AtomicU8::new(SENT), AtomicUsize::new(0));
        Arc::new(Self { stage, writes, ledger })
    }

    /// Begins a request. The returned value is for its body to hold.
    pub(super) fn begin(self: &Arc<Self>) -> UploadSource {
        self.stage.store(BODY_OPEN, Ordering::Release);
        UploadSource(Arc::clone(self))
    }

    /// Records that the server took bytes.
    pub(super) fn note_write(&self) {
        let writes = self.writes.load(Ordering::Relaxed).wrapping_add(1);
        // Only the task that drives the connection writes, so load and store need not be one step.
        self.writes.store(writes, Ordering::Relaxed);
    }

    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    /// Records that hyper has flushed its buffers.
    pub(super) fn note_flush(&self) {
        // A flush before the body's end leaves some of the request behind.
        if self.stage.load(Ordering::Acquire) == BODY_TAKEN {
            self.stage.store(SENT, Ordering::Release);
        }
    }

    /// Whether the server has, or will get, all of the request without anybody's doing.
    pub(super) fn is_sent(&self) -> bool {
        self.stage.load(Ordering::Acquire) == SENT
    }
}

/// The body of the request that is on a connection. hyper drops it when it has taken in its end.
#[derive(Debug)]
pub(crate) struct UploadSource(Arc<Upload>);

impl UploadSource {
    /// Says whether the source has no data now. Meanwhile the read timeout pauses: the server waits
    /// for us, though an answer is owed.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        self.0.ledger.set_patient(is_paused);
    }
}

impl Drop for UploadSource {
    fn drop(&mut self) {
        // From here on the server has all that it needs, so the read timeout runs.
        self.set_paused(false);
        self.0.stage.store(BODY_TAKEN, Ordering::Release);
    }
}
