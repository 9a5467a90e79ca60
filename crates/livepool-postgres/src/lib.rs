//! PostgreSQL, on [`tokio_postgres`].
//!
//! The library logs statements and their parameters at `debug`, with the target `tokio_postgres`:
//! leave it out of your filter where those may hold secrets.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use livepool_postgres::{PoolExt as _, Postgres};
//!
//! let pool = Postgres::from_url("postgres://me:secret@db.example/orders?pool_idle_timeout=5m")?
//!     .with_config(|config| config.with_max_size(16))
//!     .pool()?;
//! // One statement by itself, or several on one client:
//! let row = pool.query_one("SELECT 1 + $1::int4", &[&1]).await?;
//! let client = pool.get().await?;
//! let statement = client.prepare_cached("SELECT $1::text || ' world'").await?;
//! let row = client.query_one(&statement, &[&"hello"]).await?;
//! println!("{}", row.get::<_, String>(0));
//! # Ok(()) }
//! ```
//!
//! A pool of these does what the client library alone does not:
//!
//! - **A guard may be dropped at any moment.** The bytes are read along, so the pool knows what is
//!   owed and whether a transaction is open. A query that nobody waits for any more is cancelled at
//!   the server, a transaction is rolled back, a subscription to notifications ended; only then is
//!   the connection used again. If that cannot be done within `timeouts.reset`, it is closed.
//! - **No query goes on for nobody.** That of a connection that timed out, was interrupted or closed
//!   is cancelled as well, and until it has ended nobody has its place.
//! - **A living server may take its time.** By default no read times out: a statement may take
//!   hours, and while it does the server's host has to give a sign of life every second or so. No
//!   use waits longer than [`timeouts.operation`](livepool::config::Timeouts::operation), if that
//!   is set, or [`Guard::deadline`](livepool::Guard::deadline). With
//!   [`timeouts.read`](livepool::config::Timeouts::read) set, an idle connection, one that listens,
//!   or one that waits for *our* data in a `COPY` still has none; a query that may take longer than
//!   others says so: [`Guard::set_read_timeout`](livepool::Guard::set_read_timeout).
//! - **Whoever waits is told why it ends**, also one who has only a `&tokio_postgres::Client`:
//!   where the pool ends a connection, the client reads an error in the server's form, unless the
//!   server was in the middle of a message. The error's severity is `FATAL`, its text begins with
//!   "livepool", and its code is `57014` (`query_canceled`) when a read timeout or a deadline was
//!   over, `08006` (`connection_failure`) when the server was found dead, `57P01`
//!   (`admin_shutdown`) when the pool was closed or interrupted, `54000` (`program_limit_exceeded`)
//!   for a message above `limits.message`.
//! - **A cached statement that became useless fails nobody.** Its table was altered, its type made anew,
//!   `search_path` set, `DISCARD ALL` said: it is prepared anew. See [`Client::query`], and
//!   [`Postgres::clear_statement_caches`].
//! - **The next user finds the session as it was**: settings, role, locks and temporary tables of the
//!   last one are gone, and only who left something pays a round trip. See [`RecyclingMethod`].
//! - **A change of role ends all connections.** A write that is refused because the server has
//!   become read-only invalidates the pool, and with [`Target::ReadWrite`] the next dial goes to
//!   the host that takes writes. A user has to report nothing.
//!
//! ## Encryption
//!
//! The demands of the URL are met or refused, whatever way the pool is built, before a password is
//! sent. The authorities to trust stand in the URL, `sslrootcert=/path/ca.pem` or
//! `sslrootcert=system` (and the client's certificate: `sslcert`, `sslkey`), or are given to
//! [`Postgres::with_tls`]. Where the URL demands TLS and names none, they are those that this system
//! trusts: what a cloud's own authority has signed needs its file (RDS, Supabase, DigitalOcean, Aiven).
//!
//! | `sslmode` | encrypted | the certificate is checked for |
//! |---|---|---|
//! | `disable` | never | |
//! | `allow`, `prefer` (the default) | if the server has TLS and the pool was told whom to trust; else in clear, with [`Event::Unencrypted`](livepool::Event::Unencrypted) | authority, time and name, when it is encrypted |
//! | `require`, `verify-ca`, `verify-full` | always, or no connection | authority, time and name |
//!
//! Without that check nothing is encrypted, so that `require` and `verify-ca` are stricter than
//! libpq's. With `hostaddr` the address is dialed and the name is that of the `host` beside it.
//! Over a Unix socket PostgreSQL has no TLS: `prefer` does not ask there, and what demands it is
//! refused.
//!
//! The password is bound to the server's certificate (`channel_binding=prefer`, SCRAM-SHA-256-PLUS)
//! where the server offers that and the certificate is signed with one hash, as RSA and ECDSA do;
//! with `channel_binding=require` nobody is logged in otherwise. A proxy that decrypts and encrypts
//! anew is what this finds: behind one of your own write `channel_binding=disable`. The other
//! options that libpq knows are done, or say what is so anyhow, or are refused with what to write
//! instead.
//!
//! ## Many callers on one session
//!
//! [`Pool::share`](livepool::Pool::share) gives a [`SharedClient`]: a part of a session that up to
//! [`max_shares`](livepool::Config::max_shares) callers use at the same time. Another session is used when
//! each has 16.
//!
//! ## Notifications
//!
//! [`Pool::listen`](livepool::Pool::listen) gives what other sessions say with `NOTIFY`, for as long as the
//! pool is open:
//!
//! ```no_run
//! use livepool_postgres::livepool::Delivery;
//!
//! # async fn look_for_jobs() {}
//! # async fn f(pool: livepool_postgres::livepool::Pool<livepool_postgres::Postgres>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let mut subscription = pool.listen(["jobs"]).await?;
//! while let Some(delivery) = subscription.next().await {
//!     match delivery {
//!         Delivery::Message(message) => println!("job {}", message.payload()),
//!         // The connection had ended, or some were not read in time: the table knows.
//!         _ => look_for_jobs().await,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! When its session ends, whatever the reason, it takes another one, listens again, and then says
//! [`Reconnected`](livepool::Delivery::Reconnected): a server keeps no notifications for those who are away,
//! and whoever looks up at that word what there is misses nothing. It has a connection of the pool while it
//! lives, so that `max_size` has to have room for it. A host that is gone is found as for a query that waits;
//! a server that stands still, by a question every
//! [`heartbeat`](livepool::SubscriptionConfig::heartbeat). That asks for the channels the session listens on:
//! a session that a proxy has exchanged is given up. What is kept for a slow reader is bounded, and what is
//! dropped is counted. [`Subscription::listen`](livepool::Subscription::listen) and `unlisten` change the
//! channels while it runs. Names are taken as they are: `jobs` is what `NOTIFY jobs` and `NOTIFY "jobs"` say,
//! `Jobs` what `NOTIFY "Jobs"` says.
//!
//! ## Transactions that are made again
//!
//! [`TransactionRetry`] runs a transaction, and makes it again when the server gave it up for the sake of
//! another one: `40001` (serialization failure) and `40P01` (deadlock).
//!
//! ## Cancelling
//!
//! A query is cancelled when its guard is dropped, when its connection ends in the middle of it,
//! and by [`Client::cancel_token`]. PostgreSQL takes that over a connection of its own: it is made
//! as those of the pool are, to the same address, encrypted as the other one is, within
//! `timeouts.connect`; at most `max_connecting` at a time, and one at a time for each connection;
//! and it stays open until the server has closed it. Requests are events:
//! [`Event::CancelRequested`](livepool::Event::CancelRequested). Behind a balancer it may reach
//! another server than the session has, as that of any client.
//!
//! The place of a connection that ends in the middle of a query is free when the server has closed
//! its side, after the statement has ended there: so no more than `max_size` work for one pool. The
//! wait takes 5 s at most after the server has taken the request, and is left out if the request
//! cannot be made, or if something speaks against the server (it was silent, or reset the
//! connection, or the pool was invalidated). [`Status::ending`](livepool::Status::ending) counts
//! them.
//!
//! ## diesel-async
//!
//! [`Postgres::with_library`] is for libraries that take a [`tokio_postgres::Client`] for themselves. Its
//! guards are what diesel-async queries with. All that stands here holds for them, with three exceptions:
//! they cannot be shared, `listen` wants a pool of plain clients, and the statement cache is diesel's own. It
//! lives as long as the session, and is emptied when the session has lost its statements, or one of them
//! became useless: the query that finds that out fails, and none after it.
//!
//! ```no_run
//! use std::borrow::Cow;
//! use std::error::Error;
//!
//! use diesel::connection::CacheSize;
//! use diesel::prelude::*;
//! use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
//! use livepool_postgres::{Library, Postgres, tokio_postgres};
//!
//! struct Diesel;
//!
//! impl Library for Diesel {
//!     type Client = AsyncPgConnection;
//!     type Error = Box<dyn Error + Send + Sync>;
//!
//!     async fn begin(&self, client: tokio_postgres::Client) -> Result<Self::Client, Self::Error> {
//!         Ok(AsyncPgConnection::try_from(client).await?)
//!     }
//!
//!     async fn batch_execute(&self, conn: &mut Self::Client, sql: &str) -> Result<(), Self::Error> {
//!         Ok(conn.batch_execute(sql).await?)
//!     }
//!
//!     fn forget_transaction(&self, conn: &mut Self::Client) {
//!         *conn.transaction_state() = Default::default();
//!     }
//!
//!     // Another size begins with an empty cache.
//!     fn forget_statements(&self, conn: &mut Self::Client) {
//!         conn.set_prepared_statement_cache_size(CacheSize::Disabled);
//!         conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
//!     }
//!
//!     fn settings(&self) -> Cow<'_, str> {
//!         Cow::Borrowed("SET TIME ZONE 'UTC'; SET CLIENT_ENCODING TO 'UTF8'")
//!     }
//! }
//!
//! diesel::table! {
//!     orders (id) { id -> Int8, customer -> Text, amount -> Int4, }
//! }
//!
//! # async fn f(url: &str) -> Result<(), Box<dyn Error>> {
//! let pool = Postgres::from_url(url)?.with_library(Diesel).pool()?;
//! let mut conn = pool.get().await?;
//! let of_ann = orders::table.filter(orders::customer.eq("ann")).select(orders::amount);
//! let amounts: Vec<i32> = of_ann.load(&mut conn).await?;
//! conn.transaction(async |conn| diesel::delete(orders::table).execute(conn).await).await?;
//! # Ok(()) }
//! # fn main() {}
//! ```
//!
//! `Diesel` is to be copied: a feature of this crate would tie it to diesel-async's next major version.
//! `transaction_state` is hidden in the docs of diesel-async, where the wrappers of its own pools use it.
//! `examples/diesel.rs` runs.
//!
//! ## Errors
//!
//! | error of the server | what goes |
//! |---|---|
//! | `25006`, a write where only reading is allowed | all connections, if the server is a standby or its setting says so; this connection, if its user had set `default_transaction_read_only`; none, if the transaction was begun to read only, or the pool asked for a server that takes no writes ([`Target::Standby`], [`Target::ReadOnly`]) |
//! | `57P02`, `57P03`, `57P04`: crashed, starting, database gone | all connections |
//! | `57P01`, ended by an administrator | this connection: a server that stops says it on each one, and one terminated backend is no reason to leave the others |
//! | any other after which the server closes | this connection |
//! | `26000`, an unknown prepared statement; `42P05`, one that is there already | this connection, as `protocol_error` |
//! | any other | none |
//!
//! ## Behind PgBouncer and others
//!
//! A proxy that gives each transaction another session of the server (PgBouncer in transaction mode, RDS
//! Proxy, Supavisor, pgcat) does not know prepared statements, `SET`, `LISTEN` or advisory locks as one
//! connection has them. [`Postgres::with_statements`] with [`Statements::Unnamed`] is for those;
//! `docs/poolers.md` says when it is needed, and what cannot be done there.
//!
//! ## Coming from deadpool-postgres
//!
//! `get`, `prepare_cached` and `transaction` are what they were, and so is `cancel_token`, whose
//! type is ours and which does nothing once the connection has gone back. The differences:
//!
//! - Whoever keeps the deadpool has all of this in it, with
//!   [`build_manager`](livepool::Builder::build_manager), or our sockets under deadpool-postgres' own
//!   manager: `examples/postgres_on_deadpool.rs`.
//! - [`RecyclingMethod`] is `Tidy` unless you say otherwise, which undoes what a user did to the session.
//!   `Fast`, which leaves it to the next one, is deadpool's default.
//! - The statement cache is bounded ([`Postgres::with_statement_cache`]), and
//!   `manager.statement_caches.clear()` is
//!   [`postgres.clear_statement_caches()`](Postgres::clear_statement_caches).
//! - `query`, `query_one`, `query_opt` and `execute` are methods of [`Client`] and [`Transaction`] of their
//!   own. In generic code their bound is [`ToStatement`] of this module.
//! - deadpool's hooks are those of [`Postgres::builder`]: `post_create` is
//!   [`after_connect`](livepool::Builder::after_connect), `pre_recycle` and `post_recycle` are
//!   [`before_checkout`](livepool::Builder::before_checkout). `examples/from_deadpool.rs` has them.
//! - Generic code finds `prepare_cached` in [`GenericClient`], which [`Client`],
//!   [`Guard<Postgres>`](livepool::Guard) and [`Transaction`] have. It says the same as deadpool's. Code that
//!   clorinde generates has a trait of its own: one implementation for all of ours, with the cache, is in
//!   `crates/tests/tests/generated_queries.rs`. `refinery` takes the library's own client, `&mut **guard`.
//! - A `RowStream`, `CopyInSink` or `CopyOutStream` that is kept for longer than its guard ends early: what
//!   it reads or writes is cancelled when the guard is dropped, and the stream ends with an error. Return
//!   the guard together with the stream, or collect the rows first. (deadpool-postgres gives the
//!   connection to the next user while it goes on.)

