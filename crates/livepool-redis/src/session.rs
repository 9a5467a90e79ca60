//! [`SessionState`]: the session as the scanner sees it, readable without the stream's lock.
//!
//! The scanner reads along inside the connection, under its lock. A pool that asks whether the
//! connection may be reused looks here.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::RedisScanner;
use super::classify::WorstError;
use super::settings::Role;
use livepool::protocol::Verdict;
use livepool::protocol::{Scanner, Wire};

const OWED: u8 = 1;
const TRANSACTION: u8 = 1 << 1;
const WATCHING: u8 = 1 << 2;
const OTHER_DATABASE: u8 = 1 << 3;
/// The connection is subscribed, monitoring, out of step, or in a command that waits.
const UNUSABLE: u8 = 1 << 4;
/// The connection has another user, name or protocol than the handshake chose.
const OTHER_IDENTITY: u8 = 1 << 5;
/// Every user has to find it with the identity it has now; for the scanner.
const SETTLED: u8 = 1 << 6;
/// The handshake is over.
const READY: u8 = 1 << 7;

/// The bytes kept of what a server sends before the handshake is over: more than any refusal has.
const MAX_EARLY: usize = 256;

/// The state of a session after the last byte that was scanned.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    bits: AtomicU8,
    /// The first bytes that the server sent, until the handshake is over.
    early: Mutex<Vec<u8>>,
}

impl SessionState {
    /// Attaches a scanner to this wire, on which nothing was sent or received yet.
    pub(super) fn scan(wire: &Wire, role: Role) -> Arc<Self> {
        let state = Arc::<Self>::default();
        let scanner = RedisScanner::new();
        let (state_of, worst) = (Arc::clone(&state), WorstError::new());
        let scanner = ConnectionScanner { scanner, state: state_of, role, is_ready: false, worst };
        // Only the scanner itself is needed here: the wire lives as long as its ledger would.
        drop(wire.scan(scanner));
        state
    }

    /// Ends the handshake. The scanner notices at its next byte.
    pub(super) fn mark_ready(&self) {
        self.bits.fetch_or(READY, Ordering::AcqRel);
        // The bytes are of no use any more, and every idle connection would keep them.
        *self.early.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// The first bytes that the server sent.
    pub(super) fn early_bytes(&self) -> Vec<u8> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_early(&self, bytes: &[u8]) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_EARLY.saturating_sub(early.len());
        early.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether no reset makes the connection fit for another user, or not soon.
    pub(super) fn is_unusable(&self) -> bool {
        self.has(UNUSABLE | OTHER_IDENTITY)
    }

    /// Whether several may use the connection: none of them has changed it for the others. The
    /// transactions of atomic pipelines come and go.
    pub(super) fn is_shareable(&self) -> bool {
        !self.has(UNUSABLE | OTHER_IDENTITY | WATCHING | OTHER_DATABASE)
    }

    /// Whether the next user of the connection would notice the last one.
    pub(super) fn needs_reset(&self) -> bool {
        self.has(OWED | TRANSACTION | WATCHING | OTHER_DATABASE)
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.has(TRANSACTION)
    }

    pub(super) fn is_watching(&self) -> bool {
        self.has(WATCHING)
    }

    /// Whether the session uses another database than the settings name.
    pub(super) fn is_database_changed(&self) -> bool {
        self.has(OTHER_DATABASE)
    }

    /// Every user has to find the connection with the user, the name and the protocol that it has now.
    /// Nobody uses it.
    pub(super) fn settle(&self) {
        self.bits.fetch_or(SETTLED, Ordering::AcqRel);
        self.bits.fetch_and(!OTHER_IDENTITY, Ordering::AcqRel);
    }

    fn has(&self, any: u8) -> bool {
        self.bits.load(Ordering::Acquire) & any != 0
    }
}

/// The scanner of a connection, which publishes the state after each piece of bytes.
struct ConnectionScanner {
    scanner: RedisScanner,
    state: Arc<SessionState>,
    role: Role,
    is_ready: bool,
    /// The worst of the errors that the last verdict was about.
    worst: WorstError,
}

impl ConnectionScanner {
    /// Learns whether the handshake is over, and returns it.
    fn check_ready(&mut self) -> bool {
        if !self.is_ready && self.state.has(READY) {
            self.is_ready = true;
            self.scanner.handshake_done();
            // The handshake reports its own errors; they must not count against the pool.
            while self.scanner.take_error().is_some() {}
        }
        if self.state.has(SETTLED) {
            // The bit goes when this is published.
            self.scanner.settle_identity();
        }
        self.is_ready
    }

    fn publish(&self) {
        let scanner = &self.scanner;
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        if !self.is_ready {
            // Or, not store: the client may set READY at the same moment.
            self.state.bits.fetch_or(bit(scanner.is_lost(), UNUSABLE), Ordering::AcqRel);
            return;
        }
        let is_lost = scanner.is_lost()
            || scanner.is_subscribed()
            || scanner.is_streaming()
            || scanner.is_blocking_owed();
        let bits = READY
            | bit(scanner.owed() > 0, OWED)
            | bit(scanner.in_transaction(), TRANSACTION)
            | bit(scanner.is_watching(), WATCHING)
            | bit(scanner.is_database_changed(), OTHER_DATABASE)
            | bit(scanner.is_identity_changed(), OTHER_IDENTITY)
            | bit(is_lost, UNUSABLE);
        // Release, so that whoever sees the bits sees the answers they are about.
        self.state.bits.store(bits, Ordering::Release);
    }
}

impl Scanner for ConnectionScanner {
    fn sent(&mut self, bytes: &[u8]) {
        self.check_ready();
        self.scanner.sent(bytes);
        self.publish();
    }

    fn received(&mut self, bytes: &[u8]) {
        if !self.check_ready() {
            self.state.keep_early(bytes);
        }
        self.scanner.received(bytes);
        self.publish();
    }

    fn owed(&self) -> usize {
        self.scanner.owed()
    }

    fn is_patient(&self) -> bool {
        self.scanner.is_blocking_owed()
    }

    fn verdict(&mut self) -> Verdict {
        self.worst = WorstError::new();
        // The handshake reports its own errors.
        while self.is_ready
            && let Some(code) = self.scanner.take_error()
        {
            self.worst.record(code, self.role);
        }
        self.worst.verdict
    }

    fn code(&self) -> Option<String> {
        self.worst.code()
    }

    fn longest(&mut self) -> u64 {
        self.scanner.longest()
    }
}
