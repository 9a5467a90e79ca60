//! Reads along with a PostgreSQL client: what is owed, in what transaction the connection is, and
//! which errors concern all connections.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::collections::VecDeque;

use super::frames::{Frames, Lost};
use crate::stream::{Consequence, Scanner, Unread};

/// Of the session, as the last `ReadyForQuery` said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Transaction {
    #[default]
    Unknown,
    None,
    Open,
    /// It takes nothing but its end.
    Failed,
}

/// What a `ReadyForQuery` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// The start, a simple query, a function call.
    Simple,
    /// Messages of the extended protocol, up to their `Sync`.
    Batch,
}

/// How a `CancelRequest` names a session.
pub(super) type BackendKey = Vec<u8>;

/// Counts `ReadyForQuery` against what asks for one.
#[derive(Debug)]
pub(super) struct PgScanner {
    sent: Frames,
    received: Frames,
    owed: VecDeque<Unit>,
    /// Messages of the extended protocol went out, and no `Sync` yet.
    is_batch_open: bool,
    /// The server waits for data, or for their end.
    is_copying_in: bool,
    transaction: Transaction,
    is_listening: bool,
    is_lost: bool,
    /// The pool's own queries at the beginning are over.
    is_begun: bool,
    key: BackendKey,
    consequence: Option<Consequence>,
}

impl PgScanner {
    pub(super) fn new() -> Self {
        Self {
            sent: Frames::from_startup(),
            received: Frames::typed(),
            owed: VecDeque::new(),
            is_batch_open: false,
            is_copying_in: false,
            transaction: Transaction::Unknown,
            is_listening: false,
            is_lost: false,
            is_begun: false,
            key: Vec::new(),
            consequence: None,
        }
    }

    /// The connection is handed out from now on.
    pub(super) fn begin(&mut self) {
        self.is_begun = true;
    }

    pub(super) fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// Whether the session may have subscriptions.
    pub(super) fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// They are gone.
    pub(super) fn forget_listening(&mut self) {
        self.is_listening = false;
    }

    /// Whether something passed here that is not understood.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether the server works for a caller.
    pub(super) fn is_busy(&self) -> bool {
        self.is_begun && self.owed() > 0
    }

    pub(super) fn key(&self) -> &BackendKey {
        &self.key
    }

    fn message_sent(&mut self, kind: u8, head: &[u8]) {
        match kind {
            0 | b'F' => self.owed.push_back(Unit::Simple),
            b'Q' => {
                self.owed.push_back(Unit::Simple);
                self.look_at(head);
            }
            // While data are copied in, the server ignores it.
            b'S' if self.is_copying_in => {}
            b'S' => {
                self.is_batch_open = false;
                self.owed.push_back(Unit::Batch);
            }
            b'P' => {
                self.is_batch_open = true;
                // The statement's name, then its text.
                let text = head.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
                self.look_at(text);
            }
            b'B' | b'D' | b'E' | b'C' | b'H' => self.is_batch_open = true,
            b'c' | b'f' => self.is_copying_in = false,
            _ => {}
        }
    }

    fn look_at(&mut self, sql: &[u8]) {
        let word: Vec<u8> = sql.trim_ascii_start().iter().take(6).copied().collect();
        self.is_listening |= word.eq_ignore_ascii_case(b"LISTEN");
    }

    fn message_received(&mut self, kind: u8, head: &[u8]) {
        match kind {
            b'Z' => {
                self.is_lost |= self.owed.pop_front().is_none();
                self.is_copying_in = false;
                self.transaction = match head.first() {
                    Some(b'I') => Transaction::None,
                    Some(b'T') => Transaction::Open,
                    Some(b'E') => Transaction::Failed,
                    _ => Transaction::Unknown,
                };
            }
            b'G' | b'W' => {
                self.is_copying_in = true;
                // Its Sync is on its way, and will be ignored: another one has to follow the data.
                if self.owed.front() == Some(&Unit::Batch) {
                    self.owed.pop_front();
                    self.is_batch_open = true;
                }
            }
            b'E' => {
                self.is_copying_in = false;
                let is_asked_for = self.owed() > 0;
                let consequence = fields(head, b'C').map_or(Consequence::Keep, consequence_of);
                // What comes unasked is the goodbye of this one connection.
                if self.is_begun && is_asked_for && consequence != Consequence::Keep {
                    self.consequence = Some(consequence);
                }
            }
            b'K' => self.key = head.to_vec(),
            _ => {}
        }
    }

    fn is_lost_if(&mut self, result: Result<(), Lost>) {
        self.is_lost |= result.is_err();
    }
}

/// The value of this field of an error.
fn fields(error: &[u8], field: u8) -> Option<&[u8]> {
    error.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(&[field]))
}

