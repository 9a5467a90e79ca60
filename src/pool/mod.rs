//! The pool: who may have a connection, which one, and what becomes of it.
//!
//! - [`line`]: callers who wait, in order of arrival; [`serve`]: who of them gets what is idle
//! - [`dialer`]: new connections; [`peers`]: where they go
//! - [`slots`]: how many connections may exist
//! - [`core`]: one connection and its state; [`registry`]: all of them
//! - [`store`]: the idle ones, kept by deadpool
//! - [`checkout`] and [`guard`]: the way out and back
//! - [`maintenance`]: the one background task; [`plan`]: what it decides
//! - [`manager`]: our connections in somebody's plain deadpool

mod buffered;
mod checkout;
mod common;
mod core;
mod dialer;
#[cfg(feature = "codec")]
mod framed;
mod guard;
mod inbox;
mod line;
mod maintenance;
mod manager;
mod peers;
mod plan;
mod proof;
mod quarantine;
mod registry;
mod serve;
mod slots;
mod store;

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use futures_util::future::select;
use tokio::time::Instant;

use crate::beat::beat;
use crate::config::{Config, ConfigError, Settings};
use crate::error::CheckoutError;
use crate::event::{CloseReason, Observer};
use crate::net::{Resolve, Resolver};
use crate::status::{PeerStatus, Status};
use crate::stream::Connector;
use crate::telemetry::{Emitter, Gauges};

use self::core::Core;
use common::Common;
use dialer::Dials;
use line::Line;
use registry::Counts;
use slots::Slots;
use store::Store;

pub use buffered::Buffered;
#[cfg(feature = "codec")]
pub use framed::Framed;
pub use guard::{Guard, Release};
pub use manager::{Connection, Manager};

/// A pool of connections to one upstream. Cloning gives another handle to the same pool.
///
/// A pool may be made outside a runtime; it connects and starts its one background task at the
/// first checkout. When the last handle is dropped it is closed: its idle connections at once,
/// those in use when they come back.
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Owner>,
}

/// Closes the pool when the last [`Pool`] is gone. Guards and the maintenance task hold the inside
/// and do not count.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Pool {
    /// A pool with this configuration. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// A pool with this configuration and more.
    pub fn builder(config: Config) -> Builder {
        Builder { config, observer: None, resolver: Resolver::default() }
    }

    /// Takes a connection: an idle one that was just proved usable, or a new one. Callers are
    /// served in order of arrival.
    ///
    /// # Errors
    ///
    /// [`CheckoutError`] when the one deadline over all of it (`timeouts.checkout`) passes, when no
    /// connection can be made, when the queue is full or the pool closed. It says how long the
    /// caller waited and how full the pool was.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without its I/O and time drivers enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing but the caller's place in the line. A connection that was
    /// being made for it serves the next caller, or waits for one.
    pub async fn get(&self) -> Result<Guard, CheckoutError> {
        let inner = &self.handle.0;
        checkout::checkout(inner, inner.settings().timeouts.checkout).await
    }

    /// As [`get`](Self::get), with this deadline instead of `timeouts.checkout`: what is left of the
    /// time the caller itself was given, say.
    ///
    /// # Errors
    ///
    /// # Panics
    ///
    /// # Cancel safety
    ///
    /// As for [`get`](Self::get).
    pub async fn get_by(&self, deadline: Instant) -> Result<Guard, CheckoutError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        checkout::checkout(&self.handle.0, Some(limit)).await
    }

    /// Takes an idle connection that was just proved usable, if there is one and no caller waits
    /// for it. Never waits, and makes no connection.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn try_get(&self) -> Option<Guard> {
        checkout::try_checkout(&self.handle.0)
    }

    /// Takes a connection, runs `exchange` with it, and releases it if that succeeds. If it fails,
    /// panics or is dropped, a connection that carried any byte is not reused.
    ///
    /// ```
    /// # async fn f(pool: livepool::Pool) -> std::io::Result<()> {
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// let answer = pool
    ///     .run(async |conn| {
    ///         conn.write_all(b"PING\r\n").await?;
    ///         let mut answer = [0; 7];
    ///         conn.read_exact(&mut answer).await?;
    ///         std::io::Result::Ok(answer)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the exchange, and a [`CheckoutError`] turned into the same type.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the exchange where it stands; the connection is discarded unless
    /// it carried no byte.
    pub async fn run<T, E, F>(&self, exchange: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Guard) -> Result<T, E>,
        E: From<CheckoutError>,
    {
        let mut guard = self.get().await?;
        let value = exchange(&mut guard).await?;
        guard.release();
        Ok(value)
    }

    /// How full the pool is.
    pub fn status(&self) -> Status {
        self.handle.0.status()
    }

    /// Every address of the upstream that the pool knows, and what it thinks of it.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.handle.0.common.peers.status()
    }

    /// The pool's name, as in metrics and logs.
    pub fn name(&self) -> &str {
        self.handle.0.emitter().name()
    }

    /// Closes the pool: callers in the queue and newcomers are refused, idle connections are
    /// closed, those in use are closed when they come back.
    pub fn close(&self) {
        self.handle.0.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("status", &self.status()).finish()
    }
}

