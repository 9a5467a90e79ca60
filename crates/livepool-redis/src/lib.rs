//! Redis, and what speaks its protocol, with the client library `redis`.
//!
//! ```no_run
//! use livepool_redis::{PoolExt as _, Redis, redis};
//! use redis::AsyncCommands;
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Redis::from_url("redis://cache.internal:6379/0?pool_idle_timeout=5m")?
//!     .with_config(|config| config.with_max_size(16))
//!     .pool()?;
//! // One command by itself, or several on one connection:
//! let name: Option<String> = pool.query(redis::cmd("GET").arg("user:7:name")).await?;
//! let mut conn = pool.connection().await?;
//! let _: () = conn.set("greeting", "hello").await?;
//! let text: String = redis::cmd("GET").arg("greeting").query_async(&mut conn).await?;
//! assert_eq!(text, "hello");
//! // Dropped, it goes back: every answer has come.
//! # Ok(()) }
//! ```
//!
//! # Why a pool
//!
//! A multiplexed connection serves many callers well, until one of them waits. A connection of a
//! pool is yours alone while you hold it, so these are safe on it:
//!
//! - **Commands that wait**: `BLPOP`, `XREAD BLOCK`, `WAIT` and their like are answered whenever there
//!   is an answer; `timeouts.read` is not for them. Bound them yourself: with their own timeout, or
//!   with [`Guard::deadline`](livepool::Guard::deadline), after which the connection is closed. A peer
//!   that is gone is noticed all the same; a server process that stands still is not, so give a
//!   deadline to what must not wait for ever.
//! - **Transactions**: `WATCH`, `MULTI` and `EXEC` see no commands of others in between.
//! - **Subscriptions**: see [below](#subscriptions). [`Client::into_pubsub`] makes the crate's own
//!   subscriber of a connection that was taken out of its pool.
//!
//! # What the next user gets
//!
//! A connection that comes back is looked at, without asking the server:
//!
//! | it has | what becomes of it |
//! |---|---|
//! | every answer, and is as it was | the next user gets it |
//! | answers to come, of callers who went away | they are waited for, within `timeouts.reset`, in the background |
//! | an open transaction, watched keys, another database | `DISCARD`, `UNWATCH`, `SELECT`, likewise |
//! | a command that waits, given up | it is closed: nobody waits for it |
//! | a subscription, `MONITOR`, another user, a name, tracking, replies switched off | it is closed |
//!
//! A caller who goes away does not take a command back: the server may carry it out or have done so.
//!
//! # What the pool learns from answers
//!
//! `READONLY` and `MASTERDOWN` say that this server is no longer the one to talk to, and so does
//! `UNBLOCKED` where it ends a command that waited because the master turned: every connection made
//! before is used no more. `LOADING` and `NOAUTH` cost the one connection, with reason
//! `protocol_error`. Every other error is between the command and its caller. The word counts where
//! a server puts it: first in an error, also in one of an answer's elements, or first in the error
//! that is wrapped, as a script's was before Redis 7 (`ERR Error running script …: -READONLY …`)
//! and as `EXECABORT … because of: READONLY …` does. Elsewhere the word does not count, since
//! errors repeat what clients send.
//!
//! A server that is loading, is full, or does not have the [`Role`] that is wanted is passed over when
//! a connection is made; one that refuses the password, has no such database or is no Redis at all is
//! not asked twice.
//!
//! # Redis Sentinel
//!
//! [`sentinel::Sentinel`] makes a pool of connections to whichever server is the master of a name, and
//! follows failovers.
//!
//! # Redis Cluster
//!
//! [`cluster::Cluster`] has a pool for each node, and sends each command to the node of its slot.
//!
//! # Many callers on one connection
//!
//! [`Pool::share`](livepool::Pool::share) gives a [`SharedConnection`]: a part of a connection that up to
//! [`max_shares`](livepool::Config::max_shares) callers use at the same time, as few connections as can be.
//! What concerns the connection itself or may wait is refused there before it is sent.
//!
//! # Subscriptions
//!
//! [`Pool::listen`](livepool::Pool::listen) gives what others publish, for as long as the pool is open:
//!
//! ```no_run
//! use livepool_redis::livepool::{Delivery, Pool};
//! use livepool_redis::{Channel, Redis};
//!
//! # async fn read_all_anew() {}
//! # async fn f(pool: Pool<Redis>) -> Result<(), Box<dyn std::error::Error>> {
//! let mut subscription = pool.listen(["jobs"]).await?;
//! subscription.listen(Channel::pattern("news.*")).await?;
//! while let Some(delivery) = subscription.next().await {
//!     match delivery {
//!         Delivery::Message(message) => {
//!             println!("{}: {}", message.get_channel_name(), message.get_payload::<String>()?);
//!         }
//!         // The connection had ended, or some were not read in time.
//!         _ => read_all_anew().await,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! When its connection ends, whatever the reason, it takes another one, subscribes again, and then says
//! [`Reconnected`](livepool::Delivery::Reconnected): a server keeps no messages for those who are away, and
//! whoever looks up at that word what there is misses nothing. It has a connection of the pool while it
//! lives, so that `max_size` has to have room for it; dropped, it closes it. A host that is gone is found as
//! for a command that waits; a server that stands still, by a ping every
//! [`heartbeat`](livepool::SubscriptionConfig::heartbeat). What is kept for a slow reader is bounded, and what
//! is dropped is counted. A channel that the user may not read (`NOPERM`) is refused to whoever asked for it.
//! Sharded channels (`SSUBSCRIBE`) are not among what it does.
//!
//! # Proxies
//!
//! A ping has a payload and takes nothing but that for its answer, and whether a connection can be
//! made fit for its next user is found out with `ECHO`. Behind a proxy that answers neither, do without
//! [`Validation::Ping`](livepool::config::Validation::Ping); what would be put right is closed instead.

