//! PostgreSQL, on [`tokio_postgres`].
//!
//! That library logs statements and their parameters at `debug`, with the target `tokio_postgres`: leave
//! it out of your filter where those may hold secrets.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = livepool::postgres::pool("postgres://me:secret@db.example/orders")?;
//! let client = pool.get().await?;
//! let statement = client.prepare_cached("SELECT $1::text || ' world'").await?;
//! let row = client.query_one(&statement, &[&"hello"]).await?;
//! println!("{}", row.get::<_, String>(0));
//! # Ok(()) }
//! ```
//!
//! What a pool of these does that the client library does not:
//!
//! - **A guard may be dropped at any moment.** The bytes are read along, so the pool knows what is
//!   owed and whether a transaction is open. A query that nobody waits for any more is cancelled at
//!   the server, a transaction is rolled back, a subscription to notifications ended; only then is
//!   the connection used again. If that cannot be done within `timeouts.reset`, it is closed.
//! - **No query goes on for nobody.** That of a connection that timed out, was interrupted or closed
//!   is cancelled as well.
//! - **Timeouts know what they wait for.** An idle connection, one that listens, or one that waits for
//!   *our* data in a `COPY` has no read timeout. A query that may take longer than `timeouts.read` says
//!   so: [`Guard::set_read_timeout`](crate::Guard::set_read_timeout); one that must not,
//!   [`Guard::deadline`](crate::Guard::deadline).
//! - **A change of role ends all connections.** A write that is refused because the server has become
//!   read-only invalidates the pool, and with [`Target::ReadWrite`] the next dial goes to the host
//!   that takes writes. Nobody has to report it.
//!
//! | error of the server | what goes |
//! |---|---|
//! | `25006`, a write where only reading is allowed | all connections, if the server is a standby or its setting says so; this connection, if its user had set `default_transaction_read_only`; none, if the transaction was begun to read only |
//! | `57P02`, `57P03`, `57P04`: crashed, starting, database gone | all connections |
//! | `57P01`, ended by an administrator | this connection: a server that stops says it on each one, and one terminated backend is no reason to leave the others |
//! | any other after which the server closes | this connection |
//! | `26000`, an unknown prepared statement | this connection, with its statement cache |
//! | any other | none |
//!
//! - **A cached statement that became useless fails nobody.** Its table was altered, its type made anew,
//!   `search_path` set, `DISCARD ALL` said: it is prepared anew. See [`Client::query`], and
//!   [`Pool::clear_statement_caches`](crate::Pool::clear_statement_caches).
//! - **The next user finds the session as it was**: settings, role, locks and temporary tables of the
//!   last one are gone, and only who left something pays a round trip. See [`RecyclingMethod`].
//!
//! # Behind PgBouncer and others
//!
//! A proxy that gives each transaction another session of the server (PgBouncer in transaction mode, RDS
//! Proxy, Supavisor, pgcat) does not know prepared statements, `SET`, `LISTEN` or advisory locks as one
//! connection has them. [`Postgres::with_statements`] with [`Statements::Unnamed`] is for those;
//! `docs/poolers.md` says when it is needed, and what cannot be done there.
//!
//! # Coming from deadpool-postgres
//!
//! `get`, `prepare_cached` and `transaction` are what they were. What differs:
//!
//! - [`RecyclingMethod`] is `Tidy` unless you say otherwise, which undoes what a user did to the session.
//!   `Fast`, which leaves it to the next one, is deadpool's default.
//! - The statement cache is bounded ([`Postgres::with_statement_cache`]), and
//!   `manager.statement_caches.clear()` is
//!   [`pool.clear_statement_caches()`](crate::Pool::clear_statement_caches).
//! - `query`, `query_one`, `query_opt` and `execute` are methods of [`Client`] and [`Transaction`] of their
//!   own. In generic code their bound is [`ToStatement`] of this module.
//! - A `RowStream`, `CopyInSink` or `CopyOutStream` that is kept for longer than its guard ends early: what
//!   it reads or writes is cancelled when the guard is dropped, and the stream ends with an error. Return
//!   the guard together with the stream, or collect the rows first. (deadpool-postgres gives the
//!   connection to the next user while it goes on.)

mod along;
mod cancel;
mod client;
mod debt;
mod driver;
#[cfg_attr(not(feature = "tls"), path = "unencrypted.rs")]
mod encryption;
mod error;
mod fields;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod idle;
mod line;
mod message;
#[cfg(shuttle)]
pub(crate) mod models;
mod notify;
mod opening;
mod parameter;
mod path;
mod protocol;
mod query;
mod reset;
mod role;
mod scanner;
mod setup;
mod statements;
#[cfg(test)]
mod tests;
mod transaction;
mod unbound;

/// The library underneath.
pub use tokio_postgres;

pub use client::Client;
pub use error::Error;
pub use notify::Notifications;
pub use protocol::Postgres;
pub use query::ToStatement;
pub use reset::RecyclingMethod;
pub use role::Target;
pub use setup::{SetupError, pool};
pub use statements::{StatementCache, Statements};
pub use transaction::{Transaction, TransactionBuilder};

#[cfg(test)]
use {
    fields::PgError,
    idle::unread,
    scanner::{PgScanner, Status},
};
