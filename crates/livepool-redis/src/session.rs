//! [`SessionState`]: what the scanner knows, for those who cannot reach it.
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
/// Used for something else, or nobody knows what for, or waiting for who knows how long.
const UNUSABLE: u8 = 1 << 4;
/// Everybody who uses it finds what the handshake has made.
const READY: u8 = 1 << 7;

/// More than any refusal has.
const MAX_EARLY: usize = 256;

/// Bits, as they were after the last byte.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    bits: AtomicU8,
    /// What the server said before the handshake was over. Its beginning is enough.
    early: Mutex<Vec<u8>>,
}

impl SessionState {
    /// Begins to read along on this wire, of which nothing was sent or received yet.
    pub(super) fn scan(wire: &Wire, role: Role) -> Arc<Self> {
        let state = Arc::<Self>::default();
        let scanner = RedisScanner::new();
        let (state_of, worst) = (Arc::clone(&state), WorstError::new());
        let scanner = SessionScanner { scanner, state: state_of, role, is_ready: false, worst };
        // The wire lives as long as its ledger would.
        drop(wire.scan(scanner));
        state
    }

    /// The handshake is answered: what it chose is what every user finds.
    pub(super) fn mark_ready(&self) {
        self.bits.fetch_or(READY, Ordering::AcqRel);
        *self.early.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// What the server said first.
    pub(super) fn early_bytes(&self) -> Vec<u8> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_early(&self, bytes: &[u8]) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_EARLY.saturating_sub(early.len());
        early.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether it cannot be made fit for another user, or not soon.
    pub(super) fn is_unusable(&self) -> bool {
        self.has(UNUSABLE)
    }

    /// Whether its next user would notice the last one.
    pub(super) fn needs_reset(&self) -> bool {
        self.has(OWED | TRANSACTION | WATCHING | OTHER_DATABASE)
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.has(TRANSACTION)
    }

    pub(super) fn is_watching(&self) -> bool {
        self.has(WATCHING)
    }

    /// Whether it uses another database than it should.
    pub(super) fn is_database_changed(&self) -> bool {
        self.has(OTHER_DATABASE)
    }

    fn has(&self, any: u8) -> bool {
        self.bits.load(Ordering::Acquire) & any != 0
    }
}

/// The scanner, which tells.
struct SessionScanner {
    scanner: RedisScanner,
    state: Arc<SessionState>,
    role: Role,
    is_ready: bool,
    /// Of the errors that were asked for last.
    worst: WorstError,
}

impl SessionScanner {
    /// Whether the handshake is over.
    fn check_ready(&mut self) -> bool {
        if !self.is_ready && self.state.has(READY) {
            self.is_ready = true;
            self.scanner.handshake_done();
            while self.scanner.take_error().is_some() {}
        }
        self.is_ready
    }

    fn publish(&self) {
        let scanner = &self.scanner;
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        if !self.is_ready {
            self.state.bits.fetch_or(bit(scanner.is_lost(), UNUSABLE), Ordering::AcqRel);
            return;
        }
        let is_lost = scanner.is_lost()
            || scanner.is_subscribed()
            || scanner.is_streaming()
            || scanner.is_identity_changed()
            || scanner.is_blocking_owed();
        let bits = READY
            | bit(scanner.owed() > 0, OWED)
            | bit(scanner.in_transaction(), TRANSACTION)
            | bit(scanner.is_watching(), WATCHING)
            | bit(scanner.is_database_changed(), OTHER_DATABASE)
            | bit(is_lost, UNUSABLE);
        self.state.bits.store(bits, Ordering::Release);
    }
}

impl Scanner for SessionScanner {
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
        // What a handshake is refused for, it says itself.
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
