//! [`StatementCache`]: the prepared statements of one connection.

use std::collections::HashMap;
use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// Statements a connection keeps, unless [told otherwise](super::Postgres::with_statement_cache).
pub(super) const CAPACITY: usize = 256;

/// The prepared statements of one connection, by their text and parameter types.
///
/// It is bounded: a program that writes values into its texts would otherwise fill the server's
/// memory. The statement that was not used for the longest time makes room.
pub struct StatementCache {
    /// Only looked at and changed under this lock. Statements are dropped outside: they tell their
    /// client.
    cache: Mutex<Cache>,
    capacity: usize,
}

#[derive(Default)]
struct Cache {
    statements: HashMap<String, Vec<Entry>>,
    len: usize,
    uses: u64,
}

struct Entry {
    types: Vec<Type>,
    statement: Statement,
    used: u64,
}

impl StatementCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { cache: Mutex::default(), capacity }
    }

    /// How many statements it has.
    pub fn size(&self) -> usize {
        self.cache().len
    }

    /// Forgets all of them. Those in use are closed at the server when their users are done.
    pub fn clear(&self) {
        let cache = std::mem::take(&mut *self.cache());
        drop(cache);
    }

    /// Forgets one.
    pub fn remove(&self, query: &str, types: &[Type]) -> Option<Statement> {
        let mut cache = self.cache();
        let entries = cache.statements.get_mut(query)?;
        let index = entries.iter().position(|entry| entry.types == types)?;
        let entry = entries.swap_remove(index);
        if entries.is_empty() {
            cache.statements.remove(query);
        }
        cache.len -= 1;
        Some(entry.statement)
    }

    pub(super) async fn prepare(
        &self,
        client: &Client,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        if let Some(statement) = self.get(query, types) {
            return Ok(statement);
        }
        let statement = client.prepare_typed(query, types).await?;
        self.insert(query, types, &statement);
        Ok(statement)
    }

    fn get(&self, query: &str, types: &[Type]) -> Option<Statement> {
        let mut cache = self.cache();
        let cache = &mut *cache;
        cache.uses += 1;
        let entries = cache.statements.get_mut(query)?;
        let entry = entries.iter_mut().find(|entry| entry.types == types)?;
        entry.used = cache.uses;
        Some(entry.statement.clone())
    }

    fn insert(&self, query: &str, types: &[Type], statement: &Statement) {
        if self.capacity == 0 {
            return;
        }
        // What is replaced or makes room is dropped when the lock is open again.
        let replaced = self.remove(query, types);
        let oldest = self.make_room();
        let mut cache = self.cache();
        cache.uses += 1;
        cache.len += 1;
        let entry = Entry { types: types.to_vec(), statement: statement.clone(), used: cache.uses };
        cache.statements.entry(query.to_owned()).or_default().push(entry);
        drop(cache);
        drop((replaced, oldest));
    }

    fn make_room(&self) -> Option<Statement> {
        let (query, types) = {
            let cache = self.cache();
            if cache.len < self.capacity {
                return None;
            }
            let all = cache.statements.iter();
            let all = all.flat_map(|(query, entries)| entries.iter().map(move |e| (query, e)));
            let (query, entry) = all.min_by_key(|(_, entry)| entry.used)?;
            (query.clone(), entry.types.clone())
        };
        self.remove(&query, &types)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementCache")
            .field("size", &self.size())
            .field("capacity", &self.capacity)
            .finish()
    }
}
