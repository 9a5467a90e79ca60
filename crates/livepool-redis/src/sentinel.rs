//! Redis Sentinel: a pool of connections to whichever server is the master now.
//!
//! ```no_run
//! use livepool_redis::sentinel::Sentinel;
//! use livepool_redis::{Redis, redis::AsyncCommands};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let sentinel = Sentinel::new("mymaster", ["10.0.0.1:26379", "10.0.0.2:26379", "10.0.0.3:26379"])?;
//! let pool = sentinel.pool(Redis::from_url("redis://:secret@mymaster/0")?)?;
//!
//! let mut conn = pool.get().await?;
//! let _: () = conn.set("greeting", "hello").await?;
//! # Ok(()) }
//! ```
//!
//! Every dial asks the sentinels where the master is: all at once, until a majority agrees. One that is
//! silent or has not heard of the last failover keeps nobody waiting. What it says is not trusted either:
//! each new connection is asked for its role (`ROLE`), and a server that is no master is passed over, as
//! the error of the dial says.
//!
//! While the pool is open, a subscription to each sentinel waits for `+switch-master`. At the first word of
//! it every connection to the old master is closed, those in use too ([`Interrupted`](livepool::Interrupted)):
//! what is written there is lost, and nobody answers who waits there. Callers who wait get connections to the
//! new one. A sentinel that stands still is noticed ([`Pool::listen`](livepool::Pool::listen)), and nothing
//! is missed for good: after any gap, and every 10 s, the sentinels are asked.
//!
//! A server that answers `READONLY` is no master any more: that closes the connections as well, and the
//! next dial asks the sentinels.
//!
//! Each failover has a number. A later one is believed at the word of a single sentinel; another address for
//! the same one, or without a number, where more than half of them name it.
//!
//! Other sentinels of the same master are found through those that were given, up to 16 together. Each has a
//! pool of two connections, whose events and metrics are those of any pool, under the name of this one with
//! `sentinel` and a number behind it.

mod error;
mod said;
mod watch;

use std::time::Duration;

use livepool::config::Config;
use livepool::setup::FromUrl;
use livepool::{Builder, Pool, SetupError};

use crate::settings::{Redis, Role};
pub use error::SentinelError;
use watch::{MOST_SENTINELS, SentinelResolver, Watch};

/// Sentinels, and the name of the master that they watch. Makes pools of connections to that master, or to
/// its replicas. See the [module](self).
///
/// ```
/// use livepool_redis::Redis;
/// use livepool_redis::sentinel::Sentinel;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let sentinel = Sentinel::new("mymaster", ["redis://:secret@sentinel1:26379", "sentinel2:26379"])?;
/// let redis = Redis::from_url("redis://:other-secret@mymaster/0")?;
/// let writes = sentinel.pool(redis.clone())?;
/// let reads = sentinel.replicas().pool(redis)?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Sentinel {
    master: String,
    sentinels: Vec<Redis>,
    timeout: Duration,
    role: Role,
}

impl Sentinel {
    /// The sentinels at these addresses, and the name under which they know the master. An address is
    /// `host:port`, or a URL with what the sentinel itself wants: `redis://user:password@host:port`,
    /// `rediss://…` with the feature `tls`. 1 to 16 addresses; a few of them have to be reachable.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what to change.
    pub fn new<S: AsRef<str>>(
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = S>,
    ) -> Result<Self, SetupError> {
        let master = master.into();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if master.is_empty() || master.len() > 200 || !master.chars().all(fits) {
            return Err(SetupError::protocol(format!(
                "the name of a master has letters, digits, \".\", \"-\" and \"_\", as in the sentinels' \
                 configuration (sentinel monitor <name> ...); {master:?} is none"
            )));
        }
        let mut all = Vec::new();
        for sentinel in sentinels {
            let sentinel = sentinel.as_ref();
            let redis = match sentinel.contains("://") {
                true => Redis::from_url(sentinel)?,
                // Sentinel's own port. The colons of an IPv6 address are within its brackets.
                false if !sentinel.contains(':') || sentinel.ends_with(']') => {
                    Redis::from_url(format!("redis://{sentinel}:26379"))?
                }
                false => Redis::from_url(format!("redis://{sentinel}"))?,
            };
            FromUrl::check(&redis)?;
            if redis.settings.info.db() != 0 {
                return Err(SetupError::protocol(
                    "a sentinel has no databases: leave the number out",
                ));
            }
            all.push(redis);
        }
        if !(1..=MOST_SENTINELS).contains(&all.len()) {
            return Err(SetupError::protocol(format!(
                "1 to {MOST_SENTINELS} sentinels have to be given, not {}",
                all.len()
            )));
        }
        let timeout = Duration::from_secs(1);
        Ok(Self { master, sentinels: all, timeout, role: Role::Master })
    }

