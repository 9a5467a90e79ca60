//! [`Builder`]: a pool, and what is no plain data about it.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::config::{Config, ConfigError, MadeOf, check_hooks, check_ping};
use crate::event::Observer;
use crate::foreign::Held;
use crate::net::{Resolve, Resolver};
use crate::pool::acquire::ping::{Ping, Pinger};
use crate::pool::conn::erased::erase;
use crate::pool::control::reconfigure::Configured;
use crate::pool::hooks::{self, HookInfo, HookResult, Hooks};
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
    hooks: Hooks,
    /// Hooks for bare streams were given, and then a protocol.
    has_lost_hooks: bool,
    protocol: P,
}

impl Builder {
    pub(in crate::pool) fn new(config: Config) -> Self {
        let (resolver, pinger) = (Resolver::default(), Pinger::default());
        Self {
            config,
            observer: None,
            resolver,
            pinger,
            hooks: Hooks::default(),
            has_lost_hooks: false,
            protocol: Raw::default(),
        }
    }

    /// Has idle connections pinged before they are handed out, as
    /// [`Config::validation`](crate::Config::validation) says. A protocol has its own ping.
    pub fn ping(mut self, ping: impl Ping) -> Self {
        self.pinger = Pinger(Some(Held::new(Arc::new(ping))));
        self
    }

    /// Has callers get the clients of this protocol instead of bare streams. Hooks are for its clients:
    /// they are given after this.
    pub fn protocol<P: Protocol>(self, protocol: P) -> Builder<P> {
        let Self { config, observer, resolver, pinger, hooks, .. } = self;
        let has_lost_hooks = !hooks.is_empty();
        let hooks = Hooks::default();
        Builder { config, observer, resolver, pinger, hooks, has_lost_hooks, protocol }
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

    /// Has this done to every connection when it was made and its protocol has shaken hands: settings of
    /// the session, a statement that is prepared, a check that this is a server to use.
    ///
    /// It is part of the dial, within `timeouts.connect`, and its failure is one of the dial
    /// ([`DialOutcome::Hook`](crate::event::DialOutcome::Hook), with a [`HookError`](crate::HookError)
    /// inside): the next address is tried, or there is a pause. A connection is opened when this is done.
    ///
    /// What it has done to the session is how every user finds it: where a protocol's reset of a connection
    /// that came back may have undone it, it is run again, in the background and within `timeouts.hook`. So
    /// it is no count of connections: that is [`Event::Opened`](crate::Event::Opened).
    ///
    /// ```
    /// # fn f(config: livepool::Config) -> Result<(), livepool::ConfigError> {
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let pool = livepool::Pool::builder(config)
    ///     .after_connect(|stream, _| {
    ///         Box::pin(async move {
    ///             stream.write_all(b"AUTH me\n").await?;
    ///             let mut answer = [0; 3];
    ///             stream.read_exact(&mut answer).await?;
    ///             if &answer == b"OK\n" { Ok(()) } else { Err("nobody knows me".into()) }
    ///         })
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The hook's future may be dropped at any await: when its time is up, when the dial is given up.
    /// The connection is closed then. That holds for every hook.
    pub fn after_connect<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut P::Client, &'a HookInfo) -> BoxFuture<'a, HookResult>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.after_connect = Some(hooks::erase::<P, F>(hook));
        self
    }