/// What an error says about the connections, by its SQLSTATE.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub(super) fn consequence_of(code: &[u8]) -> Consequence {
    match code {
        // Read-only now: the primary is elsewhere. Or it is shut down, has crashed, or starts up.
        b"25006" | b"57P01" | b"57P02" | b"57P03" => Consequence::Invalidate,
        // The database was dropped, the session timed out; or the server has no memory, disk or
        // connections left, or is broken.
        b"57P04" | b"57P05" | b"25P03" | b"25P04" => Consequence::Evict,
        [b'0', b'8', ..] | [b'X', b'X', ..] | [b'5', b'3', ..] | [b'5', b'8', ..] => {
            Consequence::Evict
        }
        _ => Consequence::Keep,
    }
}

/// What came while nobody used the connection: notifications, parameters and notices may; an error is
/// a goodbye.
pub(super) fn unread(bytes: &[u8]) -> Unread {
    let mut rest = bytes;
    while let Some((kind, after)) = rest.split_first() {
        match kind {
            b'A' | b'S' | b'N' => {}
            b'E' => return Unread::Goodbye,
            _ => return Unread::Dirty,
        }
        let Some((length, _)) = after.split_first_chunk::<4>() else { return Unread::Keep };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        if length < 4 {
            return Unread::Dirty;
        }
        rest = after.get(length..).unwrap_or_default();
    }
    Unread::Keep
}

impl Scanner for PgScanner {
    fn sent(&mut self, bytes: &[u8]) {
        let mut frames = std::mem::replace(&mut self.sent, Frames::typed());
        let result = frames.read(bytes, |kind, head| self.message_sent(kind, head));
        self.sent = frames;
        self.is_lost_if(result);
    }

    fn received(&mut self, bytes: &[u8]) {
        let mut frames = std::mem::replace(&mut self.received, Frames::typed());
        let result = frames.read(bytes, |kind, head| self.message_received(kind, head));
        self.received = frames;
        self.is_lost_if(result);
    }

    fn owed(&self) -> usize {
        let unfinished = self.is_batch_open || !self.sent.is_between();
        self.owed.len() + usize::from(unfinished)
    }

    fn is_patient(&self) -> bool {
        self.is_copying_in
    }

