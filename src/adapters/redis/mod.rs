//! Redis, on the [`redis`](::redis) crate.
//!
//! ```no_run
//! use livepool::redis::Redis;
//! use livepool::redis::redis::AsyncCommands;
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Redis::from_url("redis://localhost/0")?.pool()?;
//! let mut conn = pool.get().await?;
//! let visits: i64 = conn.incr("visits", 1).await?;
//! # Ok(()) }
//! ```
//!
//! A connection goes back when its guard is dropped, if every command was answered. Replies that a
//! caller did not wait for are waited for in the background, and never reach the next one; a command
//! that may wait for long is not waited for: its connection is closed. `MULTI` and `WATCH` that were
//! left open are ended; a connection whose user, database or subscriptions are no longer those it
//! began with is closed.

mod client;
mod resp;
mod scanner;
mod url;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo, RedisError, Value,
};

pub use ::redis;
pub use client::Client;
pub use url::UrlError;

use client::Pushes;
use scanner::{RedisScanner, consequence_of};

#[cfg(feature = "tls")]
use crate::adapters::tls::{self, Tls};
use crate::config::{Config, ConfigError};
use crate::pool::Pool;
use crate::protocol::{Consequence, Protocol, Reuse, Unread};
use crate::stream::Wire;

/// Which server of a replicated Redis is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Whichever answers.
    #[default]
    Any,
    /// The one that takes writes. Others are passed over, for the next address of the pool.
    Master,
    /// One that does not.
    Replica,
}

/// How to talk to Redis. The [`Protocol`] of a pool.
#[derive(Clone)]
pub struct Redis {
    info: ConnectionInfo,
    role: Role,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// The URL asks for TLS.
    wants_tls: bool,
}

impl Redis {
    /// From a URL: `redis://[user:password@]host[:port][/database]`, `rediss://` with TLS, or
    /// `redis+unix:///path`.
    ///
    /// # Errors
    ///
    /// [`UrlError`], if it is none.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        let (info, wants_tls) = url::parse(url)?;
        Ok(Self { wants_tls, ..Self::new(info) })
    }

    /// From what the [`redis`](::redis) crate calls connection info: server, user, password,
    /// database, version of the protocol.
    pub fn new(info: ConnectionInfo) -> Self {
        let wants_tls = matches!(info.addr(), ::redis::ConnectionAddr::TcpTls { .. });
        Self {
            info,
            role: Role::Any,
            #[cfg(feature = "tls")]
            tls: None,
            wants_tls,
        }
    }

    /// Only servers of this role.
    #[must_use]
    pub fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Encrypts. Without this, a `rediss://` URL trusts the authorities that the system trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), wants_tls: true, ..self }
    }

    /// A pool's configuration that leads to the server in the URL.
    pub fn config(&self) -> Config {
        Config::new(url::upstream(self.info.addr()))
    }

    /// A pool with the default settings. For others, give this to
    /// [`Builder::protocol`](crate::Builder::protocol) with a changed [`config`](Self::config).
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the server in the URL is none that can be connected to.
    pub fn pool(self) -> Result<Pool<Self>, ConfigError> {
        Pool::builder(self.config()).protocol(self).build()
    }

    #[cfg(feature = "tls")]
    async fn encrypted(&self, wire: Wire) -> Result<Wire, RedisError> {
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None if !self.wants_tls => return Ok(wire),
            None => Tls::builder().with_native_roots().build().map_err(std::io::Error::other)?,
        };
        Ok(tls.connect(wire).await?)
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypted(&self, wire: Wire) -> Result<Wire, RedisError> {
        if self.wants_tls {
            return Err((ErrorKind::InvalidClientConfig, NEEDS_TLS).into());
        }
        Ok(wire)
    }
}

#[cfg(not(feature = "tls"))]
const NEEDS_TLS: &str = "rediss:// needs the feature \"tls\" of livepool";

const NOT_WANTED: &str = "this server has another role than the one wanted";

impl Protocol for Redis {
    type Client = Client;
    type Error = RedisError;

