//! [`StatementCache`]: the prepared statements of one connection.

use std::collections::HashMap;
use std::fmt;

use futures_util::FutureExt;
use livepool::protocol::StatementCounts;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use super::line::Line;
use super::unclaimed;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Statements a connection keeps, unless [told otherwise](super::Postgres::with_statement_cache).
pub(super) const CAPACITY: usize = 256;

/// Whether sessions keep prepared statements. See
/// [`Postgres::with_statements`](super::Postgres::with_statements).
///
/// ```
/// use livepool_postgres::{Postgres, Statements};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let postgres = Postgres::from_url("postgres://app@pgbouncer:6432/app")?;
/// let pool = postgres.with_statements(Statements::Unnamed).pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Statements {
    /// Sessions keep statements, under names. The session has to be the same from one request to
    /// the next: that of a server, of a PgBouncer in session mode, or of one in transaction mode
    /// that keeps track of them (`max_prepared_statements`, from 1.21 on).
    #[default]
    Named,
    /// Sessions keep no statements: for a PgBouncer in transaction mode that is older, and for
    /// others like it. [`prepare_cached`](super::Client::prepare_cached) gives a description, which
    /// is asked for in a short transaction, once per text and connection; the calls below wait for
    /// its end when they run on the same connection at the same time.
    /// [`query`](super::Client::query), [`query_one`](super::Client::query_one),
    /// [`query_opt`](super::Client::query_opt) and [`execute`](super::Client::execute) send the
    /// text with each use, in one round trip, as `query_typed` does. The other calls (`query_raw`,
    /// `copy_in`, `prepare`) are the client library's, which names statements and waits for no
    /// description: use them in transactions only. Parameters and columns need types that
    /// PostgreSQL itself brings; cast others (`$1::text::mood`, `mood::text`).
    Unnamed,
}

/// The prepared statements of one connection, by their text and parameter types, and by the
/// `search_path` under which they were prepared.
///
/// The cache is bounded: a program that writes values into its texts would otherwise fill the
/// server's memory. The statement that was not used for the longest time makes room. The cache is
/// empty again when a statement was found outdated on any connection of the pool, when the
/// session's statements were deallocated, and after
/// [`Postgres::clear_statement_caches`](super::Postgres::clear_statement_caches).
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let client = pool.get().await?;
/// client.prepare_cached("SELECT 1").await?;
/// assert_eq!(client.statement_cache().size(), 1);
/// # Ok(()) }
/// ```
pub struct StatementCache {
    /// The statements, which are dropped outside of the lock, as they tell their client.
    cache: Mutex<CachedStatements>,
    mode: Statements,
    capacity: usize,
    line: Arc<Line>,
    /// The generation of prepared statements, of all connections.
    generation: Arc<AtomicU64>,
    /// The lock that keeps other calls out of a transaction that was begun for a description.
    describing: RwLock<()>,
    counts: Arc<CacheCounts>,
}

struct CachedStatements {
    statements: HashMap<String, Vec<CachedStatement>>,
    len: usize,
    uses: u64,
    epoch: CacheEpoch,
    /// Those of the pool, of which these are a part.
    counts: Arc<CacheCounts>,
}

struct CachedStatement {
    types: Vec<Type>,
    /// The number of the `search_path` under which it was prepared.
    path: u64,
    statement: Statement,
    identity: Option<StatementIdentity>,
    used: u64,
}

/// Which statement it is, of those of one connection that live at the same time.
#[derive(PartialEq, Eq)]
enum StatementIdentity {
    /// Where its columns are, or its parameters.
    Address(usize),
    /// What it prints, if it has neither.
    Printed(String),
}

