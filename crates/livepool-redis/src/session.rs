//! [`State`]: what the scanner knows, for those who cannot reach it.
//!
//! The scanner reads along inside the connection, under its lock. A pool that asks whether the
//! connection may be reused looks here.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::RedisScanner;
use super::classify::Worst;
use super::settings::Role;
use livepool::protocol::Verdict;
use livepool::protocol::{Scanner, Wire};

const OWED: u8 = 1;
const TRANSACTION: u8 = 1 << 1;
const WATCHING: u8 = 1 << 2;
const ELSEWHERE: u8 = 1 << 3;
/// Used for something else, or nobody knows what for, or waiting for who knows how long.
const LOST: u8 = 1 << 4;
/// Everybody who uses it finds what the handshake has made.
const GREETED: u8 = 1 << 7;

/// More than any refusal has.
const MOST_HEARD: usize = 256;

/// Bits, as they were after the last byte.
#[derive(Debug, Default)]
pub(super) struct State {
    bits: AtomicU8,
    /// What the server said before the handshake was over. Its beginning is enough.
    heard: Mutex<Vec<u8>>,
}

impl State {
    /// Begins to read along on this wire, of which nothing was sent or received yet.
    pub(super) fn along(wire: &Wire, role: Role) -> Arc<Self> {
        let state = Arc::<Self>::default();
        let scanner = RedisScanner::new();
        let (state_of, worst) = (Arc::clone(&state), Worst::new());
        let along = Along { scanner, state: state_of, role, is_greeted: false, worst };
        // The wire lives as long as its ledger would.
        drop(wire.scan(along));
        state
    }

    /// The handshake is answered: what it chose is what every user finds.
    pub(super) fn greeted(&self) {
        self.bits.fetch_or(GREETED, Ordering::AcqRel);
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// What the server said first.
    pub(super) fn first_words(&self) -> Vec<u8> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, bytes: &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST_HEARD.saturating_sub(heard.len());
        heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether it cannot be made fit for another user, or not soon.
    pub(super) fn is_beyond_repair(&self) -> bool {
        self.has(LOST)
    }

    /// Whether its next user would notice the last one.
    pub(super) fn needs_repair(&self) -> bool {
        self.has(OWED | TRANSACTION | WATCHING | ELSEWHERE)
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.has(TRANSACTION)
    }

    pub(super) fn is_watching(&self) -> bool {
        self.has(WATCHING)
    }

    /// Whether it uses another database than it should.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.has(ELSEWHERE)
    }

    fn has(&self, any: u8) -> bool {
        self.bits.load(Ordering::Acquire) & any != 0
    }
}

/// The scanner, which tells.
struct Along {
    scanner: RedisScanner,
    state: Arc<State>,
    role: Role,
    is_greeted: bool,
    /// Of the errors that were asked for last.
    worst: Worst,
}

impl Along {
    /// Whether the handshake is over.
    fn is_greeted(&mut self) -> bool {
        if !self.is_greeted && self.state.has(GREETED) {
            self.is_greeted = true;
            self.scanner.handshake_done();
            while self.scanner.take_error().is_some() {}
        }
        self.is_greeted
    }

    fn tell(&self) {
        let scanner = &self.scanner;
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        if !self.is_greeted {
            self.state.bits.fetch_or(bit(scanner.is_lost(), LOST), Ordering::AcqRel);
            return;
        }
        let is_lost = scanner.is_lost()
            || scanner.is_subscribed()
            || scanner.is_streaming()
            || scanner.is_identity_changed()
            || scanner.is_blocking_owed();
        let bits = GREETED
            | bit(scanner.owed() > 0, OWED)
            | bit(scanner.in_transaction(), TRANSACTION)
            | bit(scanner.is_watching(), WATCHING)
            | bit(scanner.is_database_changed(), ELSEWHERE)
            | bit(is_lost, LOST);
        self.state.bits.store(bits, Ordering::Release);
    }
}

impl Scanner for Along {
    fn sent(&mut self, bytes: &[u8]) {
        self.is_greeted();
        self.scanner.sent(bytes);
        self.tell();
    }

    fn received(&mut self, bytes: &[u8]) {
        if !self.is_greeted() {
            self.state.hear(bytes);
        }
        self.scanner.received(bytes);
        self.tell();
    }

    fn owed(&self) -> usize {
        self.scanner.owed()
    }

    fn is_patient(&self) -> bool {
        self.scanner.is_blocking_owed()
    }

    fn verdict(&mut self) -> Verdict {
        self.worst = Worst::new();
        // What a handshake is refused for, it says itself.
        while self.is_greeted
            && let Some(code) = self.scanner.take_error()
        {
            self.worst.note(code, self.role);
        }
        self.worst.consequence
    }

    fn code(&self) -> Option<String> {
        self.worst.code()
    }

    fn longest(&mut self) -> u64 {
        self.scanner.longest()
    }
}
