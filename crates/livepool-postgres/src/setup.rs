//! From a connection URL to a pool.

use std::net::SocketAddr;

use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::Postgres;
use super::url::{self, KeepaliveOptions, TlsFiles};
use livepool::Pool;
use livepool::config::{Config, SocketConfig};
#[cfg(any(feature = "tls", test))]
use livepool::net::PeerAddr;
use livepool::setup::{FromUrl, PoolOptions, SetupError};

/// The port that servers listen on by default.
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
    /// A protocol for the servers of this URL,
    /// `postgres://user:password@host1:5432,host2/database?...`, or of these settings, `host=...
    /// user=...`, as libpq has them. The URL's demands are met, or refused with what to write
    /// instead. The [module's page](crate) has a table of what `sslmode` means.
    ///
    /// The files of `sslrootcert`, `sslcert` and `sslkey` are read now. `sslrootcert=system`, or none where
    /// `sslmode` demands TLS, trusts the authorities that this system trusts.
    ///
    /// Settings of the pool may stand among the options, `?pool_max_size=16`: see [`PoolOptions`].
    ///
    /// # Errors
    ///
    /// [`SetupError`], if the URL is not understood, or a file cannot be read.
    pub fn from_url(url: &str) -> Result<Self, SetupError> {
        Self::from_url_with(url, PoolOptions::default())
    }

    #[cfg(feature = "tls")]
    fn read_files(&mut self, files: &TlsFiles) -> Result<(), SetupError> {
        use livepool_tls::Tls;

        let read = |name, path: &str| {
            std::fs::read(path)
                .map_err(|error| SetupError::url(format!("{name} cannot be read: {error}")))
        };
        let Some(root) = &files.root else {
            return match (&files.cert, &files.key) {
                (None, None) => {
                    self.trust_system();
                    Ok(())
                }
                _ => Err(SetupError::url(
                    "it names a certificate of ours and not whom to trust: give sslrootcert, a file \
                     or \"system\"",
                )),
            };
        };
        let mut tls = match root.as_str() {
            url::SYSTEM => Tls::builder().with_native_roots(),
            path => Tls::builder().with_root_pem(read("sslrootcert", path)?),
        };
        match (&files.cert, &files.key) {
            (None, None) => {}
            (Some(cert), Some(key)) => {
                tls = tls.with_client_pem(read("sslcert", cert)?, read("sslkey", key)?);
            }
            _ => return Err(SetupError::url("sslcert and sslkey go together")),
        }
        let tls = tls.build().map_err(|error| SetupError::url(error.to_string()))?;
        self.tls = Some(tls);
        self.has_tls_files = true;
        Ok(())
    }

    /// Trusts whom this system trusts, where the URL demands TLS and names nobody: as the URLs of clouds are.
    /// A system that trusts nobody is told of when a pool is made, which may be given a `Tls`.
    #[cfg(feature = "tls")]
    fn trust_system(&mut self) {
        let binds = self.config.get_channel_binding() == ChannelBinding::Require;
        if binds && self.config.get_ssl_mode() != SslMode::Disable
            || self.config.get_ssl_mode() == SslMode::Require
        {
            self.tls = livepool_tls::Tls::builder().with_native_roots().build().ok();
        }
    }

    #[cfg(not(feature = "tls"))]
    fn read_files(&mut self, files: &TlsFiles) -> Result<(), SetupError> {
        match files {
            TlsFiles { root: None, cert: None, key: None } => Ok(()),
            _ => Err(SetupError::url("sslrootcert needs the feature \"tls\" of livepool-postgres")),
        }
    }

    /// The configuration of its pool: where to connect, from the hosts and ports, how long that may take,
    /// what is said of keepalive, and what was changed; everything else has its default. A pool that is built
    /// with another [`Config`] connects where, and as, that one says.
    pub fn config(&self) -> Config {
        self.pool_config.clone()
    }

    /// The configuration that follows from the client library's, on top of this one.
    pub(super) fn config_on(&self, mut config: Config, options: &PoolOptions) -> Config {
        let limit = self.config.get_connect_timeout().filter(|limit| !limit.is_zero());
        if let (Some(limit), false) = (limit, options.is_in_url("timeouts.connect")) {
            config.timeouts = config.timeouts.with_connect(*limit);
        }
        config.socket = self.socket(config.socket, options);
        config
    }

    /// The socket's settings, changed as the URL says, but for those that it gives as the pool's.
    fn socket(&self, socket: SocketConfig, options: &PoolOptions) -> SocketConfig {
        // A word about the whole, `off` say, is one about each.
        let is_given = |value| options.is_in_url(&format!("socket.keepalive.{value}"));
        let said = KeepaliveOptions {
            is_on: self.keepalive.is_on.filter(|_| !options.is_in_url("socket.keepalive")),
            idle: self.keepalive.idle.filter(|_| !is_given("idle")),
            interval: self.keepalive.interval.filter(|_| !is_given("interval")),
            retries: self.keepalive.retries.filter(|_| !is_given("retries")),
        };
        if said == KeepaliveOptions::default() {
            return socket;
        }
        let mut keepalive = socket.keepalive.clone().unwrap_or_default();
        keepalive.idle = said.idle.or(keepalive.idle);
        keepalive.interval = said.interval.or(keepalive.interval);
        keepalive.retries = said.retries.or(keepalive.retries);
        socket.with_keepalive(Some(keepalive).filter(|_| said.is_on != Some(false)))
    }

    /// The name that belongs to this address: with `host=db.example hostaddr=192.0.2.1` the address is
    /// dialed, and the name is in the certificate.
    #[cfg(any(feature = "tls", test))]
    pub(super) fn name_of(&self, peer: &PeerAddr) -> Option<&str> {
        let PeerAddr::Tcp(peer) = peer else { return None };
        let addrs = self.config.get_hostaddrs().iter().enumerate();
        let mut hosts = addrs.zip(self.config.get_hosts());
        hosts.find_map(|((index, addr), host)| match host {
            Host::Tcp(host) if SocketAddr::new(*addr, self.port(index)) == *peer => {
                Some(host.as_str()).filter(|host| !host.is_empty())
            }
            _ => None,
        })
    }

    fn port(&self, index: usize) -> u16 {
        let ports = self.config.get_ports();
        ports.get(index).or(ports.first()).copied().unwrap_or(PORT)
    }

    pub(super) fn upstream(&self) -> Result<Vec<String>, SetupError> {
        let (hosts, addrs) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let count = if addrs.is_empty() { hosts.len() } else { addrs.len() };
        if count == 0 {
            return Err(SetupError::url(
                "it names no host; write postgres://user@host:5432/database",
            ));
        }
        if !addrs.is_empty() && !hosts.is_empty() && addrs.len() != hosts.len() {
            return Err(SetupError::url("it has as many of hostaddr as of host, or only one kind"));
        }
        if ports.len() > 1 && ports.len() != count {
            let (ports, hosts) = (ports.len(), count);
            return Err(SetupError::url(format!(
                "it has {ports} ports for {hosts} hosts; give one for all, or one for each"
            )));
        }
        let port = |index: usize| self.port(index);
        let entry = |index: usize| match (addrs.get(index), hosts.get(index)) {
            (Some(addr), _) => SocketAddr::new(*addr, port(index)).to_string(),
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
        let entries: Vec<_> = (0..count).map(entry).collect();
        // Nobody could say whose certificate it has.
        let is_twice =
            |at: usize| entries[..at].contains(&entries[at]) && hosts.get(at) != hosts.first();
        if !addrs.is_empty() && (1..count).any(is_twice) {
            return Err(SetupError::url("it names one hostaddr and port for two hosts"));
        }
        Ok(entries)
    }

    /// Refuses demands that would only fail with the first connection, or never be met. A
    /// connection checks again, as a pool may be built without this.
    pub(super) fn check_demands(&self) -> Result<(), SetupError> {
        let mode = self.config.get_ssl_mode();
        let binds = self.config.get_channel_binding() == ChannelBinding::Require;
        if self.has_tls_files() && self.was_given_tls {
            return Err(SetupError::url(
                "sslrootcert says whom to trust, and so does with_tls(): leave one of them out",
            ));
        }
        if binds && mode == SslMode::Disable {
            return Err(SetupError::url("channel_binding=require goes with sslmode=verify-full"));
        }
        if (binds || mode == SslMode::Require) && !self.has_tls() {
            let what = if binds { "channel_binding" } else { "sslmode" };
            return Err(SetupError::url(if cfg!(feature = "tls") {
                format!(
                    "{what} demands TLS, and nobody says whom to trust, nor does this system: give \
                     sslrootcert, a file or \"system\", or with_tls(Tls::builder()..build()?)"
                )
            } else {
                format!("{what} demands TLS, which needs the feature \"tls\" of livepool-postgres")
            }));
        }
        let direct = self.config.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && mode != SslMode::Require {
            return Err(SetupError::url("sslnegotiation=direct goes with sslmode=require only"));
        }
        Ok(())
    }
}

