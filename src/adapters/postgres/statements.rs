//! [`StatementCache`]: the statements that one session has prepared.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

/// Prepared statements of one session, by text and types. It holds 256 at most; a program with more
/// texts than that should not prepare them.
#[derive(Default)]
pub struct StatementCache {
    /// Looked up and changed under this lock, nothing else.
    statements: Mutex<HashMap<Key, Statement>>,
}

type Key = (Box<str>, Box<[Type]>);

const MOST: usize = 256;

impl StatementCache {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets them all, after a change of the schema, say. The server forgets each when the last
    /// use of it has ended.
    pub fn clear(&self) {
        let statements = std::mem::take(&mut *self.lock());
        drop(statements);
    }

    pub(super) fn get(&self, query: &str, types: &[Type]) -> Option<Statement> {
        self.lock().get(&(query.into(), types.into())).cloned()
    }

    pub(super) fn add(&self, query: &str, types: &[Type], statement: &Statement) {
        let mut statements = self.lock();
        if statements.len() >= MOST {
            let statements = std::mem::take(&mut *statements);
            // Each sends a message when it is dropped.
            drop(statements);
        }
        statements.insert((query.into(), types.into()), statement.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Statement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementCache").field("len", &self.len()).finish()
    }
}
