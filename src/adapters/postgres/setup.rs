//! From a connection URL to a pool.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::Postgres;
use crate::config::{Config, ConfigError, Timeouts};
use crate::pool::{Builder, Pool};

/// The port servers listen on if nobody says otherwise.
const PORT: u16 = 5432;

/// A pool for the server at this URL, `postgres://user:password@host:5432/database`, or of these
/// settings, `host=... user=...`, with the defaults of [`Config`]. [`Postgres::builder`] gives a
/// choice.
///
/// # Errors
///
/// [`SetupError`], with what to change.
pub fn pool(url: &str) -> Result<Pool<Postgres>, SetupError> {
    Postgres::from_url(url)?.pool()
}

impl Postgres {
    /// For the servers of this URL, `postgres://user:password@host1:5432,host2/database?...`, or of
    /// these settings, `host=... user=...`: what [`tokio_postgres::Config`] understands.
    ///
    /// # Errors
    ///
    /// [`SetupError`], if it is not understood.
    pub fn from_url(url: &str) -> Result<Self, SetupError> {
        if has_stray_at(url) {
            return Err(SetupError::new(
                "an \"@\" in a user, a password or a database must be written %40",
            ));
        }
        let config = tokio_postgres::Config::from_str(url).map_err(SetupError::url)?;
        Ok(Self::new(config))
    }

    /// The pool's configuration: where to connect, from the hosts and ports, and how long that may
    /// take; everything else has its default. Keepalive and user timeout are those of a
    /// [`Config`], not of the URL.
    ///
    /// # Errors
    ///
    /// [`SetupError`], if something is missing or cannot be done.
    pub fn config(&self) -> Result<Config, SetupError> {
        self.check()?;
        let mut config = Config::default().with_upstream(self.upstream()?);
        if let Some(limit) = self.config.get_connect_timeout().filter(|limit| !limit.is_zero()) {
            config = config.with_timeouts(Timeouts::default().with_connect(*limit));
        }
        Ok(config)
    }

    /// A pool with the [configuration](Self::config) that follows from the URL.
    ///
    /// # Errors
    ///
    /// As [`config`](Self::config).
    pub fn pool(self) -> Result<Pool<Self>, SetupError> {
        Ok(self.builder(|config| config)?.build()?)
    }

    /// As [`pool`](Self::pool), with the configuration changed, and to be observed:
    /// `postgres.builder(|config| config.with_max_size(4))?.build()?`.
    ///
    /// # Errors
    ///
    /// As [`config`](Self::config).
    pub fn builder(
        self,
        change: impl FnOnce(Config) -> Config,
    ) -> Result<Builder<Self>, SetupError> {
        Ok(Pool::builder(change(self.config()?)).protocol(self))
    }

    fn upstream(&self) -> Result<Vec<String>, SetupError> {
        let (hosts, addrs) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let count = if addrs.is_empty() { hosts.len() } else { addrs.len() };
        if count == 0 {
            return Err(SetupError::new(
                "it names no host; write postgres://user@host:5432/database",
            ));
        }
        if !addrs.is_empty() && !hosts.is_empty() && addrs.len() != hosts.len() {
            return Err(SetupError::new("it has as many of hostaddr as of host, or only one kind"));
        }
        if ports.len() > 1 && ports.len() != count {
            let (ports, hosts) = (ports.len(), count);
            return Err(SetupError::new(&format!(
                "it has {ports} ports for {hosts} hosts; give one for all, or one for each"
            )));
        }
        let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
        let entry = |index: usize| match (addrs.get(index), hosts.get(index)) {
            (Some(addr), _) => std::net::SocketAddr::new(*addr, port(index)).to_string(),
            (None, Some(Host::Tcp(host))) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                format!("[{host}]:{}", port(index))
            }
            (None, Some(Host::Tcp(host))) => format!("{host}:{}", port(index)),
            #[cfg(unix)]
            (None, Some(Host::Unix(path))) => {
                format!("unix:{}/.s.PGSQL.{}", path.display(), port(index))
            }
            (None, None) => String::new(),
        };
        Ok((0..count).map(entry).collect())
    }

    /// What would only be found out with the first connection, or never. Each connection asks again:
    /// a pool may be built without this.
    pub(super) fn check(&self) -> Result<(), SetupError> {
        if self.config.get_channel_binding() == ChannelBinding::Require {
            return Err(SetupError::new(
                "channel_binding=require is not supported; leave it out, and require TLS with a \
                 certificate that is checked",
            ));
        }
        if self.config.get_ssl_mode() == SslMode::Require && !self.has_tls() {
            return Err(SetupError::new(if cfg!(feature = "tls") {
                "sslmode=require, and nobody says whom to trust: give with_tls(Tls::builder()\
                 .with_native_roots().build()?)"
            } else {
                "sslmode=require needs the feature \"tls\" of livepool"
            }));
        }
        let direct = self.config.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && self.config.get_ssl_mode() != SslMode::Require {
            return Err(SetupError::new("sslnegotiation=direct goes with sslmode=require only"));
        }
        Ok(())
    }
}