impl StatementIdentity {
    /// The client library hides a statement's name, but prints it. If that ever ends, a statement with neither
    /// columns nor parameters is none that is known, and not another one.
    fn of(statement: &Statement) -> Option<Self> {
        match (statement.columns(), statement.params()) {
            ([], []) => {
                let printed = format!("{statement:?}");
                printed.contains("\"s").then_some(Self::Printed(printed))
            }
            ([], params) => Some(Self::Address(params.as_ptr().addr())),
            (columns, _) => Some(Self::Address(columns.as_ptr().addr())),
        }
    }
}

/// What the statements of all connections of one pool come to.
#[derive(Debug, Default)]
pub(super) struct CacheCounts {
    kept: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheCounts {
    // Relaxed: they are read as a sample, and order nothing.
    pub(super) fn now(&self) -> StatementCounts {
        let kept = self.kept.load(Ordering::Relaxed);
        let (hits, misses) = (&self.hits, &self.misses);
        StatementCounts::new(kept, hits.load(Ordering::Relaxed), misses.load(Ordering::Relaxed))
    }
}

/// The counts of a protocol's pool. A clone of the protocol is for another pool, and counts for itself.
#[derive(Debug, Default)]
pub(super) struct PoolCounts(pub(super) Arc<CacheCounts>);

impl Clone for PoolCounts {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// When a statement was prepared: before or after what makes it useless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CacheEpoch {
    generation: u64,
    forgotten: u64,
}

impl CacheEpoch {
    /// The epoch of the statements that are prepared now.
    pub(super) fn now(generation: &AtomicU64, line: &Line) -> Self {
        Self { generation: generation.load(Ordering::SeqCst), forgotten: line.forgotten() }
    }
}

impl StatementCache {
    pub(super) fn new(
        mode: Statements,
        capacity: usize,
        line: &Arc<Line>,
        generation: &Arc<AtomicU64>,
        counts: &PoolCounts,
    ) -> Self {
        let (line, generation) = (Arc::clone(line), Arc::clone(generation));
        let counts = Arc::clone(&counts.0);
        let cache = Mutex::new(CachedStatements {
            statements: HashMap::new(),
            len: 0,
            uses: 0,
            epoch: CacheEpoch::default(),
            counts: Arc::clone(&counts),
        });
        let describing = RwLock::default();
        let cache = Self { cache, mode, capacity, line, generation, describing, counts };
        cache.cache().epoch = cache.now();
        cache
    }

    /// The number of statements in the cache.
    pub fn size(&self) -> usize {
        self.refresh();
        self.cache().len
    }

    /// Forgets all statements. The server closes a statement when its last user is done.
    pub fn clear(&self) {
        let statements = self.cache().take();
        drop(statements);
    }

    /// Forgets a statement.
    pub fn remove(&self, query: &str, types: &[Type]) -> Option<Statement> {
        let removed = self.cache().remove(query, |cached| cached.types == types)?;
        Some(removed.statement)
    }

    pub(super) fn mode(&self) -> Statements {
        self.mode
    }

    pub(super) fn keeps_statements(&self) -> bool {
        self.capacity > 0
    }

    pub(super) async fn prepare(
        &self,
        client: &Client,
        query: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        self.refresh();
        // Read before the statement is prepared: what makes it useless meanwhile is newer than these.
        let (epoch, path) = (self.now(), self.line.path());
        if let Some(statement) = self.get(query, types, path) {
            self.counts.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(statement);
        }
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
        let hash = unclaimed::hash(query, types);
        let (statement, is_current) = match self.mode {
            Statements::Named => {
                let statement = client.prepare_typed(query, types).await?;
                (statement, epoch == self.now())
            }
            // A description outlives its session.
            Statements::Unnamed => (self.describe(client, query, types, hash).await?, true),
        };
        // A statement that has become useless meanwhile is handed out, and not kept: its user finds out.
        if self.capacity > 0 && is_current {
            if let Some(unclaimed) = self.line.unclaimed() {
                unclaimed.claim(hash);
            }
            self.insert(query, types, path, &statement);
        }
        Ok(statement)
    }

