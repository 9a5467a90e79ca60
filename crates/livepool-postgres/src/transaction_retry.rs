//! [`TransactionRetry`]: a transaction that is made again when it stood in the way of another one.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Error, IsolationLevel};

use super::client::Transaction;
use super::line::Line;
use super::protocol::Postgres;
use super::scanner::CONFLICTS;
use crate::sync::Arc;
use livepool::protocol::Retry;
use livepool::{BoxFuture, CheckoutError, Guard, Pool};

/// The most of the pause before the second try, which doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The most of any pause.
const MOST_PAUSE: Duration = Duration::from_millis(250);

/// Runs a transaction, and makes it again when the server gave it up for the sake of another one.
///
/// Under [`Serializable`](IsolationLevel::Serializable), and under
/// [`RepeatableRead`](IsolationLevel::RepeatableRead), PostgreSQL may refuse a transaction that has done
/// nothing wrong, with `40001` (serialization failure); under any level it may end one of several that
/// wait for each other, with `40P01` (deadlock). The same transaction succeeds when it is made again.
///
/// Under [`ReadCommitted`](IsolationLevel::ReadCommitted) only deadlocks are found: a row that was read may be
/// another one's by the time it is written, whose change is then lost. Read and write it in one statement
/// there, or with `SELECT ... FOR UPDATE`.
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// use std::error::Error;
/// use livepool_postgres::TransactionRetry;
///
/// let left = TransactionRetry::serializable()
///     .run(&pool, async |transaction| {
///         let sql = "SELECT sum(amount)::int8 FROM entries WHERE account = $1";
///         let sum: i64 = transaction.query_one(sql, &[&7]).await?.get(0);
///         if sum < 100 {
///             return Err("there is not that much".into());
///         }
///         let sql = "INSERT INTO entries (account, amount) VALUES ($1, -100)";
///         transaction.execute(sql, &[&7]).await?;
///         Ok::<_, Box<dyn Error>>(sum - 100)
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// The transaction may run several times, and is committed once at most: what it does besides talking to
/// the database has to bear that. Before each further try there is a pause, drawn at random up to 5 ms,
/// then 10 ms, up to 250 ms, in which no connection is held. All of it, checkouts and pauses included, has
/// one limit: [`with_limit`](Self::with_limit).
///
/// In a task or a handler, whose futures have to be [`Send`], give it an `async move` closure that owns what
/// it uses, clones of it say. Of one that borrows from around it the compiler cannot tell.
///
/// Only conflicts are repeated. A connection that ends is not: while it commits, nobody can say whether the
/// server has committed.
#[derive(Debug, Clone)]
#[must_use = "it does nothing until run() is called"]
pub struct TransactionRetry {
    isolation: IsolationLevel,
    tries: u32,
    limit: Duration,
}

/// What one try came to.
enum Outcome<T, E> {
    Ended(Result<T, E>),
    /// It stood in the way of another transaction, which is this error.
    Conflict(E),
}

impl TransactionRetry {
    /// A transaction of this isolation level: at most 10 tries, within 30 s.
    pub fn new(isolation: IsolationLevel) -> Self {
        Self { isolation, tries: 10, limit: Duration::from_secs(30) }
    }

    /// A transaction that is serializable: at most 10 tries, within 30 s.
    pub fn serializable() -> Self {
        Self::new(IsolationLevel::Serializable)
    }

