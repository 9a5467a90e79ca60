//! [`Redis`]: where to connect, as whom, and to what kind of server.

use std::fmt;

use ::redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo};

use super::transport::Transport;
use livepool::config::Config;
use livepool::protocol::{Credentials, CredentialsRequest, CredentialsSource};
use livepool::setup::{FromUrl, PoolOptions, SetupError};
use std::sync::Arc;

/// The kind of server that a connection must lead to, asked with `ROLE` during the handshake.
///
/// ```
/// use livepool_redis::{Redis, Role};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Redis::from_url("redis://cache1:6379")?
///     .with_role(Role::Master)
///     .with_config(|config| config.with_upstream(["cache1:6379", "cache2:6379"]))
///     .pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Any server.
    #[default]
    Any,
    /// A server that takes writes. Where `upstream` has several addresses, those of replicas are
    /// passed over, so that a failover is followed.
    Master,
    /// A server that only copies. A write fails, and closes that connection and no other.
    Replica,
}

/// The Redis protocol, as a pool needs it. Give it to
/// [`Builder::protocol`](livepool::Builder::protocol), or call [`pool`](Self::pool).
///
/// Servers that speak the same protocol, as Valkey does, are meant as well.
///
/// ```
/// use livepool_redis::Redis;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Redis::from_url("redis://:secret@cache.internal:6379/2?protocol=resp3")?.pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone)]
pub struct Redis {
    /// The settings, shared by every client of the pool.
    pub(super) settings: Arc<RedisSettings>,
    /// The configuration of its pool.
    pub(super) config: Config,
}

#[derive(Clone)]
pub(super) struct RedisSettings {
    pub(super) info: RedisConnectionInfo,
    pub(super) role: Role,
    pub(super) transport: Transport,
    /// Who logs in, where that is asked for each dial.
    pub(super) credentials: Option<CredentialsSource>,
}

impl Redis {
    /// From a URL:
    ///
    /// - `redis://[user:password@]host[:port][/db]`; without a port it is 6379
    /// - `rediss://...` the same over TLS, with the feature `tls`
    /// - `redis+unix:///path[?db=1&user=name&pass=secret]` for a Unix socket
    ///
    /// `?protocol=resp3` asks for the newer protocol. `valkey` may be written for `redis`. Settings of the
    /// pool may stand behind: `?pool_max_size=32`, see [`PoolOptions`].
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what to change and never repeats the password.
    pub fn from_url(url: impl AsRef<str>) -> Result<Self, SetupError> {
        Self::from_url_with(url.as_ref(), PoolOptions::default())
    }

