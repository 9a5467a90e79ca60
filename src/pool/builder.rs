//! [`Builder`]: a pool, and what is no plain data about it.

use std::fmt;

use crate::config::{Config, ConfigError, check_ping};
use crate::event::Observer;
use crate::foreign::Held;
use crate::net::{Resolve, Resolver};
use crate::pool::acquire::ping::{Ping, Pinger};
use crate::pool::conn::erased::erase;
use crate::pool::inner::PoolInner;
use crate::pool::manager::Manager;
use crate::pool::{Owner, Pool};
use crate::protocol::{Protocol, Raw};
use crate::stream::Connector;
use crate::sync::Arc;
use crate::telemetry::Facts;

/// Makes a [`Pool`].
///
/// ```
/// use livepool::{Config, Event, Pool};
///
/// let pool = Pool::builder(Config::new("db.internal:5432"))
///     .observer(|pool: &str, event: &Event| println!("{pool}: {event:?}"))
///     .build()
///     .unwrap();
/// ```
#[must_use = "a builder does nothing until build() is called"]
pub struct Builder<P: Protocol = Raw> {
    config: Config,
    observer: Option<Arc<dyn Observer>>,
    resolver: Resolver,
    pinger: Pinger,
    protocol: P,
}

impl Builder {
    pub(in crate::pool) fn new(config: Config) -> Self {
        let (resolver, pinger) = (Resolver::default(), Pinger::default());
        Self { config, observer: None, resolver, pinger, protocol: Raw::default() }
    }

    /// Has idle connections pinged before they are handed out, as
    /// [`Config::validation`](crate::Config::validation) says. A protocol has its own ping.
    pub fn ping(mut self, ping: impl Ping) -> Self {
        self.pinger = Pinger(Some(Held::new(Arc::new(ping))));
        self
    }

    /// Has callers get the clients of this protocol instead of bare streams.
    pub fn protocol<P: Protocol>(self, protocol: P) -> Builder<P> {
        let Self { config, observer, resolver, pinger, .. } = self;
        Builder { config, observer, resolver, pinger, protocol }
    }
}

impl<P: Protocol> Builder<P> {
    /// Sends every event of the pool to `observer` as well.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Has names looked up by `resolver` instead of the system's.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Resolver::custom(resolver);
        self
    }

    /// Checks the configuration and makes the pool.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn build(self) -> Result<Pool<P>, ConfigError> {
        Ok(Pool::of(Arc::new(Owner(Arc::new(self.inner()?)))))
    }

    /// Makes a [`Manager`] instead, for a plain `deadpool::managed::Pool`, of the same parts.
    ///
    /// A setting that deadpool decides itself (`max_size`, who waits and for how long) or has no hook
    /// for has to be left at its default: no setting is ignored.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_manager(self) -> Result<Manager<P>, ConfigError> {
        // Before the other rules: who takes a pool's configuration is told what a plain deadpool
        // lacks.
        self.config.check_for_deadpool()?;
        Ok(Manager::of(Arc::new(Owner(Arc::new(self.inner()?)))))
    }

    fn inner(self) -> Result<PoolInner, ConfigError> {
        let connector = Connector::of_pool(&self.config, self.observer)?;
        let connector = connector.resolved_by(self.resolver);
        let protocol = erase(self.protocol);
        let has_ping = match &protocol {
            Some(protocol) => protocol.has_ping(),
            None => self.pinger.0.is_some(),
        };
        check_ping(connector.settings().validation, has_ping)?;
        let inner = PoolInner::new(connector, self.pinger, protocol);
        let protocol = inner.protocol.as_ref().map(|protocol| protocol.speaks());
        inner.emitter().introduce(Facts::of(inner.settings(), protocol));
        // Its series are there from now on, and not from its first event: a pool that nobody uses, or
        // that cannot connect, is seen, and a first failure as an increase.
        inner.refresh_gauges();
        Ok(inner)
    }
}

impl<P: Protocol> fmt::Debug for Builder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
