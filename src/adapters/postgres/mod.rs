//! PostgreSQL, on [`tokio_postgres`].
//!
//! ```no_run
//! use livepool::postgres::Postgres;
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Postgres::from_url("postgres://app:secret@db:5432/app")?.pool()?;
//! let mut client = pool.get().await?;
//! let insert = client.prepare_cached("INSERT INTO visits DEFAULT VALUES").await?;
//! let transaction = client.transaction().await?;
//! transaction.execute(&insert, &[]).await?;
//! transaction.commit().await?;
//! # Ok(()) }
//! ```
//!
//! A session goes back when its guard is dropped, if nothing is owed on it and it is in no
//! transaction. A query whose caller went away is cancelled at the server, in the background, and an
//! open transaction rolled back; only then has the next caller the session. A query that passes its
//! deadline ends its connection, and is cancelled at the server as well.
//!
//! # Time
//!
//! The read timeout (30 s) runs while an answer is owed and nothing comes: not while notifications
//! are waited for, nor while the server waits for the data of a `COPY`. A query that may be silent for
//! longer says so: [`set_read_timeout`](crate::Guard::set_read_timeout). A server that died meanwhile
//! is found all the same.

mod cancel;
mod client;
mod encryption;
mod error;
mod frames;
mod handshake;
mod reset;
mod scanner;
mod statements;
mod transaction;

use std::fmt;
use std::str::FromStr;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

pub use tokio_postgres;

pub use client::Client;
pub use error::Error;
pub use reset::ResetMode;
pub use statements::StatementCache;
pub use transaction::{Transaction, TransactionBuilder};

#[cfg(feature = "tls")]
use crate::adapters::tls::{self, Tls};
use crate::config::{Config, ConfigError, Timeouts};
use crate::pool::Pool;
use crate::protocol::{Consequence, Protocol, Reuse, Unread};
use crate::stream::Wire;

/// Which of several servers is wanted. Others are passed over, for the next address of the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Whichever answers.
    #[default]
    Any,
    /// One whose sessions may write.
    ReadWrite,
    /// One whose sessions may not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
}

/// How to talk to PostgreSQL. The [`Protocol`] of a pool.
#[derive(Clone)]
pub struct Postgres {
    config: tokio_postgres::Config,
    target: Target,
    reset: ResetMode,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Postgres {
    /// From a URL, as libpq has it: `postgres://user:password@host1:5432,host2:5432/database`, with
    /// `?sslmode=require`, `?target_session_attrs=read-write` and the like.
    ///
    /// # Errors
    ///
    /// [`Error::Url`], if it is none.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Ok(Self::new(tokio_postgres::Config::from_str(url).map_err(Error::Url)?))
    }

    /// From the client library's configuration. Its keepalive settings are not used: those of the
    /// pool's [`SocketConfig`](crate::config::SocketConfig) are.
    pub fn new(config: tokio_postgres::Config) -> Self {
        let target = match config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Target::ReadWrite,
            TargetSessionAttrs::ReadOnly => Target::ReadOnly,
            _ => Target::Any,
        };
        Self {
            config,
            target,
            reset: ResetMode::Fast,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Only such servers.
    #[must_use]
    pub fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// What is done to a session before its next user has it.
    #[must_use]
    pub fn with_reset(self, reset: ResetMode) -> Self {
        Self { reset, ..self }
    }

    /// Encrypts, as `sslmode` says: with `require` always, with `prefer` (the default) where the
    /// server can. Without this, `require` trusts the authorities that the system trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// A pool's configuration that leads to the servers in the URL.
    pub fn config(&self) -> Config {
        let mut timeouts = Timeouts::default();
        if let Some(connect) = self.config.get_connect_timeout() {
            timeouts = timeouts.with_connect(*connect);
        }
        Config::new("").with_upstream(self.upstream()).with_timeouts(timeouts)
    }

    /// A pool with the default settings. For others, give this to
    /// [`Builder::protocol`](crate::Builder::protocol) with a changed [`config`](Self::config).
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if a server in the URL is none that can be connected to.
    pub fn pool(self) -> Result<Pool<Self>, ConfigError> {
        Pool::builder(self.config()).protocol(self).build()
    }

    fn upstream(&self) -> Vec<String> {
        let ports = self.config.get_ports();
        let port = |index: usize| match ports {
            [] => 5432,
            [one] => *one,
            several => several.get(index).copied().unwrap_or(5432),
        };
        let addrs = self.config.get_hostaddrs();
        if !addrs.is_empty() {
            let at = |(index, addr)| std::net::SocketAddr::new(addr, port(index)).to_string();
            return addrs.iter().copied().enumerate().map(at).collect();
        }
        let at = |(index, host): (usize, &Host)| match host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", port(index)),
            Host::Tcp(host) => format!("{host}:{}", port(index)),
            #[cfg(unix)]
            Host::Unix(dir) => format!("unix:{}/.s.PGSQL.{}", dir.display(), port(index)),
        };
        self.config.get_hosts().iter().enumerate().map(at).collect()
    }
}

impl Protocol for Postgres {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        self.shake_hands(wire).await
    }

    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        Ok(client.check_connection().await?)
    }

    fn reuse(&self, client: &Client) -> Reuse {
        self.judge(client)
    }

    async fn reset(&self, client: &mut Client) -> Result<(), Error> {
        self.make_fit(client).await
    }

    /// A server that became read-only (`25006`), or is going away (`57P01` to `57P03`), makes every
    /// session of no use; a session that ended itself, or a server out of resources, this one. The
    /// pool learns that from the wire, without being told.
    fn classify(&self, error: &Error) -> Consequence {
        match error {
            Error::Postgres(error) => match error.code() {
                Some(code) => scanner::consequence_of(code.code().as_bytes()),
                // The connection's, or the client's own: a parameter of the wrong type, say.
                None if error.is_closed() => Consequence::Evict,
                None => match std::error::Error::source(error) {
                    Some(source) if source.is::<std::io::Error>() => Consequence::Evict,
                    _ => Consequence::Keep,
                },
            },
            _ => Consequence::Evict,
        }
    }

    /// A wrong user, password or database; a certificate not to be trusted; settings that cannot be.
    fn is_permanent(&self, error: &Error) -> bool {
        match error {
            Error::Postgres(error) => match error.code().map(|code| code.code()) {
                Some("53300") | Some("57P03") => false,
                Some(code) => ["28", "3D", "42", "0A", "22"].iter().any(|c| code.starts_with(c)),
                // A password that is missing, say.
                None => error.to_string().contains("invalid configuration"),
            },
            #[cfg(feature = "tls")]
            Error::Tls(error) => tls::is_distrusted(error),
            Error::Url(_) | Error::Settings(_) => true,
            _ => false,
        }
    }

    fn unread(&self, bytes: &[u8]) -> Unread {
        scanner::unread(bytes)
    }
}

impl fmt::Debug for Postgres {
    /// Without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("upstream", &self.upstream())
            .field("target", &self.target)
            .field("reset", &self.reset)
            .finish_non_exhaustive()
    }
}

/// What `sslmode` asks for, where the library may learn other modes.
fn wants_tls(config: &tokio_postgres::Config) -> Option<bool> {
    match config.get_ssl_mode() {
        SslMode::Disable => None,
        SslMode::Prefer => Some(false),
        _ => Some(true),
    }
}
