//! The pool: who may have a connection, which one, and what becomes of it.
//!
//! [`inner`] has the parts together; the methods of `PoolInner` stand in the rooms whose story they
//! tell. A checkout is [`acquire::checkout`], and `take_idle` there. A dial that fails ends in
//! `Dial::failed` (`dial/task.rs`). A return is `Lease::end` ([`conn::lease`]). A socket that stirs while
//! idle wakes the sentinel ([`conn::entry`]), and `check_socket` looks at it (`health/checks.rs`). Every
//! connection ends in `PoolInner::finish`.

mod builder;
mod guard;
mod hooks;
mod inbox;
mod inner;
mod listen;
mod manager;
mod share;
mod weak;

/// From a caller's question to a connection in its hands.
mod acquire {
    pub(in crate::pool) mod checkout;
    pub(in crate::pool) mod dispatch;
    pub(in crate::pool) mod idle_set;
    mod pending;
    pub(in crate::pool) mod ping;
    pub(in crate::pool) mod retry;
    pub(in crate::pool) mod sharing;
    pub(in crate::pool) mod wait_queue;
}

/// A single connection: what is known of it, who may touch it, and its way back.
mod conn {
    pub(in crate::pool) mod age;
    pub(in crate::pool) mod entry;
    pub(in crate::pool) mod erased;
    pub(in crate::pool) mod generation;
    pub(in crate::pool) mod lease;
    pub(in crate::pool) mod registry;
    pub(in crate::pool) mod reset;
}

/// New connections: when one is made, and where it goes.
mod dial {
    pub(in crate::pool) mod dialer;
    pub(in crate::pool) mod peers;
    mod refresh;
    pub(in crate::pool) mod slots;
    mod task;
}

/// Background checks: of idle connections, of silent ones, and of limits.
mod health {
    mod checks;
    pub(in crate::pool) mod closing;
    pub(in crate::pool) mod fired;
    mod gauges;
    pub(in crate::pool) mod maintenance;
    pub(in crate::pool) mod quarantine;
    mod schedule;
    pub(in crate::pool) mod silence;
}

/// Operations on a pool as a whole.
mod control {
    pub(in crate::pool) mod lifecycle;
    pub(in crate::pool) mod reconfigure;
    mod report;
    pub(in crate::pool) mod warm_up;
}

#[cfg(shuttle)]
pub(crate) mod models;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;

use crate::config::{Config, ConfigError};
use crate::deadline::Deadline;
use crate::error::CheckoutError;
use crate::protocol::{Protocol, Raw};
use crate::report::Report;
use crate::status::{PeerStatus, Status};
use crate::sync::Arc;

use acquire::checkout::{self, Until};
use conn::erased;
use control::warm_up::GiveUp;
use inner::PoolInner;

pub use acquire::ping::Ping;
pub use acquire::retry::Retry;
pub use acquire::sharing::Spread;
pub use builder::Builder;
pub use conn::lease::Release;
#[cfg(feature = "codec")]
pub use guard::Framed;
pub use guard::{Buffered, Guard};
pub use hooks::{HookError, HookInfo, HookResult};
pub use listen::{Channels, Delivery, Feed, Listen, ListenError, Subscription};
pub use manager::{Connection, Manager};
pub use share::{Multiplex, RequestClock, Share};
pub use weak::WeakPool;

/// A pool of connections to one upstream. Cloning gives another handle to the same pool.
///
/// ```
/// use livepool::{Config, Pool};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(Config::new("cache.internal:6379").with_max_size(16))?;
///
/// let mut conn = pool.get().await?;
/// conn.write_all(b"PING\r\n").await?;
/// let mut answer = [0; 7];
/// conn.read_exact(&mut answer).await?;
/// // The exchange is complete: for the next caller.
/// conn.release();
///
/// println!("{}", pool.status());
/// # Ok(()) }
/// ```
///
/// Read exactly the answer, as here, or through [`Guard::buffered`]: tokio's `BufReader` around a guard may take
/// a part of the next one with it, unseen.
///
/// - [`get`](Self::get) takes a connection, and [`run`](Self::run) takes one, runs an exchange and releases
///   it. [`get_by`](Self::get_by) has a deadline of its own, and [`try_get`](Self::try_get) never waits.
/// - [`new`](Pool::new) makes a pool of bare streams; [`builder`](Pool::builder), or an adapter
///   (`livepool-postgres`, `livepool-redis`, `livepool-http`, `livepool-tls`), one of clients.
/// - [`status`](Self::status) says how full it is, [`report`](Self::report) what it is doing and why.
/// - [`reconfigure`](Self::reconfigure) changes its settings while it runs, and [`config`](Self::config)
///   shows them.
/// - [`close_and_wait`](Self::close_and_wait) is the end.
#[cfg_attr(
    doc,
    doc = "- The [guide](crate::guide) has a page on each of sizing, deadlines, proxies, failover, testing and more."
)]
///
/// A pool may be made outside a runtime; it connects and starts its background tasks at the
/// first checkout. When the last handle is dropped it is closed: its idle connections at once,
/// those in use when they come back.
///
/// `P` is what runs over its connections; without one they are bare [`Stream`](crate::Stream)s.
pub struct Pool<P: Protocol = Raw> {
    handle: Arc<Owner>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Clone for Pool<P> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.handle))
    }
}