mod abandoned;
mod classify;
mod client;
pub mod cluster;
mod command;
mod command_parser;
mod connection;
#[cfg(any(test, feature = "__properties"))]
#[doc(hidden)]
pub mod fuzzed;
mod handshake;
mod line;
mod listen;
mod numbers;
mod protocol;
mod pubsub;
mod reply_parser;
mod scanner;
pub mod sentinel;
mod session;
mod settings;
mod shared;
mod shared_wire;
#[cfg(test)]
mod tests;
mod transport;
mod url;

#[cfg(test)]
use line::Word;
use scanner::{RedisScanner, unread};

/// The library underneath.
pub use ::redis;
pub use client::Client;
pub use connection::{Connection, PoolExt, checkout_error};
pub use listen::Channel;
/// The pool.
pub use livepool;
/// What [`Redis::with_credentials`] asks for.
pub use livepool::protocol::{Credentials, CredentialsError, CredentialsRequest};
/// Settings of the pool, for [`Redis::with_config`], and why no pool could be made.
pub use livepool::{Config, SetupError};
pub use settings::{Redis, Role};
pub use shared::{SharedConnection, request_lost};

/// A pool for the server of this URL, `redis://[user:password@]host[:port][/db]`, with the defaults of
/// [`Config`]. [`Redis::from_url`] gives a choice.
///
/// ```
/// let pool = livepool_redis::pool("redis://cache.internal").unwrap();
/// ```
///
/// # Errors
///
/// [`SetupError`], with what to change.
pub fn pool(url: &str) -> Result<Pool, SetupError> {
    Redis::from_url(url)?.pool()
}

/// A pool of these.
///
/// ```
/// use livepool_redis::redis::{RedisResult, cmd};
/// use livepool_redis::{Pool, PoolExt as _};
///
/// async fn count(pool: &Pool) -> RedisResult<i64> {
///     pool.query(cmd("INCR").arg("visits")).await
/// }
/// ```
pub type Pool = livepool::Pool<Redis>;

/// A client that was taken out of a [`Pool`].
///
/// ```
/// use livepool_redis::Guard;
/// use livepool_redis::redis::{AsyncCommands, RedisResult};
///
/// async fn count(client: &mut Guard) -> RedisResult<i64> {
///     client.incr("visits", 1).await
/// }
/// ```
pub type Guard = livepool::Guard<Redis>;

/// `url` and `pool`, as a configuration file says them.
///
/// ```
/// use livepool_redis::{Redis, Role, Settings, SetupError};
///
/// fn cache(settings: &Settings) -> Result<livepool_redis::Pool, SetupError> {
///     Redis::from_settings(settings)?.with_role(Role::Master).pool()
/// }
/// ```
pub type Settings = livepool::Settings<Redis>;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