    /// Asks for the parameters and columns of a text, without leaving anything at the server. A
    /// pooler in between gives one session to one transaction, so all of it happens in one.
    async fn describe(
        &self,
        client: &Client,
        query: &str,
        types: &[Type],
        hash: u64,
    ) -> Result<Statement, Error> {
        let is_alone = !self.is_in_its_users_transaction();
        let mut begun = None;
        if is_alone {
            let others = self.describing.write().await;
            // Before the BEGIN is awaited: dropped in the middle of that, it has to be rolled back as well.
            begun = Some(DescribeTransaction { client, is_over: false, _others: others });
            client.batch_execute("BEGIN").await?;
        }
        let prepared = client.prepare_typed(query, types).await;
        let name = self.line.unclaimed().and_then(|unclaimed| unclaimed.claim(hash));
        match (&prepared, name) {
            (Ok(_), Some(name)) => self.deallocate(client, name, is_alone).await?,
            _ if is_alone => client.batch_execute("ROLLBACK").await?,
            _ => {}
        }
        if let Some(begun) = &mut begun {
            begun.is_over = true;
        }
        prepared
    }

    /// Whether the session is in a transaction that its user has begun. One that was begun for a description
    /// has the lock.
    fn is_in_its_users_transaction(&self) -> bool {
        self.describing.try_read().is_ok() && self.line.is_in_transaction()
    }

    /// While this is held, no transaction is begun for a description.
    pub(super) async fn running_guard(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.mode {
            Statements::Unnamed if !self.is_in_its_users_transaction() => {
                Some(self.describing.read().await)
            }
            _ => None,
        }
    }

    /// Deallocates a statement inside a transaction, and commits it if it was begun for this.
    async fn deallocate(&self, client: &Client, name: u64, is_alone: bool) -> Result<(), Error> {
        let (begin, end, undo) = if is_alone {
            ("", "COMMIT", "ROLLBACK")
        } else {
            let undo = "ROLLBACK TO SAVEPOINT livepool; RELEASE SAVEPOINT livepool";
            ("SAVEPOINT livepool;", "RELEASE SAVEPOINT livepool", undo)
        };
        match client.batch_execute(&format!("{begin} DEALLOCATE s{name}; {end}")).await {
            // A proxy that gives statements names of its own does not know this one in SQL, and takes care of
            // it itself.
            Err(error) if is_unknown_statement(&error) => client.batch_execute(undo).await?,
            done => done?,
        }
        self.keep();
        Ok(())
    }

    /// The text and types of a statement of the cache.
    pub(super) fn text_of(&self, statement: &Statement) -> Option<(String, Vec<Type>)> {
        let identity = StatementIdentity::of(statement)?;
        let cache = self.cache();
        let all = cache.statements.iter();
        let mut all = all
            .flat_map(|(query, all_of_text)| all_of_text.iter().map(move |cached| (query, cached)));
        let (query, cached) =
            all.find(|(_, cached)| cached.identity.as_ref() == Some(&identity))?;
        Some((query.clone(), cached.types.clone()))
    }

    /// Prepares a statement anew that has become useless, if the server has run nothing, so that
    /// the caller may try again.
    pub(super) async fn renew_statement(
        &self,
        client: &Client,
        statement: &Statement,
        error: &Error,
    ) -> Option<Statement> {
        let is_useless = matches!(error.code()?.code(), "0A000" | "26000" | "XX000");
        // With a context (`where`) the error is of a statement inside a function, and something has run.
        let is_its_own = error.as_db_error()?.where_().is_none();
        if !is_useless || !is_its_own || !self.line.was_early() || self.line.is_in_transaction() {
            return None;
        }
        let (query, types) = self.text_of(statement)?;
        drop(self.remove(&query, &types));
        // Types may have been made anew, too.
        client.clear_type_cache();
        self.prepare(client, &query, &types).await.ok()
    }