/// Makes a [`Pool`].
#[must_use = "a builder does nothing until build() is called"]
pub struct Builder {
    config: Config,
    observer: Option<Arc<dyn Observer>>,
    resolver: Resolver,
}

impl Builder {
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
    pub fn build(self) -> Result<Pool, ConfigError> {
        let connector = Connector::observed(&self.config, self.observer)?;
        let connector = connector.resolved_by(self.resolver);
        Ok(Pool { handle: Arc::new(Owner(Arc::new(Inner::new(connector)))) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The inside of a pool.
struct Inner {
    connector: Connector,
    line: Line,
    /// Connections with callers, or on their way to one.
    guards: AtomicUsize,
    dials: Arc<Dials>,
    slots: Arc<Slots>,
    store: Store,
    common: Arc<Common>,
    closed: AtomicBool,
    /// Whether a maintenance task runs. It ends with its runtime; the next checkout starts another.
    maintained: Arc<AtomicBool>,
}

impl Inner {
    fn new(connector: Connector) -> Self {
        let settings = connector.settings();
        let size = settings.max_size;
        Self {
            line: Line::default(),
            guards: AtomicUsize::new(0),
            dials: Arc::default(),
            slots: Slots::new(size),
            store: Store::new(size, settings.order),
            common: Arc::new(Common::new(Arc::clone(connector.emitter()), settings)),
            closed: AtomicBool::new(false),
            maintained: Arc::default(),
            connector,
        }
    }

    fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    fn emitter(&self) -> &Emitter {
        self.connector.emitter()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Starts the maintenance task unless one is running: it ends with the runtime it was started
    /// in. Called at every checkout, where a runtime is sure to be there.
    fn maintain(self: &Arc<Self>) {
        if self.maintained.load(Ordering::Relaxed) || self.is_closed() {
            return;
        }
        if self.maintained.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running { pool: Arc::downgrade(self), flag: Arc::clone(&self.maintained) };
        let settings = self.settings();
        let beat = beat([settings.idle_timeout, settings.max_lifetime, settings.max_silence]);
        let maintenance = maintenance::run(Arc::downgrade(self), Arc::clone(&self.common), beat);
        let dialer = dialer::run(Arc::downgrade(self), Arc::clone(&self.slots));
        tokio::spawn(async move {
            let _running = running;
            // Each ends when the pool does.
            select(pin!(maintenance), pin!(dialer)).await;
        });
    }

    /// A connection that went idle just as the pool was closed may have been missed by it.
    fn sweep_if_closed(&self, core: &Core) {
        if self.is_closed() {
            core.evict(CloseReason::PoolClosed);
        }
    }

    fn guards(&self) -> usize {
        self.guards.load(Ordering::Acquire)
    }

    fn close(self: &Arc<Self>) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.serve();
        for core in self.common.registry.idle() {
            core.evict(CloseReason::PoolClosed);
        }
        self.common.suspects.close();
        self.store.sweep();
        self.slots.announce();
        self.common.inbox.nudge();
        self.refresh_gauges();
    }

    fn status(&self) -> Status {
        let Counts { idle, in_use: busy, connecting } = self.common.registry.count(&self.slots);
        let quarantined = self.common.suspects.count().min(busy);
        Status {
            max_size: self.slots.limit(),
            idle,
            in_use: busy - quarantined,
            connecting,
            quarantined,
            waiting: self.queued(),
            closed: self.is_closed(),
        }
    }

    fn refresh_gauges(&self) {
        let Status { max_size, idle, in_use, connecting, quarantined, waiting, .. } = self.status();
        self.emitter().telemetry().gauges(&Gauges {
            idle,
            in_use,
            quarantined,
            connecting,
            max: max_size,
            waiters: waiting,
            peers: self.common.peers.counts(),
        });
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Says that the maintenance task has ended, however it ended.
struct Running {
    pool: Weak<Inner>,
    flag: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
        // Callers in another runtime start one there.
        if let Some(pool) = self.pool.upgrade() {
            pool.line.wake_all();
        }
    }
}