    /// From the crate's own description of a connection. The description's TCP settings are not
    /// used: sockets are as [`Config::socket`](livepool::Config::socket) has them.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what to change.
    pub fn from_info(info: ConnectionInfo) -> Result<Self, SetupError> {
        let (upstream, transport) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host_port(host, *port), Transport::Plain),
            ConnectionAddr::TcpTls { insecure: true, .. } => return Err(insecure()),
            // Silently without them, a server would be trusted that is not, or be shown nobody.
            ConnectionAddr::TcpTls { tls_params: Some(_), .. } => {
                return Err(SetupError::protocol(
                    "certificates in a ConnectionInfo are not used: leave them out there, and give \
                     them with with_tls()",
                ));
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                (host_port(host, *port), Transport::system_tls()?)
            }
            ConnectionAddr::Unix(path) => (format!("unix:{}", path.display()), Transport::Plain),
            other => return Err(SetupError::protocol(format!("cannot connect to {other}"))),
        };
        let info = info.redis_settings().clone();
        if info.db() < 0 {
            return Err(SetupError::protocol(format!(
                "the database must be a number from 0, not {}",
                info.db()
            )));
        }
        Ok(Self {
            config: Config::new(upstream),
            settings: Arc::new(RedisSettings {
                info,
                role: Role::Any,
                transport,
                credentials: None,
            }),
        })
    }

    /// The address that its URL names.
    pub(super) fn upstream(&self) -> String {
        self.config.upstream.first().cloned().unwrap_or_default()
    }

    /// The same at another address.
    pub(super) fn at(mut self, upstream: String) -> Self {
        self.config = self.config.with_upstream([upstream]);
        self
    }

    /// The same for servers of this kind only.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        Arc::make_mut(&mut self.settings).role = role;
        self
    }

    /// The same over TLS, with these certificates. `rediss://` alone trusts the authorities that this
    /// system trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: livepool_tls::Tls) -> Self {
        Arc::make_mut(&mut self.settings).transport = Transport::with_tls(tls);
        self
    }

    /// Has this callback asked for the password of every dial, and for its user: a token of a cloud's
    /// IAM, what a Vault gives out. [`Credentials::password_only`] keeps the user of the URL, if it has
    /// one, `rediss://orders@cache`; what the URL says of the password is not used. A connection that is
    /// logged in stays so, whatever becomes of its token; where the server ends it after a time, set
    /// [`max_lifetime`](livepool::Config::max_lifetime) below that.
    ///
    /// The callback is asked once per dial, when the connection stands and is encrypted, by at most
    /// [`max_connecting`](livepool::Config::max_connecting) dials at a time, and within what is left of
    /// `timeouts.connect`: one that gives a token of its cache answers at once. One that fails, panics
    /// or takes too long fails the dial, whose error says so; the pool pauses and tries again, as after
    /// any other failure.
    ///
    /// Credentials that the server refuses are asked for once more, with
    /// [`was_refused`](livepool::protocol::CredentialsRequest::was_refused) set, while the caller waits;
    /// if the new ones are refused as well, that is told at once, as a wrong password is.
    ///
    /// ```no_run
    /// # async fn token_for(host: Option<&str>, fresh: bool) -> std::io::Result<String> { Ok(String::new()) }
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_redis::{Credentials, Redis};
    ///
    /// let pool = Redis::from_url("rediss://cache.example")?
    ///     .with_credentials(|request| async move {
    ///         let token = token_for(request.host(), request.was_refused()).await?;
    ///         std::io::Result::Ok(Credentials::new("orders", token))
    ///     })
    ///     .pool()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_credentials<F, R, E>(mut self, callback: F) -> Self
    where
        F: Fn(CredentialsRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let source = CredentialsSource::new(callback);
        Arc::make_mut(&mut self.settings).credentials = Some(source);
        self
    }

    /// The configuration of its pool: the URL's address, and what was changed. Several addresses of the same
    /// service go into [`upstream`](livepool::Config::upstream).
    pub fn config(&self) -> Config {
        self.config.clone()
    }
}

impl FromUrl for Redis {
    fn from_url_with(url: &str, options: PoolOptions) -> Result<Self, SetupError> {
        super::url::parse(url, options)
    }

    fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    fn check(&self) -> Result<(), SetupError> {
        let RedisSettings { info, credentials, .. } = &*self.settings;
        if credentials.is_none() && info.username().is_some() && info.password().is_none() {
            return Err(SetupError::protocol(
                "there is a user and no password, so nobody would be logged in: write \
                 user:password, or leave the user out",
            ));
        }
        Ok(())
    }
}

livepool::url_methods!(Redis);

/// An IPv6 address is in brackets where a port follows.
fn host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("upstream", &self.config.upstream)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a password beside it, it may be one.
        let user = self.info.username().filter(|_| self.info.password().is_some());
        f.debug_struct("Settings")
            .field("user", &user)
            .field("db", &self.info.db())
            .field("role", &self.role)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

pub(super) fn insecure() -> SetupError {
    SetupError::protocol(
        "a certificate that is not checked protects nobody: leave #insecure out, and name the authority \
         to trust with with_tls()",
    )
}
