//! [`SearchPath`]: on which path the session looks for names, as far as its statements tell. Pure.
//!
//! A prepared statement belongs to the path under which it was prepared: under another one the same
//! text may mean other tables, and the server refuses to give other columns than it announced.
//! PostgreSQL says its path since version 18; before, it is read from the statements that set it.

use super::scanner::TransactionStatus;

/// What a statement does to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathEffect {
    /// It is this one from now on, or until the end of the transaction. A number stands for it.
    Sets { to: u64, is_local: bool },
    /// Something that cannot be read from the text.
    Unknown,
    /// Nothing.
    Other,
}

/// The hash of nothing, and of one more byte (FNV-1a).
pub(super) const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

pub(super) fn hashed(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(EMPTY, |hash, byte| hashed(hash, *byte))
}

impl PathEffect {
    /// Of one statement that is known to its end.
    pub(super) fn of(text: &[u8]) -> Self {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
        let end = text.iter().rposition(|byte| !is_space(byte)).map_or(0, |last| last + 1);
        let (first, rest) = word(&text[..end]);
        let is_reset = first.eq_ignore_ascii_case(b"RESET");
        if !is_reset && !first.eq_ignore_ascii_case(b"SET") {
            return Self::Other;
        }
        let (mut name, mut value) = word(rest);
        let is_local = name.eq_ignore_ascii_case(b"LOCAL");
        if is_local || name.eq_ignore_ascii_case(b"SESSION") {
            (name, value) = word(value);
        }
        let is_path = name.eq_ignore_ascii_case(b"search_path");
        if is_reset && name.eq_ignore_ascii_case(b"ALL") {
            return Self::Unknown;
        }
        if !is_path && !name.eq_ignore_ascii_case(b"SCHEMA") {
            return Self::Other;
        }
        if text[..end].contains(&b';') {
            return Self::Unknown;
        }
        let value = match word(value) {
            (to, value) if to == b"=" || to.eq_ignore_ascii_case(b"TO") => value,
            _ => value,
        };
        Self::Sets { to: hash(value), is_local }
    }
}

/// The first word, or an `=`, and what comes after it and the space behind.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'=';
    let end = match text.iter().position(is_end) {
        Some(0) => 1,
        Some(end) => end,
        None => text.len(),
    };
    (&text[..end], text[end..].trim_ascii_start())
}

/// The path of one session.
#[derive(Debug)]
pub(super) struct SearchPath {
    /// Stands for the path. The same number again means the same path.
    now: u64,
    /// How often it became one that nobody knows. What was prepared before is of no use then.
    times_unknown: u64,
    /// What the last text does, when it is complete.
    effect: PathEffect,
    /// Where the transaction that is open began, and what it has set for good if it is committed.
    before: Option<u64>,
    kept: Option<u64>,
    /// How the last statement ended: the transaction was committed, or taken back.
    is_committed: bool,
    is_rolled_back: bool,
    /// The server says it.
    is_reported: bool,
}

impl SearchPath {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            times_unknown: 0,
            effect: PathEffect::Other,
            before: None,
            kept: None,
            is_committed: false,
            is_rolled_back: false,
            is_reported: false,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn times_unknown(&self) -> u64 {
        self.times_unknown
    }

    /// A text was sent, to be run now or later.
    pub(super) fn set_effect(&mut self, path: PathEffect) {
        self.effect = path;
    }

    /// The server says that it is this one.
    pub(super) fn reported(&mut self, path: u64) {
        self.is_reported = true;
        self.now = path;
    }

    /// Everything is as it was at the beginning.
    pub(super) fn discarded(&mut self) {
        if !self.is_reported {
            self.now = 0;
        }
    }

    /// A statement is complete, in a session that was in this state before.
    pub(super) fn command_complete(&mut self, tag: &[u8], before: TransactionStatus) {
        self.is_committed = tag == b"COMMIT";
        self.is_rolled_back = tag == b"ROLLBACK";
        let in_transaction = before == TransactionStatus::InTransaction;
        match std::mem::replace(&mut self.effect, PathEffect::Other) {
            _ if self.is_reported => {}
            PathEffect::Other => {}
            PathEffect::Unknown => {
                self.become_unknown();
                if in_transaction {
                    self.kept = Some(0);
                }
            }
            PathEffect::Sets { is_local: true, .. } if !in_transaction => {}
            PathEffect::Sets { to, is_local } => {
                if in_transaction {
                    self.before.get_or_insert(self.now);
                    if !is_local {
                        self.kept = Some(to);
                    }
                }
                self.now = to;
            }
        }
    }