    async fn connect(&self, wire: Wire) -> Result<Client, RedisError> {
        let wire = self.encrypted(wire).await?;
        let scanner = Arc::new(Mutex::new(RedisScanner::default()));
        let ledger = wire.scan(Arc::clone(&scanner));
        let pushes = Pushes::default();
        // The pool has its own timeouts.
        let mut config = AsyncConnectionConfig::new().set_response_timeout(None);
        let settings = self.info.redis_settings();
        if settings.protocol() != ProtocolVersion::RESP2 {
            let pushes = Arc::clone(&pushes);
            config = config.set_push_sender(move |push: PushInfo| {
                if let Some(listener) = &*pushes.lock().unwrap_or_else(PoisonError::into_inner) {
                    // If whoever listened is gone, nobody misses it.
                    drop(listener.send(push));
                }
                Ok::<(), ::redis::aio::SendError>(())
            });
        }
        let task = wire.driver();
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(settings, wire, config).await?;
        tokio::spawn(task.run(driver));
        // A server that is loading its data says so here, and not to the first caller.
        ::redis::cmd("PING").exec_async(&mut connection).await?;
        self.check_role(&mut connection).await?;
        scanner.lock().unwrap_or_else(PoisonError::into_inner).begin();
        Ok(Client::new(connection, scanner, ledger, pushes))
    }

    async fn ping(&self, client: &mut Client) -> Result<(), RedisError> {
        ::redis::cmd("PING").exec_async(client).await
    }

    fn reuse(&self, client: &Client) -> Reuse {
        let scanner = client.scanner();
        let session = scanner.session();
        if session.is_spoilt || scanner.waits() {
            return Reuse::Never;
        }
        let is_clean = !session.in_transaction && !session.is_watching;
        if is_clean && client.owed() == 0 { Reuse::AsItIs } else { Reuse::AfterReset }
    }

    async fn reset(&self, client: &mut Client) -> Result<(), RedisError> {
        client.ledger().settled().await;
        let session = client.session();
        if session.in_transaction {
            ::redis::cmd("DISCARD").exec_async(client).await?;
        } else if session.is_watching {
            ::redis::cmd("UNWATCH").exec_async(client).await?;
        }
        Ok(())
    }

    /// `READONLY` makes every connection of no use: the server is a replica now. After `LOADING`,
    /// `MASTERDOWN` and errors of the connection this one is not reused; after any other it is.
    fn classify(&self, error: &RedisError) -> Consequence {
        match error.code() {
            Some(code) => consequence_of(code.as_bytes()),
            None if error.is_io_error() || error.is_unrecoverable_error() => Consequence::Evict,
            None => Consequence::Keep,
        }
    }

    /// A wrong user or password, a database that is not there, a certificate not to be trusted.
    fn is_permanent(&self, error: &RedisError) -> bool {
        if matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM")) {
            return true;
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => {
                error.category() != NOT_WANTED
            }
            // What the client library says of the first commands, it says in its own words.
            _ => {
                let text = error.to_string();
                let is_refused = text.contains("refused to switch database");
                self.is_distrusted(error) || (is_refused && !text.contains("LOADING"))
            }
        }
    }

    fn unread(&self, bytes: &[u8]) -> Unread {
        // RESP3: an invalidation, or a message that comes late.
        if bytes.first() == Some(&b'>') { Unread::Keep } else { Unread::Dirty }
    }
}

impl Redis {
    async fn check_role(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if self.role == Role::Any {
            return Ok(());
        }
        let answer: Vec<Value> = ::redis::cmd("ROLE").query_async(connection).await?;
        let role: String =
            ::redis::from_redis_value(answer.into_iter().next().unwrap_or(Value::Nil))?;
        let is_master = role == "master";
        if is_master == (self.role == Role::Master) {
            return Ok(());
        }
        Err((ErrorKind::Client, NOT_WANTED, format!("it is a {role}")).into())
    }

    #[cfg(feature = "tls")]
    fn is_distrusted(&self, error: &RedisError) -> bool {
        tls::is_distrusted(error)
    }

    #[cfg(not(feature = "tls"))]
    fn is_distrusted(&self, _: &RedisError) -> bool {
        false
    }
}

impl fmt::Debug for Redis {
    /// Without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("upstream", &url::upstream(self.info.addr()))
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}