/// What the client library says of a URL, as far as it repeats nothing that may be a secret.
pub(super) fn unreadable(error: &tokio_postgres::Error) -> SetupError {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.as_deref().and_then(url::harmless).unwrap_or("it cannot be read");
    SetupError::url(format!("{cause}; write postgres://user:password@host:5432/database"))
}

impl FromUrl for Postgres {
    fn from_url_with(url: &str, mut options: PoolOptions) -> Result<Self, SetupError> {
        let demands = url::read(url, &mut options)?;
        let mut postgres = Self::new(demands.config);
        postgres.keepalive = demands.keepalive;
        if let Some(target) = demands.target {
            postgres = postgres.with_target(target);
        }
        let given = options.config_for(postgres.upstream().unwrap_or_default())?;
        postgres.pool_config = postgres.config_on(given, &options);
        if let Some(statements) = demands.statements {
            postgres = postgres.with_statements(statements);
        }
        postgres.read_files(&demands.files)?;
        Ok(postgres)
    }

    fn config_mut(&mut self) -> &mut Config {
        &mut self.pool_config
    }

    fn check(&self) -> Result<(), SetupError> {
        if self.pool_config.upstream.is_empty() {
            self.upstream()?;
        }
        self.check_demands()
    }
}

livepool::url_methods!(Postgres);

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    fn upstream(url: &str) -> Vec<String> {
        Postgres::from_url(url).unwrap().config().upstream
    }

    fn refused(url: &str) -> String {
        match Postgres::from_url(url).and_then(Postgres::builder) {
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
        assert_eq!(upstream("postgres://me@db:5/app?port=6"), ["db:6"]);
        assert_eq!(upstream("postgres://me@db/app?port=6"), ["db:6"]);
        assert_eq!(upstream("postgres://me@[::1]:5,db/app?port=6"), ["[::1]:6", "db:6"]);
        assert_eq!(upstream("postgres://me@db:5/app?host=a"), ["a:5"]);
        assert_eq!(upstream("postgres://me@db,eu/app?host=a&host=b"), ["b:5432"]);
        assert_eq!(upstream("postgres:///app?host=a,b&port=1,2"), ["a:1", "b:2"]);
        assert_eq!(upstream("postgres://a:1,b:2/?sslmode=disable"), ["a:1", "b:2"]);
        #[cfg(unix)]
        for (text, path) in [
            ("host=/run/pg port=6", "unix:/run/pg/.s.PGSQL.6"),
            ("postgres://me@%2Frun%2Fpg/app?port=6", "unix:/run/pg/.s.PGSQL.6"),
            ("postgres://me:p%2Fw@localhost/app?host=/run/pg", "unix:/run/pg/.s.PGSQL.5432"),
            ("postgres://localhost?host=/cloudsql/p:r:i", "unix:/cloudsql/p:r:i/.s.PGSQL.5432"),
        ] {
            assert_eq!(upstream(text), [path], "{text}");
        }
    }

    #[test]
    fn the_time_to_connect_is_taken_from_the_url() {
        let config = Postgres::from_url("postgres://me@db?connect_timeout=7").unwrap();
        let timeouts = config.config().timeouts;
        assert_eq!(timeouts.connect, Some(Duration::from_secs(7)));
    }

    #[test]
    fn each_address_has_the_name_that_stands_beside_it() {
        let text = "host=one,two,,four hostaddr=192.0.2.1,192.0.2.2,192.0.2.3,::1 port=1,2,3,4";
        let postgres = Postgres::from_url(text).unwrap();
        let name = |addr: &str| postgres.name_of(&PeerAddr::Tcp(addr.parse().unwrap()));
        assert_eq!(name("192.0.2.1:1"), Some("one"));
        assert_eq!(name("192.0.2.2:2"), Some("two"));
        assert_eq!(name("[::1]:4"), Some("four"));
        for other in ["192.0.2.1:2", "192.0.2.3:3", "192.0.2.9:1"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn keepalive_is_what_the_url_says_of_it_and_else_the_pools() {
        let of = |text: &str| Postgres::from_url(text).unwrap().config().socket.keepalive;
        let keepalive = of("host=db keepalives_idle=60 keepalives_retries=4").unwrap();
        assert_eq!((keepalive.idle, keepalive.retries), (Some(Duration::from_secs(60)), Some(4)));
        assert_eq!(keepalive.interval, of("host=db").unwrap().interval);
        assert_eq!(of("host=db keepalives=0"), None);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn files_that_cannot_be_used_are_named_by_their_option() {
        for (text, expected) in [
            ("sslrootcert=/no/such/secret", "sslrootcert cannot be read"),
            ("sslcert=/no/such/secret sslkey=/no", "whom to trust"),
            ("sslrootcert=system sslcert=/no/such/secret", "go together"),
        ] {
            let error = Postgres::from_url(&format!("host=db {text}")).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_change() {
        for (url, text) in [
            ("postgres://me@db:notaport", "postgres://user:password@host:5432/database"),
            ("mysql://me@db", "postgres://user:password@host:5432/database"),
            ("user=me", "names no host"),
            ("host=a,b port=1,2,3", "give one for all, or one for each"),
            #[cfg(not(feature = "tls"))]
            ("host=a channel_binding=require", "tls"),
            ("host=a sslmode=disable channel_binding=require", "sslmode=verify-full"),
            #[cfg(not(feature = "tls"))]
            ("host=a sslmode=require", "tls"),
            #[cfg(not(feature = "tls"))]
            ("host=a sslmode=verify-full", "tls"),
            ("host=a sslnegotiation=direct", "sslmode=require only"),
            ("host=a,b hostaddr=192.0.2.1,192.0.2.1", "for two hosts"),
            ("host=a,b hostaddr=192.0.2.1", "as many of hostaddr"),
        ] {
            let error = refused(url);
            assert!(error.contains(text), "{url}: {error}");
        }
    }
}
