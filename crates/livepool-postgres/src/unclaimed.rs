//! [`UnclaimedStatements`]: statements that were prepared and never run. Pure.
//!
//! The client library closes a statement when nobody has it any more, and makes its `Statement` only when
//! the answer was read: of whom gave up before, a statement stays in the session. It shows on the wire as
//! one that is never run and never closed.

use super::search_path;
use crate::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use crate::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::Type;

/// A session with more of them is not used again.
const MAX_UNCLAIMED: usize = 4096;

/// Of one session. The scanner writes it, the cache and the reset read it.
#[derive(Debug, Default)]
pub(crate) struct UnclaimedStatements {
    /// Looked at and changed under this lock, nothing else.
    statements: Mutex<Vec<UnclaimedStatement>>,
    len: AtomicUsize,
}

#[derive(Debug)]
struct UnclaimedStatement {
    /// The number in its name.
    name: u64,
    /// Of its text and the types of its parameters.
    hash: u64,
    /// How many answers are owed before its own.
    behind: usize,
    is_answered: bool,
}

/// What stands for a text and the types of its parameters.
pub(super) fn hash(query: &str, types: &[Type]) -> u64 {
    let count = u16::try_from(types.len()).unwrap_or_default().to_be_bytes();
    let types = types.iter().flat_map(|of| of.oid().to_be_bytes());
    let bytes = query.bytes().chain([0]).chain(count).chain(types);
    bytes.fold(search_path::EMPTY, search_path::hashed)
}

impl UnclaimedStatements {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(SeqCst)
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= MAX_UNCLAIMED
    }

    /// One is being prepared, behind so many other answers.
    pub(super) fn add(&self, name: u64, hash: u64, behind: usize) {
        self.change(|statements| {
            if statements.len() < MAX_UNCLAIMED {
                statements.push(UnclaimedStatement { name, hash, behind, is_answered: false });
            }
        });
    }

    /// It is being run, or closed: somebody has it, or had it.
    pub(super) fn remove(&self, name: u64) {
        if self.len() > 0 {
            self.change(|statements| {
                if let Some(at) = statements.iter().rposition(|statement| statement.name == name) {
                    statements.remove(at);
                }
            });
        }
    }

    /// The oldest is prepared.
    pub(super) fn parse_complete(&self) {
        if self.len() > 0 {
            self.change(|statements| {
                let waits = |statement: &&mut UnclaimedStatement| {
                    !statement.is_answered && statement.behind == 0
                };
                if let Some(statement) = statements.iter_mut().find(waits) {
                    statement.is_answered = true;
                }
            });
        }
    }

    /// Those whose turn it was are not.
    pub(super) fn error_response(&self) {
        if self.len() > 0 {
            self.change(|statements| {
                statements.retain(|statement| statement.is_answered || statement.behind > 0)
            });
        }
    }

    /// One more answer is complete.
    pub(super) fn ready_for_query(&self) {
        if self.len() > 0 {
            self.error_response();
            self.change(|statements| {
                for statement in statements.iter_mut().filter(|statement| !statement.is_answered) {
                    statement.behind -= 1;
                }
            });
        }
    }

    /// The session has no statements any more.
    pub(super) fn clear(&self) {
        self.change(Vec::clear);
    }

    /// The one that was prepared last of this text and types belongs to a cache from now on. Its number.
    pub(super) fn claim(&self, hash: u64) -> Option<u64> {
        self.change(|statements| {
            let is_it =
                |statement: &UnclaimedStatement| statement.is_answered && statement.hash == hash;
            Some(statements.remove(statements.iter().rposition(is_it)?).name)
        })
    }

    /// Those that nobody has, when nothing is owed any more.
    pub(super) fn take(&self) -> Vec<u64> {
        let all = self.change(std::mem::take);
        all.into_iter()
            .filter(|statement| statement.is_answered)
            .map(|statement| statement.name)
            .collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<UnclaimedStatement>) -> T) -> T {
        let mut statements = self.statements();
        let result = change(&mut statements);
        self.len.store(statements.len(), SeqCst);
        result
    }

    fn statements(&self) -> MutexGuard<'_, Vec<UnclaimedStatement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_run_nor_closed_nor_refused_is_left() {
        let unclaimed = UnclaimedStatements::default();
        for (name, behind) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)] {
            unclaimed.add(name, name % 2, behind);
        }
        unclaimed.parse_complete();
        unclaimed.ready_for_query();
        unclaimed.error_response();
        unclaimed.ready_for_query();
        for _ in [3, 4, 5] {
            unclaimed.parse_complete();
            unclaimed.ready_for_query();
        }
        // The second was refused. The first was closed, the fourth is run.
        unclaimed.remove(1);
        unclaimed.remove(4);
        assert_eq!(unclaimed.claim(0), None);
        assert_eq!(unclaimed.claim(1), Some(5));
        assert_eq!(unclaimed.take(), [3]);
        assert_eq!(unclaimed.len(), 0);
    }

    #[test]
    fn a_text_with_its_types_stands_for_itself() {
        assert_eq!(hash("a", &[]), search_path::hash(b"a\0\0\0"));
        assert_eq!(hash("a", &[Type::INT8]), search_path::hash(b"a\0\0\x01\0\0\0\x14"));
    }
}
