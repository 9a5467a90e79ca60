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
mod lifecycle;
mod line;
mod maintenance;
mod manager;
mod peers;
mod ping;
mod plan;
mod proof;
mod quarantine;
mod registry;
mod serve;
mod slots;
mod store;
mod warm;

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::beat::beat;
use crate::config::{Config, ConfigError, Settings, check_max_size, check_ping};
use crate::deadline::Deadline;
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
use ping::Pinger;
use registry::Counts;
use slots::Slots;
use store::Store;
use warm::GiveUp;

pub use buffered::Buffered;
#[cfg(feature = "codec")]
pub use framed::Framed;
pub use guard::{Guard, Release};
pub use manager::{Connection, Manager};
pub use ping::Ping;

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
        Builder { config, observer: None, resolver: Resolver::default(), pinger: Pinger::default() }
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
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Guard, CheckoutError>> + Send {
        self.get_within(self.handle.0.settings().timeouts.checkout)
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
    #[track_caller]
    pub fn get_by(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Guard, CheckoutError>> + Send {
        self.get_within(Some(deadline.saturating_duration_since(Instant::now())))
    }

    #[track_caller]
    fn get_within(
        &self,
        limit: Option<Duration>,
    ) -> impl Future<Output = Result<Guard, CheckoutError>> + Send {
        let taken_at = Location::caller();
        async move { checkout::checkout(&self.handle.0, limit, taken_at).await }
    }

    /// Takes an idle connection that was just proved usable, if there is one and no caller waits
    /// for it. Never waits, and makes no connection.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn try_get(&self) -> Option<Guard> {
        checkout::try_checkout(&self.handle.0, Location::caller())
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
    #[track_caller]
    pub fn run<T, E, F>(&self, exchange: F) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnOnce(&mut Guard) -> Result<T, E>,
        E: From<CheckoutError>,
    {
        let guard = self.get();
        async move {
            let mut guard = guard.await?;
            let value = exchange(&mut guard).await?;
            guard.release();
            Ok(value)
        }
    }

    /// As [`run`](Self::run), for an exchange that does no harm when it is made twice. If the
    /// connection turns out to have ended before any byte of the answer came, and it was not made
    /// for this exchange, it is tried once more on another one.
    ///
    /// That closes the gap no check can see: a peer that closes an idle connection in the moment
    /// after it was checked. Both checkouts together take at most `timeouts.checkout`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); of the second try, if there was one.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    #[track_caller]
    pub fn run_retry<T, E, F>(&self, mut exchange: F) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnMut(&mut Guard) -> Result<T, E>,
        E: From<CheckoutError>,
    {
        let taken_at = Location::caller();
        async move {
            let inner = &self.handle.0;
            let began = Instant::now();
            let limit = inner.settings().timeouts.checkout;
            let mut guard = checkout::checkout(inner, limit, taken_at).await?;
            let mut result = exchange(&mut guard).await;
            if result.is_err() && guard.is_stale(began) {
                drop(guard);
                let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
                guard = checkout::checkout(inner, left, taken_at).await?;
                result = exchange(&mut guard).await;
            }
            let value = result?;
            guard.release();
            Ok(value)
        }
    }

    /// Makes connections ahead of the first caller and waits until there are `count` of them, at
    /// most `timeouts.checkout`. A dial that fails is tried again until then.
    ///
    /// # Errors
    ///
    /// [`CheckoutError`] with the last connect error, when they cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Those that were made stay.
    pub async fn warm_up(&self, count: usize) -> Result<(), CheckoutError> {
        self.handle.0.warm_up(count, GiveUp::WhenHopeless).await
    }

    /// As [`warm_up`](Self::warm_up), but fails with the first dial that does: for a program that
    /// had better not start without its upstream.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`warm_up`](Self::warm_up).
    pub async fn try_warm_up(&self, count: usize) -> Result<(), CheckoutError> {
        self.handle.0.warm_up(count, GiveUp::AtOnce).await
    }

    /// Says that no connection of today is of use any more: after a failover, say. Idle ones are
    /// closed now, those in use when they come back.
    pub fn invalidate(&self) {
        self.handle.0.invalidate(false);
    }

    /// As [`invalidate`](Self::invalidate), and whatever the users of the connections in use do next
    /// fails with [`Interrupted`](crate::Interrupted).
    pub fn invalidate_and_interrupt(&self) {
        self.handle.0.invalidate(true);
    }

    /// Changes `max_size`. When it is lowered, idle connections that are too many are closed now,
    /// those in use when they come back; until then no new one is made.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it is from 1 to 65535.
    pub fn resize(&self, max_size: usize) -> Result<(), ConfigError> {
        check_max_size(max_size)?;
        self.handle.0.resize(max_size);
        Ok(())
    }

    /// Leaves the upstream alone until [`resume`](Self::resume), while it is being maintained, say.
    /// Callers wait, within their deadlines; idle connections are closed, those in use when they
    /// come back; no new ones are made.
    pub fn pause(&self) {
        self.handle.0.pause();
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.handle.0.resume();
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

    /// Closes the pool and waits for the connections in use to come back, until `deadline`. Those
    /// that are left then are interrupted: whatever their users do next fails with
    /// [`Interrupted`](crate::Interrupted). Returns how many those were.
    ///
    /// # Cancel safety
    ///
    /// Once it was polled the pool is closed; dropping the future only ends the waiting, and nobody
    /// is interrupted.
    pub async fn close_by(&self, deadline: Instant) -> usize {
        self.handle.0.close_by(Deadline::at(deadline)).await
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
    pinger: Pinger,
}

impl Builder {
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

/// The inside of a pool.
struct Inner {
    connector: Connector,
    line: Line,
    /// Connections with callers, or on their way to one.
    guards: AtomicUsize,
    dials: Arc<Dials>,
    /// Idle connections that somebody waits for.
    wish: AtomicUsize,
    /// A connection came back to a closed pool.
    came_back: Notify,
    pinger: Pinger,
    slots: Arc<Slots>,
    store: Store,
    common: Arc<Common>,
    closed: AtomicBool,
    /// Whether a maintenance task runs. It ends with its runtime; the next checkout starts another.
    maintained: Arc<AtomicBool>,
}

impl Inner {
    fn new(connector: Connector, pinger: Pinger) -> Self {
        let settings = connector.settings();
        let size = settings.max_size;
        let common = Arc::new(Common::new(Arc::clone(connector.emitter()), settings));
        Self {
            line: Line::default(),
            guards: AtomicUsize::new(0),
            dials: Arc::default(),
            wish: AtomicUsize::new(0),
            came_back: Notify::new(),
            pinger,
            slots: Arc::clone(&common.slots),
            store: Store::new(size, settings.order),
            common,
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
        let beat = beat([
            settings.idle_timeout,
            settings.max_lifetime,
            settings.max_silence,
            settings.hold_warning,
        ]);
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
            paused: self.common.is_paused(),
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