/// Whether there is an `@` that parts nothing. The library would take the first for the end of the
/// password, and what follows for a host, a database or an option, which are no secrets.
fn has_stray_at(url: &str) -> bool {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let Some((_, after)) = rest.and_then(|rest| rest.split_once('@')) else { return false };
    match after.split_once('?') {
        // In the value of an option it stands for itself.
        Some((names, options)) if options.split('&').all(|option| option.contains('=')) => {
            names.contains('@')
        }
        _ => after.contains('@'),
    }
}

/// Options that have a name in libpq, known to the library or not. Any other word may be a piece of a
/// password with a space in it.
const OPTIONS: [&str; 45] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "user",
];

/// What the library says is wrong, as far as it repeats nothing that may be a secret.
fn harmless(cause: &str) -> Option<&str> {
    let named = |text: &'static str| cause.strip_prefix(text)?.strip_suffix('`');
    if let Some(option) = named("unknown option `") {
        let is_known = OPTIONS.contains(&option) || option == "target_session_attrs";
        return Some(if is_known { cause } else { "it has an option that nobody knows" });
    }
    let fixed = ["invalid value for option `", "unexpected EOF", "unterminated"];
    fixed.iter().any(|text| cause.starts_with(text)).then_some(cause)
}

/// A URL, settings or a configuration that cannot be used. Its text repeats no value of them.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// The connection URL; the text says what to change.
    Url(String),
    /// The pool's configuration.
    Config(ConfigError),
}

impl SetupError {
    fn new(text: &str) -> Self {
        Self::Url(text.to_owned())
    }

    fn url(error: tokio_postgres::Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let cause = cause.as_deref().and_then(harmless).unwrap_or("it cannot be read");
        Self::Url(format!("{cause}; write postgres://user:password@host:5432/database"))
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(text) => write!(f, "the connection URL cannot be used: {text}"),
            Self::Config(error) => error.fmt(f),
        }
    }
}

/// Its text carries its cause, and so it has no source.
impl std::error::Error for SetupError {}

impl From<ConfigError> for SetupError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    fn upstream(url: &str) -> Vec<String> {
        Postgres::from_url(url).unwrap().config().unwrap().upstream
    }

    fn refused(url: &str) -> String {
        match Postgres::from_url(url).and_then(|postgres| postgres.config()) {
            Ok(config) => panic!("{url}: {config:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn hosts_ports_and_sockets_become_the_upstream() {
        assert_eq!(upstream("postgres://me@db/app"), ["db:5432"]);
        assert_eq!(upstream("postgres://me@a:1,b:2/app"), ["a:1", "b:2"]);
        assert_eq!(upstream("host=a,b port=7"), ["a:7", "b:7"]);
        assert_eq!(upstream("host=::1"), ["[::1]:5432"]);
        assert_eq!(upstream("host=db hostaddr=192.0.2.1"), ["192.0.2.1:5432"]);
        #[cfg(unix)]
        assert_eq!(upstream("host=/run/pg port=6"), ["unix:/run/pg/.s.PGSQL.6"]);
    }

    #[test]
    fn the_time_to_connect_is_taken_from_the_url() {
        let config = Postgres::from_url("postgres://me@db?connect_timeout=7").unwrap();
        let timeouts = config.config().unwrap().timeouts;
        assert_eq!(timeouts.connect, Some(Duration::from_secs(7)));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_change() {
        for (url, text) in [
            ("postgres://me@db:notaport", "postgres://user:password@host:5432/database"),
            ("mysql://me@db", "postgres://user:password@host:5432/database"),
            ("user=me", "names no host"),
            ("host=a,b port=1,2,3", "give one for all, or one for each"),
            ("host=a channel_binding=require", "leave it out"),
            ("host=a sslmode=require", "tls"),
        ] {
            let error = refused(url);
            assert!(error.contains(text), "{url}: {error}");
        }
    }
}