    /// Keeps the cache although the session lost statements: none of the cache's was among them.
    pub(super) fn keep(&self) {
        self.cache().epoch.forgotten = self.line.forgotten();
    }

    fn now(&self) -> CacheEpoch {
        CacheEpoch::now(&self.generation, &self.line)
    }

    /// Empties the cache, if its statements are of an older epoch.
    fn refresh(&self) {
        let now = self.now();
        let mut cache = self.cache();
        if cache.epoch != now {
            cache.epoch = now;
            let statements = cache.take();
            drop(cache);
            drop(statements);
        }
    }

    fn get(&self, query: &str, types: &[Type], path: u64) -> Option<Statement> {
        let mut cache = self.cache();
        let cache = &mut *cache;
        cache.uses += 1;
        let mut all_of_text = cache.statements.get_mut(query)?.iter_mut();
        let cached = all_of_text.find(|cached| cached.types == types && cached.path == path)?;
        cached.used = cache.uses;
        Some(cached.statement.clone())
    }

    fn insert(&self, query: &str, types: &[Type], path: u64, statement: &Statement) {
        let (statement, identity) = (statement.clone(), StatementIdentity::of(statement));
        let mut cache = self.cache();
        let is_it = |cached: &CachedStatement| cached.types == types && cached.path == path;
        let replaced = cache.remove(query, is_it);
        let oldest = if cache.len < self.capacity { None } else { cache.remove_oldest() };
        cache.uses += 1;
        let len = cache.len + 1;
        cache.set_len(len);
        let (types, used) = (types.to_vec(), cache.uses);
        let cached = CachedStatement { types, path, statement, identity, used };
        cache.statements.entry(query.to_owned()).or_default().push(cached);
        // What is replaced or makes room is dropped when the lock is open again.
        drop(cache);
        drop((replaced, oldest));
    }

    fn cache(&self) -> MutexGuard<'_, CachedStatements> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedStatements {
    fn set_len(&mut self, len: usize) {
        let kept = &self.counts.kept;
        if len > self.len {
            kept.fetch_add(len - self.len, Ordering::Relaxed);
        } else {
            kept.fetch_sub(self.len - len, Ordering::Relaxed);
        }
        self.len = len;
    }

    fn take(&mut self) -> HashMap<String, Vec<CachedStatement>> {
        self.set_len(0);
        std::mem::take(&mut self.statements)
    }

    fn remove(
        &mut self,
        query: &str,
        is_it: impl Fn(&CachedStatement) -> bool,
    ) -> Option<CachedStatement> {
        let all_of_text = self.statements.get_mut(query)?;
        let cached = all_of_text.swap_remove(all_of_text.iter().position(is_it)?);
        if all_of_text.is_empty() {
            self.statements.remove(query);
        }
        self.set_len(self.len - 1);
        Some(cached)
    }

    fn remove_oldest(&mut self) -> Option<CachedStatement> {
        let all = self.statements.iter();
        let all = all
            .flat_map(|(query, all_of_text)| all_of_text.iter().map(move |cached| (query, cached)));
        let (query, cached) = all.min_by_key(|(_, cached)| cached.used)?;
        let (query, used) = (query.clone(), cached.used);
        self.remove(&query, |cached| cached.used == used)
    }
}

impl Drop for CachedStatements {
    fn drop(&mut self) {
        self.set_len(0);
    }
}

/// A transaction that was begun for a description. Dropped before its end, it is rolled back.
struct DescribeTransaction<'a> {
    client: &'a Client,
    is_over: bool,
    /// The lock that other calls wait for until the transaction's end is on its way.
    _others: RwLockWriteGuard<'a, ()>,
}

impl Drop for DescribeTransaction<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // The first poll sends it, and nobody waits for the answer.
            let _ = self.client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}

fn is_unknown_statement(error: &Error) -> bool {
    error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME)
}

impl fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementCache")
            .field("size", &self.cache().len)
            .field("capacity", &self.capacity)
            .finish()
    }
}