/// Closes the pool when the last [`Pool`] is gone. Guards and the maintenance task hold the inside
/// and do not count.
struct Owner(Arc<PoolInner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Pool {
    /// A pool with this configuration. The first connection is made at the first checkout.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// A pool with this configuration and more.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }
}

impl<P: Protocol> Pool<P> {
    fn of(handle: Arc<Owner>) -> Self {
        Self { handle, protocol: PhantomData }
    }

    /// Takes a connection: an idle one that was just proved usable, or a new one. Callers are
    /// served in order of arrival.
    ///
    /// # Errors
    ///
    /// [`CheckoutError`] when the one deadline over all of it (`timeouts.checkout`) passes, when the
    /// upstream refuses connections for good, when the queue is full or the pool closed. A dial that
    /// fails for now does not fail the caller, who waits on; before the pool's first connection
    /// [`first_connect`](Config::first_connect) decides. The error says how long
    /// the caller waited and how full the pool was.
    ///
    /// Outside a tokio runtime, if no connection is idle.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without its I/O and time drivers enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing but the caller's place in the queue. A connection that was
    /// being made for it serves the next caller, or waits for one.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Guard<P>, CheckoutError>> + Send {
        self.get_until(Until::Configured)
    }

    /// As [`get`](Self::get), with this deadline instead of `timeouts.checkout`: what is left of
    /// the time the caller itself was given, say. The deadline holds however late the future is
    /// polled.
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
        deadline: impl Into<Deadline>,
    ) -> impl Future<Output = Result<Guard<P>, CheckoutError>> + Send {
        self.get_until(Until::By(deadline.into()))
    }

    #[track_caller]
    fn get_until(
        &self,
        until: Until,
    ) -> impl Future<Output = Result<Guard<P>, CheckoutError>> + Send {
        let taken_at = Location::caller();
        async move { checkout::checkout(&self.handle.0, until, taken_at).await.map(Guard::new) }
    }

    /// Takes an idle connection that was just proved usable, if there is one and no caller waits
    /// for it. Never waits: makes no connection, and no ping.
    #[track_caller]
    pub fn try_get(&self) -> Option<Guard<P>> {
        checkout::try_checkout(&self.handle.0, Location::caller()).map(Guard::new)
    }

    /// Takes a part of a connection that others use at the same time, for small requests of many callers:
    /// what goes out and comes in together costs a fraction of what it costs one by one.
    ///
    /// The connections are those of the pool, which are idle, with one caller, or shared by up to
    /// [`max_shares`](Config::max_shares). How callers are spread over them is the protocol's choice.
    /// A connection comes back when the last of those who share it has gone. Dropping what is returned,
    /// or a request of it, harms nobody else; when the connection ends, each request that was in flight on
    /// it fails once, and says whether it may have been carried out. A silent peer is found by the
    /// requests that wait, and nobody joins a connection whose peer is being asked for a sign of life.
    ///
    /// Callers who share and callers who want a connection of their own stand in one queue, in order of
    /// arrival. A share that is free goes to the first who wants one. For each caller in front who
    /// wants a connection, where none can be made, one that is shared is joined by nobody any more, and
    /// is theirs when its users have gone.
    ///
    /// # Errors
    ///
    /// # Panics
    ///
    /// # Cancel safety
    ///
    /// As for [`get`](Self::get).
    #[track_caller]
    pub fn share(&self) -> impl Future<Output = Result<P::Shared, CheckoutError>> + Send
    where
        P: Multiplex,
    {
        let until = Until::Configured;
        self.share_at(until, Location::caller())
    }

    /// As [`share`](Self::share), with this deadline instead of `timeouts.checkout`.
    ///
    /// # Errors
    ///
    /// # Panics
    ///
    /// # Cancel safety
    ///
    /// As for [`get`](Self::get).
    #[track_caller]
    pub fn share_by(
        &self,
        deadline: impl Into<Deadline>,
    ) -> impl Future<Output = Result<P::Shared, CheckoutError>> + Send
    where
        P: Multiplex,
    {
        self.share_at(Until::By(deadline.into()), Location::caller())
    }

    async fn share_at(
        &self,
        until: Until,
        taken_at: &'static Location<'static>,
    ) -> Result<P::Shared, CheckoutError>
    where
        P: Multiplex,
    {
        let inner = &self.handle.0;
        let part = checkout::share(inner, share::rule::<P>(inner), until, taken_at).await?;
        let protocol = erased::typed::<P>(&inner.protocol).expect(erased::MADE);
        Ok(protocol.shared(Share::new(part)))
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
    /// The exchange's own errors, and a [`CheckoutError`] turned into the same type.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the exchange where it stands; the connection is discarded unless
    /// it carried no byte.
    #[track_caller]
    pub fn run<T, E, F>(&self, exchange: F) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnOnce(&mut Guard<P>) -> Result<T, E>,
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
    /// The second try closes the gap that no check can see: a peer that closes an idle connection
    /// in the moment after it was checked. The second connection is not as stale: its peer was
    /// heard since the first one had ended, or, where that was reset as after a failover, it is
    /// made now. Both checkouts together take at most `timeouts.checkout`.
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
        F: AsyncFnMut(&mut Guard<P>) -> Result<T, E>,
        E: From<CheckoutError>,
    {
        let taken_at = Location::caller();
        async move {
            let retry = Retry::new(self, None, taken_at);
            let mut guard = retry.get().await?;
            let mut result = exchange(&mut guard).await;
            if result.is_err() && retry.retry_after(&guard) {
                // The second one has what the first one has left.
                let due = guard.due();
                drop(guard);
                guard = retry.get().await?;
                if due.is_some() {
                    guard.set_deadline(due);
                }
                result = exchange(&mut guard).await;
            }
            let value = result?;
            guard.release();
            Ok(value)
        }
    }

    /// Makes connections ahead of the first caller and waits until there are `count` of them, at
    /// most `timeouts.checkout`. A dial that fails is tried again until then; before the first
    /// connection of the pool as [`Config::first_connect`] says.
    ///
    /// # Errors
    ///
    /// [`CheckoutError`] with the last connect error, when they cannot be made, and outside a tokio
    /// runtime.
    ///
    /// # Cancel safety
    ///
    /// Connections that were made stay.
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
    pub async fn warm_up_or_fail(&self, count: usize) -> Result<(), CheckoutError> {
        self.handle.0.warm_up(count, GiveUp::AtOnce).await
    }

    /// Says that no connection of today is of use any more: after a failover, say. Idle ones are
    /// closed, those in use when they come back, and dials under way are given up for new ones. Of very many idle ones most are closed in the
    /// background, so that nobody waits for that.
    pub fn invalidate(&self) {
        self.handle.0.invalidate(false);
    }

    /// As [`invalidate`](Self::invalidate), and whatever the users of the connections in use do next
    /// fails with [`Interrupted`](crate::Interrupted).
    pub fn invalidate_and_interrupt(&self) {
        self.handle.0.invalidate(true);
    }

    /// Leaves the upstream alone until [`resume`](Self::resume), while it is being maintained, say.
    /// Callers wait, within their deadlines; idle connections are closed, those in use when they
    /// come back; dials under way are given up, and no new ones are made.
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

    /// What the pool is doing now, and why: who has a connection since when, and where it was taken; who
    /// waits; what is known of each peer; what the dialer waits for; what went wrong lately. As text for
    /// a terminal of 100 columns, and with the feature `serde` as data.
    ///
    /// It looks at every connection, as [`status`](Self::status) does, and at every caller who waits, and
    /// stops nobody: for a page that an operator asks for, not for every request.
    ///
    /// ```
    /// # fn f(pool: livepool::Pool) {
    /// println!("{}", pool.report());
    /// # }
    /// ```
    pub fn report(&self) -> Report {
        self.handle.0.report()
    }

    /// Every address of the upstream that the pool knows, and what it thinks of it.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.handle.0.peers.status()
    }

    /// The protocol that the pool was [built](Builder::protocol) with; `None` for bare streams.
    pub fn protocol(&self) -> Option<&P> {
        erased::typed::<P>(&self.handle.0.protocol).map(|held| &**held)
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

    /// Closes the pool and waits for the connections in use to come back, until `deadline`.
    /// Connections that are left then are interrupted: whatever their users do next fails with
    /// [`Interrupted`](crate::Interrupted). Returns how many those were.
    ///
    /// # Cancel safety
    ///
    /// Once it was polled the pool is closed; dropping the future only ends the waiting, and nobody
    /// is interrupted.
    pub async fn close_and_wait(&self, deadline: impl Into<Deadline>) -> usize {
        self.handle.0.close_and_wait(deadline.into()).await
    }
}

impl<P: Protocol> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("status", &self.status()).finish()
    }
}