mod cancel;
#[cfg(feature = "tls")]
mod channel_binding;
mod client;
mod driver;
mod driver_stream;
mod encryption;
mod error;
#[cfg(any(test, feature = "__properties"))]
#[doc(hidden)]
pub mod fuzzed;
mod generic_client;
mod library;
mod line;
mod listen;
#[cfg(shuttle)]
#[doc(hidden)]
pub mod models;
mod notify;
mod outstanding;
mod pool_ext;
mod protocol;
mod query;
mod reset;
mod role;
mod scanner;
mod search_path;
mod session;
mod session_scanner;
mod setup;
mod shared;
#[cfg(test)]
mod simulated;
mod statement_text;
mod statements;
mod sync;
#[cfg(test)]
mod tests;
mod transaction_retry;
mod unclaimed;
mod url;
mod wire_format;

/// The pool.
pub use livepool;
/// What [`Postgres::with_credentials`] asks for.
pub use livepool::protocol::{Credentials, CredentialsError, CredentialsRequest};
/// Settings of the pool, for [`Postgres::with_config`], and why no pool could be made.
pub use livepool::{Config, SetupError};
/// The library underneath.
pub use tokio_postgres;

pub use cancel::CancelToken;
pub use client::{Client, Transaction, TransactionBuilder};
pub use error::Error;
pub use generic_client::GenericClient;
pub use library::{Library, LibraryClient, LibraryPostgres};
pub use notify::Notifications;
pub use pool_ext::PoolExt;
pub use protocol::Postgres;
pub use query::ToStatement;
pub use reset::RecyclingMethod;
pub use role::Target;
pub use setup::pool;
pub use shared::{SharedClient, request_lost};
pub use statements::{StatementCache, Statements};
pub use transaction_retry::TransactionRetry;