    /// The same with this limit for a connection to a sentinel, for an answer of one, and for the signs of
    /// life of those that are followed. Default 1 s; at least 1 ms. All of it is within the pool's
    /// `timeouts.connect`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with TLS to the sentinels, with these certificates. For the master it is given to
    /// [`Redis::with_tls`]: with the name of the certificate, since the sentinels name an address.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: &livepool_tls::Tls) -> Self {
        let sentinels = std::mem::take(&mut self.sentinels);
        self.sentinels = sentinels.into_iter().map(|redis| redis.with_tls(tls.clone())).collect();
        self
    }

    /// The same for the replicas of this master: pools to read from. Connections are spread over those that
    /// the sentinels take for alive. After a failover new ones are made.
    #[must_use]
    pub fn replicas(mut self) -> Self {
        self.role = Role::Replica;
        self
    }

    /// A pool of connections to the master, with the configuration of `redis`. What that says of an address
    /// is not used, and its [`Role`] is set here. Without a name of its own the pool has that of the master.
    /// (For replicas the sentinels are asked for them every 10 s, unless another `dns_refresh` is set.)
    ///
    /// # Errors
    ///
    /// [`SetupError`], if an address of a sentinel is none, the timeout is out of its bounds, or the
    /// configuration breaks a rule.
    pub fn pool(&self, redis: Redis) -> Result<Pool<Redis>, SetupError> {
        self.pool_with(redis, |builder| builder)
    }

    /// The same with observers and hooks.
    ///
    /// ```
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_redis::Redis;
    /// use livepool_redis::sentinel::Sentinel;
    ///
    /// let sentinel = Sentinel::new("mymaster", ["sentinel1:26379"])?;
    /// let redis = Redis::from_url("redis://mymaster")?.with_config(|config| config.with_max_size(32));
    /// let pool = sentinel.pool_with(redis, |builder| {
    ///     builder.observer(|_: &str, event: &livepool::Event| println!("{event:?}"))
    /// })?;
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`pool`](Self::pool).
    pub fn pool_with(
        &self,
        redis: Redis,
        with: impl FnOnce(Builder<Redis>) -> Builder<Redis>,
    ) -> Result<Pool<Redis>, SetupError> {
        FromUrl::check(&redis)?;
        let config = self.config_of(&redis);
        let (master, name) = (self.master.clone(), config.name.clone());
        let watch = Watch::new(master, name, self.role, self.timeout, &self.sentinels)?;
        let resolver = SentinelResolver::new(std::sync::Arc::clone(&watch));
        let builder = Pool::builder(config).protocol(redis.with_role(self.role));
        let pool = with(builder).resolver(resolver).build()?;
        watch.attach(&pool);
        Ok(pool)
    }

    fn config_of(&self, redis: &Redis) -> Config {
        let mut config = redis.config.clone().with_upstream([self.upstream()]);
        let is_for_reading = self.role == Role::Replica;
        if config.name.is_empty() {
            let whose = if is_for_reading { " replicas" } else { "" };
            config.name = format!("{}{whose}", self.master);
        }
        if is_for_reading && config.dns_refresh == Config::default().dns_refresh {
            config.dns_refresh = Some(Duration::from_secs(10));
        }
        config
    }

    /// A name, so that it is looked up, and one that no master has, whatever it is called.
    fn upstream(&self) -> String {
        format!("{}.sentinel:6379", self.master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_change() {
        let refused = |master: &str, sentinels: &[&str]| {
            Sentinel::new(master, sentinels).unwrap_err().to_string()
        };
        assert!(refused("my master", &["h:1"]).contains("is none"));
        assert!(refused("", &["h:1"]).contains("is none"));
        assert!(refused("m", &[]).contains("1 to 16 sentinels"));
        assert!(refused("m", &["h:1"; 17]).contains("1 to 16 sentinels"));
        assert!(refused("m", &["redis://:hunter2@h:1/3"]).contains("no databases"));
        assert!(!refused("m", &["redis://:hunter2#@h:1"]).contains("hunter2"));
    }

    #[test]
    fn addresses_may_be_short_and_a_pool_is_named_as_its_master() {
        let sentinel =
            Sentinel::new("10.5", ["h", "h:7", "[::1]", "[::1]:7", "redis://:x@[::1]:8"]).unwrap();
        let addrs: Vec<_> = sentinel.sentinels.iter().map(Redis::upstream).collect();
        assert_eq!(addrs, ["h:26379", "h:7", "[::1]:26379", "[::1]:7", "[::1]:8"]);
        let pool = sentinel.pool(Redis::from_url("redis://any").unwrap()).unwrap();
        assert_eq!(pool.name(), "10.5");
        assert_eq!(
            sentinel.replicas().pool(Redis::from_url("redis://any").unwrap()).unwrap().name(),
            "10.5 replicas"
        );
    }
}