    /// Sets the most tries, the first one included. Default 10; 0 is taken for 1.
    pub fn with_tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// Sets the time for all of it: waiting for connections, all tries and the pauses between them.
    /// Default 30 s. Each checkout has `timeouts.checkout` of it at most, and each try
    /// `timeouts.operation`. A statement that still runs at its end is cancelled at the server.
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs `work` in a transaction and commits that, again if it meets a conflict.
    ///
    /// # Errors
    ///
    /// The error of `work`, of the commit or of a checkout. When the tries or the time are over, that of the
    /// last conflict. If `work` succeeds in a transaction that has failed, as when it passes over the error
    /// of a statement, that is the server's error `25P02`: nothing was committed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the transaction is rolled back, unless it is being committed: then nobody can say whether it
    /// was.
    #[track_caller]
    pub fn run<T, E, F>(
        &self,
        pool: &Pool<Postgres>,
        mut work: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut Transaction<'_>) -> Result<T, E>,
        E: From<CheckoutError> + From<Error>,
    {
        let taken_at = Location::caller();
        let (this, pool) = (self.clone(), pool.clone());
        async move {
            // A limit beyond what the clock can count means never.
            let deadline = Instant::now().checked_add(this.limit);
            for tried in 1.. {
                let mut guard = checkout(pool.clone(), deadline, taken_at).await?;
                let conflict = match this.attempt(&mut guard, deadline, &mut work).await {
                    Outcome::Ended(result) => return result,
                    Outcome::Conflict(error) => error,
                };
                // Nobody has to wait for a connection whose user waits.
                guard.release();
                let pause = most_pause(tried).mul_f64(fastrand::f64());
                let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now() + pause);
                if tried >= this.tries || is_late {
                    return Err(conflict);
                }
                sleep(pause).await;
            }
            unreachable!("the last try returns")
        }
    }

    async fn attempt<T, E, F>(
        &self,
        guard: &mut Guard<Postgres>,
        deadline: Option<Instant>,
        work: &mut F,
    ) -> Outcome<T, E>
    where
        F: AsyncFnMut(&mut Transaction<'_>) -> Result<T, E>,
        E: From<Error>,
    {
        let own = guard.timeouts().operation.and_then(|limit| Instant::now().checked_add(limit));
        guard.set_deadline(own.into_iter().chain(deadline).min());
        let line = Arc::clone(&guard.session.line);
        let builder = guard.build_transaction().isolation_level(self.isolation);
        let mut transaction = match builder.start().await {
            Ok(transaction) => transaction,
            Err(error) => return Outcome::Ended(Err(error.into())),
        };
        match work(&mut transaction).await {
            Ok(value) => commit(transaction, &line, value).await,
            // Whatever type the error has: the bytes were read along.
            Err(error) if line.met_conflict() => match transaction.rollback().await {
                Ok(()) => Outcome::Conflict(error),
                Err(_) => Outcome::Ended(Err(error)),
            },
            Err(error) => Outcome::Ended(Err(error)),
        }
    }
}

/// Takes a connection, by this deadline and within `timeouts.checkout`.
///
/// Boxed, since of a future with this one in it the compiler cannot always tell that it is `Send`.
fn checkout(
    pool: Pool<Postgres>,
    deadline: Option<Instant>,
    taken_at: &'static Location<'static>,
) -> BoxFuture<'static, Result<Guard<Postgres>, CheckoutError>> {
    Box::pin(async move { Retry::new(&pool, deadline, taken_at).get().await })
}

async fn commit<T, E: From<Error>>(
    transaction: Transaction<'_>,
    line: &Line,
    value: T,
) -> Outcome<T, E> {
    // Of what `work` has begun and not waited for. It ends with the guard's deadline at the latest.
    line.quiet().await;
    // A server answers the COMMIT of a transaction that has failed with ROLLBACK, which is no error.
    if line.is_failed() {
        // So it is asked for one: 25P02.
        if let Err(error) = transaction.batch_execute("SELECT 1").await {
            let is_undone = line.met_conflict() && transaction.rollback().await.is_ok();
            return match is_undone {
                true => Outcome::Conflict(error.into()),
                false => Outcome::Ended(Err(error.into())),
            };
        }
    }
    match transaction.commit().await {
        Ok(()) => Outcome::Ended(Ok(value)),
        Err(error) if is_conflict(&error) => Outcome::Conflict(error.into()),
        Err(error) => Outcome::Ended(Err(error.into())),
    }
}

fn is_conflict(error: &Error) -> bool {
    let code = error.code().map(|code| code.code().as_bytes());
    code.is_some_and(|code| CONFLICTS.iter().any(|conflict| code == conflict.as_slice()))
}

/// The most of the pause after so many tries, of which there was at least one.
fn most_pause(tried: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << (tried - 1).min(16)).min(MOST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_have_a_most() {
        let millis = [1, 2, 3, 6, 7, 8, u32::MAX].map(|tried| most_pause(tried).as_millis());
        assert_eq!(millis, [5, 10, 20, 160, 250, 250, 250]);
    }
}