    pub(super) fn error_response(&mut self) {
        self.effect = PathEffect::Other;
    }

    /// The server is ready, and in this state.
    pub(super) fn ready_for_query(&mut self, status: TransactionStatus) {
        if self.is_reported {
            return;
        }
        if status == TransactionStatus::Idle {
            let kept = self.kept.take().filter(|_| self.is_committed);
            if let Some(path) = kept.or(self.before) {
                self.now = path;
            }
            self.before = None;
        } else if std::mem::take(&mut self.is_rolled_back) && self.before.is_some() {
            // To a savepoint, before or after it was set.
            self.become_unknown();
        }
    }

    fn become_unknown(&mut self) {
        self.times_unknown += 1;
        self.now = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionStatus::{Idle, InTransaction};

    fn sets(text: &str) -> u64 {
        match PathEffect::of(text.as_bytes()) {
            PathEffect::Sets { to, .. } => to,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_path_is_the_same_however_it_is_set() {
        let ta = hash(b"ta");
        for text in [
            "SET search_path = ta",
            "set search_path to ta;",
            "SET SESSION search_path=ta ; ",
            "SET LOCAL search_path TO ta",
            "  SET\nsearch_path\t=\tta",
        ] {
            assert_eq!(sets(text), ta, "{text}");
        }
        assert_ne!(sets("SET search_path = tb"), ta);
        assert_ne!(sets("SET search_path = ta, tb"), ta);
        assert_eq!(sets("SET SCHEMA 'ta'"), hash(b"'ta'"));
        assert_eq!(PathEffect::of(b"SET statement_timeout = 5"), PathEffect::Other);
        assert_eq!(PathEffect::of(b"SELECT 1"), PathEffect::Other);
        assert_eq!(PathEffect::of(b"RESET ALL"), PathEffect::Unknown);
        assert_eq!(PathEffect::of(b"SET search_path = ta; SELECT 1"), PathEffect::Unknown);
    }

    #[test]
    fn a_path_of_a_transaction_ends_with_it() {
        let mut path = SearchPath::new();
        let say = |path: &mut SearchPath, text: &str, tag: &str, before, after| {
            path.set_effect(PathEffect::of(text.as_bytes()));
            path.command_complete(tag.as_bytes(), before);
            path.ready_for_query(after);
            path.now()
        };
        assert_eq!(say(&mut path, "SET search_path = ta", "SET", Idle, Idle), hash(b"ta"));
        // Without a transaction it does nothing.
        assert_eq!(say(&mut path, "SET LOCAL search_path = tb", "SET", Idle, Idle), hash(b"ta"));
        for (set, end, expected) in [
            ("SET LOCAL search_path = tb", "COMMIT", "ta"),
            ("SET search_path = tb", "ROLLBACK", "ta"),
            ("SET search_path = tb", "COMMIT", "tb"),
        ] {
            say(&mut path, "BEGIN", "BEGIN", Idle, InTransaction);
            assert_eq!(say(&mut path, set, "SET", InTransaction, InTransaction), hash(b"tb"));
            let now = say(&mut path, end, end, InTransaction, Idle);
            assert_eq!(now, hash(expected.as_bytes()), "{set}, {end}");
        }
        assert_eq!(path.times_unknown(), 0);
        say(&mut path, "BEGIN", "BEGIN", Idle, InTransaction);
        say(&mut path, "SET LOCAL search_path = tc", "SET", InTransaction, InTransaction);
        say(&mut path, "ROLLBACK TO a", "ROLLBACK", InTransaction, InTransaction);
        assert_eq!(path.times_unknown(), 1, "it may be either");
        assert_eq!(say(&mut path, "COMMIT", "COMMIT", InTransaction, Idle), hash(b"tb"));
    }

    #[test]
    fn what_the_server_says_is_believed_and_nothing_else() {
        let mut path = SearchPath::new();
        path.reported(7);
        path.set_effect(PathEffect::Unknown);
        path.command_complete(b"SELECT 1", Idle);
        path.ready_for_query(Idle);
        path.discarded();
        assert_eq!((path.now(), path.times_unknown()), (7, 0));
    }
}