    fn consequence(&mut self) -> Consequence {
        self.consequence.take().unwrap_or(Consequence::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn startup() -> Vec<u8> {
        message(0, b"\0\x03\0\0user\0postgres\0\0")[1..].to_vec()
    }

    fn ready(status: u8) -> Vec<u8> {
        message(b'Z', &[status])
    }

    fn error(severity: &str, code: &str) -> Vec<u8> {
        let long = "x".repeat(2_000);
        message(b'E', format!("S{severity}\0V{severity}\0C{code}\0Mno\0D{long}\0\0").as_bytes())
    }

    /// A session that has begun.
    fn session() -> PgScanner {
        let mut scanner = PgScanner::new();
        scanner.sent(&startup());
        scanner.received(&[message(b'R', &[0; 4]), message(b'K', b"\0\0\0\x07abcd")].concat());
        assert_eq!(scanner.owed(), 1);
        scanner.received(&ready(b'I'));
        scanner.begin();
        scanner
    }

    /// What went over the wire, in order: sent (true) or received, and what is owed afterwards.
    type Steps<'a> = &'a [(bool, Vec<u8>, usize)];

    fn follow(steps: Steps<'_>) -> PgScanner {
        for size in [1, 2, 3, 5, 7, 64, 100_000] {
            let mut scanner = session();
            for (index, (is_sent, bytes, owed)) in steps.iter().enumerate() {
                for piece in bytes.chunks(size) {
                    if *is_sent { scanner.sent(piece) } else { scanner.received(piece) }
                }
                assert_eq!(scanner.owed(), *owed, "step {index} in pieces of {size}");
            }
            assert!(!scanner.is_lost());
            if size == 100_000 {
                return scanner;
            }
        }
        unreachable!("the last size returns")
    }

    #[test]
    fn a_session_begins_with_its_key_and_no_transaction() {
        let scanner = session();
        assert_eq!(scanner.key(), b"\0\0\0\x07abcd");
        assert_eq!((scanner.owed(), scanner.transaction()), (0, Transaction::None));
    }

    #[test]
    fn a_simple_query_is_owed_until_the_server_is_ready() {
        let row = message(b'D', &vec![7; 70_000]);
        let scanner = follow(&[
            (true, message(b'Q', b"BEGIN; SELECT 1\0"), 1),
            (false, row, 1),
            (false, message(b'C', b"SELECT 1\0"), 1),
            (false, message(b'A', b"\0\0\0\x01news\0\0"), 1),
            (false, ready(b'T'), 0),
        ]);
        assert_eq!(scanner.transaction(), Transaction::Open);
    }

    #[test]
    fn a_batch_is_owed_before_and_after_its_sync() {
        let failed = follow(&[
            (true, message(b'P', b"s1\0SELECT $1\0\0\0"), 1),
            (true, message(b'B', b"\0s1\0\0\0\0\0\0\0"), 1),
            (true, message(b'E', b"\0\0\0\0\0"), 1),
            (true, message(b'S', b""), 1),
            (true, message(b'Q', b"SELECT 2\0"), 2),
            (false, error("ERROR", "42601"), 2),
            (false, ready(b'E'), 1),
            (false, ready(b'E'), 0),
        ]);
        assert_eq!(failed.transaction(), Transaction::Failed);
    }

    #[test]
    fn half_a_message_is_owed() {
        let query = message(b'Q', b"SELECT 1\0");
        follow(&[(true, query[..3].to_vec(), 1), (true, query[3..].to_vec(), 1)]);
    }

    #[test]
    fn a_copy_waits_for_the_client_and_ignores_the_sync_before_it() {
        let extended = || {
            vec![
                (true, message(b'B', b"\0s1\0\0\0\0\0\0\0"), 1),
                (true, [message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat(), 1),
                (false, message(b'G', b"\0\0\0"), 1),
            ]
        };
        assert!(follow(&extended()).is_patient());
        let end = [message(b'c', b""), message(b'S', b"")].concat();
        let whole = [
            extended(),
            vec![
                (true, message(b'd', &[1; 9_000]), 1),
                (true, end, 1),
                (false, message(b'C', b"COPY 1\0"), 1),
                (false, ready(b'I'), 0),
            ],
        ]
        .concat();
        assert!(!follow(&whole).is_patient());
        // The server may fail before it is told everything.
        let cut = [
            extended(),
            vec![
                (false, error("ERROR", "22P02"), 1),
                (true, [message(b'f', b"no\0"), message(b'S', b"")].concat(), 1),
                (false, ready(b'I'), 0),
            ],
        ]
        .concat();
        follow(&cut);
        follow(&[
            (true, message(b'Q', b"COPY t FROM STDIN\0"), 1),
            (false, message(b'G', b"\0\0\0"), 1),
            (true, message(b'c', b""), 1),
            (false, ready(b'I'), 0),
        ]);
    }

    #[test]
    fn only_errors_that_somebody_was_told_have_consequences() {
        let after = |code: &str| {
            let mut scanner = follow(&[
                (true, message(b'Q', b"INSERT\0"), 1),
                (false, error("ERROR", code), 1),
                (false, ready(b'I'), 0),
            ]);
            (scanner.consequence(), scanner.consequence())
        };
        let keep = Consequence::Keep;
        assert_eq!(after("23505"), (keep, keep));
        assert_eq!(after("25006"), (Consequence::Invalidate, keep));
        assert_eq!(after("57P01"), (Consequence::Invalidate, keep));
        assert_eq!(after("53300"), (Consequence::Evict, keep));
        let mut idle = session();
        idle.received(&error("FATAL", "57P01"));
        assert_eq!(idle.consequence(), keep);
    }

    #[test]
    fn a_subscription_is_remembered_however_it_is_written() {
        for sql in [&b"listen news\0"[..], b"  LISTEN news\0"] {
            assert!(follow(&[(true, message(b'Q', sql), 1)]).is_listening());
        }
        let parse = message(b'P', b"s7\0LISTEN news\0\0\0");
        assert!(follow(&[(true, parse, 1)]).is_listening());
        assert!(!follow(&[(true, message(b'Q', b"SELECT 'LISTEN'\0"), 1)]).is_listening());
    }

    #[test]
    fn what_may_wait_is_told_from_dirt_and_from_a_goodbye() {
        let notice = message(b'A', b"\0\0\0\x01news\0hello\0");
        let parameter = message(b'S', b"TimeZone\0UTC\0");
        assert_eq!(unread(&[notice.clone(), parameter.clone()].concat()), Unread::Keep);
        assert_eq!(unread(&notice[..7]), Unread::Keep);
        assert_eq!(unread(&[notice, error("FATAL", "57P05")].concat()), Unread::Goodbye);
        assert_eq!(unread(&[parameter, ready(b'I')].concat()), Unread::Dirty);
        assert_eq!(unread(b"A\0\0\0\0"), Unread::Dirty);
    }

    #[test]
    fn garbage_is_lost_and_takes_no_memory() {
        fastrand::seed(7);
        for _ in 0..2_000 {
            let mut scanner = session();
            let bytes: Vec<u8> = (0..300).map(|_| fastrand::u8(..)).collect();
            scanner.sent(&bytes);
            scanner.received(&bytes);
            unread(&bytes);
            assert!(scanner.owed() <= bytes.len());
        }
        let mut scanner = session();
        scanner.received(b"D\x7f\xff\xff\xff");
        scanner.received(&vec![0; 1_000_000]);
        assert!(!scanner.is_lost() && scanner.received.is_small());
        scanner.received(&[0; 10]);
        let mut scanner = session();
        scanner.received(b"D\0\0\0\x01");
        assert!(scanner.is_lost());
        let mut scanner = session();
        scanner.received(&ready(b'I'));
        assert!(scanner.is_lost(), "nobody had asked");
    }
}