    /// Has this done to every connection before a caller gets it, a new one or one that was idle. A pool
    /// without one does nothing for it.
    ///
    /// The caller waits, within its checkout's time and `timeouts.hook`. An error, a panic or a timeout
    /// closes the connection (`hook_failed`, or `panicked`), and the caller gets another one; where the
    /// connection was just made, there is no better one, and the checkout fails
    /// ([`CheckoutFailure::Hook`](crate::error::CheckoutFailure::Hook)). If the caller goes in the middle,
    /// the hook has the rest of its time, and the connection goes back.
    ///
    /// [`try_get`](crate::Pool::try_get), which never waits, gives nothing where the hook has to.
    /// Callers who [share](crate::Pool::share) a connection have it run when the first of them takes it.
    ///
    /// ```
    /// # fn f(config: livepool::Config) -> Result<(), livepool::ConfigError> {
    /// let pool = livepool::Pool::builder(config)
    ///     .before_checkout(|stream, about| {
    ///         let is_drained = about.conn().get() % 1000 == 0;
    ///         let _ = stream;
    ///         Box::pin(async move { if is_drained { Err("drained".into()) } else { Ok(()) } })
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn before_checkout<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut P::Client, &'a HookInfo) -> BoxFuture<'a, HookResult>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.before_checkout = Some(hooks::erase::<P, F>(hook));
        self
    }

    /// Has this done to every connection that came back and may be used again: in the background, as a
    /// reset is and after it, before the next caller gets the connection. It has `timeouts.hook`; an error
    /// or a timeout closes the connection (`hook_failed`). What it leaves behind is reset as a user's.
    ///
    /// ```
    /// # fn f(config: livepool::Config) -> Result<(), livepool::ConfigError> {
    /// let pool = livepool::Pool::builder(config)
    ///     .after_return(|_stream, about| {
    ///         println!("connection {} is back", about.conn());
    ///         Box::pin(async { Ok(()) })
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn after_return<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut P::Client, &'a HookInfo) -> BoxFuture<'a, HookResult>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.after_return = Some(hooks::erase::<P, F>(hook));
        self
    }

    /// Has this done to a connection that is in order before it is closed: by a rule (`idle_timeout`,
    /// `max_lifetime`, `resized`, `drained`, `outgrown`) or with all others (`invalidated`, `paused`,
    /// `pool_closed`). One that died, that a user has spoilt, or that ends outside a tokio runtime is
    /// closed without it.
    ///
    /// It runs in a task of its own, within `timeouts.hook`, and nobody waits for it. Until it is done the
    /// connection is `ending`, and keeps its place among `max_size`. Its failure is an event, and the
    /// connection is closed all the same.
    ///
    /// ```
    /// # fn f(config: livepool::Config) -> Result<(), livepool::ConfigError> {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let pool = livepool::Pool::builder(config)
    ///     .before_close(|stream, about| {
    ///         println!("connection {} ends: {:?}", about.conn(), about.reason());
    ///         Box::pin(async move { Ok(stream.write_all(b"BYE\n").await?) })
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn before_close<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut P::Client, &'a HookInfo) -> BoxFuture<'a, HookResult>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.before_close = Some(hooks::erase::<P, F>(hook));
        self
    }

    /// Checks the configuration and makes the pool.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn build(self) -> Result<Pool<P>, ConfigError> {
        Ok(Pool::of(Arc::new(Owner(self.inner(false)?))))
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
        Ok(Manager::of(Arc::new(Owner(self.inner(true)?))))
    }

    fn inner(self, is_for_deadpool: bool) -> Result<Arc<PoolInner>, ConfigError> {
        check_hooks(self.has_lost_hooks, is_for_deadpool, &self.hooks.given())?;
        let connector = Connector::of_pool(&self.config, self.observer)?;
        let connector = connector.resolved_by(self.resolver);
        let protocol = erase(self.protocol);
        let has_ping = match &protocol {
            Some(protocol) => protocol.has_ping(),
            None => self.pinger.0.is_some(),
        };
        check_ping(connector.settings().validation, has_ping)?;
        let configured = Configured::new(self.config, MadeOf { has_ping, is_for_deadpool });
        let inner = PoolInner::new(connector, configured, self.pinger, protocol, self.hooks);
        let inner = Arc::new(inner);
        // Empty until now.
        let _ = inner.hooks.pool.set(Arc::downgrade(&inner));
        let protocol = inner.protocol.as_ref().map(|protocol| protocol.speaks());
        inner.emitter().introduce(Facts::of(&inner.settings(), protocol));
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
