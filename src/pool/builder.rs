//! [`Builder`]: a pool, and what is no plain data about it.

use std::fmt;
use std::sync::Arc;

use super::inner::Inner;
use super::ping::{Ping, Pinger};
use super::{Owner, Pool};
use crate::config::{Config, ConfigError, check_ping};
use crate::event::Observer;
use crate::net::{Resolve, Resolver};
use crate::stream::Connector;

/// Makes a [`Pool`].
#[must_use = "a builder does nothing until build() is called"]
pub struct Builder {
    config: Config,
    observer: Option<Arc<dyn Observer>>,
    resolver: Resolver,
    pinger: Pinger,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, observer: None, resolver: Resolver::default(), pinger: Pinger::default() }
    }

    /// Sends every event of the pool to `observer` as well.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Has idle connections pinged before they are handed out, as
    /// [`Config::validation`](crate::Config::validation) says.
    pub fn ping(mut self, ping: impl Ping) -> Self {
        self.pinger = Pinger(Some(Arc::new(ping)));
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
    pub fn build(self) -> Result<Pool, ConfigError> {
        let connector = Connector::observed(&self.config, self.observer)?;
        let connector = connector.resolved_by(self.resolver);
        check_ping(connector.settings().validation, self.pinger.0.is_some())?;
        Ok(Pool { handle: Arc::new(Owner(Arc::new(Inner::new(connector, self.pinger)))) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