/// A pool of these.
///
/// ```
/// use livepool_postgres::{Error, Pool, PoolExt as _};
///
/// async fn visits(pool: &Pool) -> Result<i64, Error> {
///     Ok(pool.query_one("SELECT count(*) FROM visits", &[]).await?.get(0))
/// }
/// ```
pub type Pool = livepool::Pool<Postgres>;

/// A client that was taken out of a [`Pool`].
///
/// ```
/// use livepool_postgres::Guard;
/// use livepool_postgres::tokio_postgres::Error;
///
/// async fn visit(client: &mut Guard) -> Result<(), Error> {
///     let transaction = client.transaction().await?;
///     transaction.execute("UPDATE visits SET count = count + 1", &[]).await?;
///     transaction.commit().await
/// }
/// ```
pub type Guard = livepool::Guard<Postgres>;

/// `url` and `pool`, as a configuration file says them.
///
/// ```
/// # #[cfg(feature = "serde")]
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let settings: livepool_postgres::Settings = toml::from_str(
///     r#"
///         url = "postgres://app:secret@db.internal/orders"
///         pool = { max_size = 16, idle_timeout = "5m" }
///     "#,
/// )?;
/// let pool = settings.pool()?;
/// # Ok(()) }
/// # #[cfg(feature = "serde")] f().unwrap();
/// ```
pub type Settings = livepool::Settings<Postgres>;

#[cfg(test)]
use {
    scanner::{PgScanner, TransactionStatus},
    wire_format::{PgError, unread},
};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
