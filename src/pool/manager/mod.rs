//! [`Manager`]: our connections in a plain deadpool.
//!
//! A manager has a pool's whole inside, but for the idle set: which connection is next, and who waits for
//! one, is deadpool's. What `create` waits for is a checkout from that inside, where nothing is idle but
//! what a caller who went away has left. A connection that deadpool has is a lease that is
//! [kept](crate::pool::conn::lease) until it ends; `recycle` does to it what a return and a checkout do.
//! deadpool tells nobody of a return, so that [`watch`] looks for the idle ones.

mod connection;
mod watch;

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use tokio::time::Instant;

use crate::config::{Config, ConfigError};
use crate::error::CheckoutError;
use crate::event::Observer;
use crate::pool::acquire::checkout::{self, Until};
use crate::pool::conn::erased;
use crate::pool::conn::lease::Lease;
use crate::pool::inner::PoolInner;
use crate::pool::{Owner, Pool};
use crate::protocol::{Protocol, Raw};
use crate::status::{PeerStatus, Status};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use connection::Connection;

/// A [`deadpool::managed::Manager`] that makes and checks our connections, for programs that
/// already run a deadpool pool.
///
/// `create` waits for a connection as a caller of a [`Pool`](crate::Pool) does whom no idle one can serve:
/// it is dialed with all that a pool's dials have, within `timeouts.connect`, and tried again until
/// `timeouts.checkout` is over. `recycle` does what a return and a checkout of a pool do: it judges what
/// the last user left, has the protocol reset it within `timeouts.reset`, looks at the socket, asks a
/// peer that was silent for too long, and pings as [`validation`](Config::validation) says within
/// `timeouts.ping`. [`watch`](Self::watch) looks after idle connections in the background.
///
/// deadpool may drop either at any moment. A dial goes on then, and its connection is that of the next
/// `create`; a connection that is being recycled is closed, but for one that is being pinged, which goes to
/// the next `create` as well.
///
/// Cloning is cheap. A manager is for one pool: its clones have their connections, and what they know of
/// the upstream, together.
///
///
/// ```
/// use deadpool::managed;
/// use livepool::{Config, Manager};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = Manager::new(&Config::new("cache.internal:6379"))?;
/// let pool: managed::Pool<Manager> = managed::Pool::builder(manager).max_size(16).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[doc = include_str!("../../../docs/deadpool.md")]
pub struct Manager<P: Protocol = Raw> {
    handle: Arc<Owner>,
    shared: Arc<Shared>,
    protocol: PhantomData<fn() -> P>,
}

/// What the clones of a manager and its connections have together.
#[derive(Debug, Default)]
struct Shared {
    /// Connections that deadpool has, and those that it waits for.
    asked: AtomicUsize,
    /// Its pool is watched.
    is_watched: AtomicBool,
}

/// A connection that deadpool has asked for, until it has none of it any more. While it waits for it, and
/// while it has it, there is a place for it: how many there may be is deadpool's to say.
#[derive(Debug)]
struct Asked(Arc<Shared>);

impl Asked {
    fn new(shared: &Arc<Shared>, inner: &PoolInner) -> Self {
        let asked = shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        inner.slots.raise_limit(asked);
        Self(Arc::clone(shared))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Manager {
    /// A manager of bare streams, after checking the configuration. For another protocol, a resolver, or
    /// a ping, [build](crate::Builder::build_manager) one.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Pool::builder(config.clone()).build_manager()
    }

    /// As [`new`](Self::new), and sends every event to `observer`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_observer(config: &Config, observer: impl Observer) -> Result<Self, ConfigError> {
        Pool::builder(config.clone()).observer(observer).build_manager()
    }
}

impl<P: Protocol> Manager<P> {
    pub(in crate::pool) fn of(handle: Arc<Owner>) -> Self {
        // Until deadpool asks for one.
        handle.0.slots.set_limit(0);
        Self { handle, shared: Arc::default(), protocol: PhantomData }
    }

    fn inner(&self) -> &Arc<PoolInner> {
        &self.handle.0
    }

    /// Keeps the idle connections of `pool` checked in the background, and takes those that have died,
    /// are too old or were idle for too long out of it, by its
    /// [`retain`](deadpool::managed::Pool::retain). As in a [`Pool`](crate::Pool): a close is noticed
    /// when it happens, and a peer that is silent for
    /// [`max_silence`](crate::Config::max_silence) is asked for a sign of life.
    ///
    /// deadpool tells nobody when a connection comes back, so that one is watched half a second after
    /// that at the latest. At once, if it was given back with [`Connection::release`].
    ///
    /// A task does this. It does not keep the pool, and ends with it, when it is dropped or closed. To be
    /// called once, with the pool that has this manager; while one is watched, another call does nothing.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn watch<W: From<Object<Self>>>(pool: &managed::Pool<Self, W>) {
        let Self { handle, shared, .. } = pool.manager();
        if !shared.is_watched.swap(true, Ordering::AcqRel) {
            let watched = watch::Watched::new(shared);
            tokio::spawn(watch::run(pool.weak(), Arc::clone(&handle.0), watched));
        }
    }

    /// Says that no connection of today is of use any more: after a failover, say. They are closed at
    /// their next checkout, the idle ones of a [watched](Self::watch) pool at once.
    pub fn invalidate(&self) {
        self.inner().invalidate(false);
    }

    /// Leaves the upstream alone until [`resume`](Self::resume). Callers for whom there would have to be a
    /// new connection wait, within `timeouts.checkout`; no connection of before is used again.
    pub fn pause(&self) {
        self.inner().pause();
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.inner().resume();
    }

    /// The configuration in force: as it was given, and changed since.
    pub fn config(&self) -> Arc<Config> {
        self.inner().config()
    }

    /// Changes settings while the pool runs, as [`Pool::reconfigure`](crate::Pool::reconfigure) does. What
    /// deadpool decides itself is refused, as when the manager is [built](crate::Builder::build_manager);
    /// the size is changed by deadpool's `resize`, and how long callers wait for deadpool by its own
    /// timeouts. Of the connections that deadpool has, those that are too old or too long idle now are closed
    /// at their next checkout, the idle ones of a [watched](Self::watch) pool at once.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem, and then nothing has changed.
    pub fn reconfigure(&self, change: impl FnMut(&mut Config)) -> Result<(), ConfigError> {
        self.inner().reconfigure(change)
    }

    /// How many connections there are. Of those that deadpool has, the ones that are
    /// [watched](Self::watch) are `idle`, and all others `in_use`. `max_size` is that of a watched pool;
    /// else as many as it ever had.
    pub fn status(&self) -> Status {
        self.inner().status()
    }

    /// Every address of the upstream that is known, and what is thought of it.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner().peers.status()
    }

    /// The protocol that it was [built](crate::Builder::protocol) with; `None` for bare streams.
    pub fn protocol(&self) -> Option<&P> {
        erased::typed::<P>(&self.inner().protocol).map(|held| &**held)
    }

    /// Its name, as in metrics and logs.
    pub fn name(&self) -> &str {
        self.inner().emitter().name()
    }
}

impl<P: Protocol> managed::Manager for Manager<P> {
    type Type = Connection<P>;
    type Error = CheckoutError;

    async fn create(&self) -> Result<Connection<P>, CheckoutError> {
        let inner = self.inner();
        // Before it asks, so that there is a place.
        let asked = Asked::new(&self.shared, inner);
        let until = Until::Configured;
        let lease = checkout::checkout(inner, until, Location::caller()).await?;
        Ok(Connection::new(lease, asked))
    }

    async fn recycle(&self, conn: &mut Connection<P>, _: &Metrics) -> RecycleResult<CheckoutError> {
        let began = Instant::now();
        match Lease::renew(&mut conn.lease).await {
            Ok(()) => {
                if let Some(lease) = &mut conn.lease {
                    checkout::hand_out(lease, began.elapsed(), Location::caller());
                }
                Ok(())
            }
            Err(lost) => Err(RecycleError::message(lost.as_str())),
        }
    }

    fn detach(&self, conn: &mut Connection<P>) {
        conn.leave();
    }
}

impl<P: Protocol> Clone for Manager<P> {
    fn clone(&self) -> Self {
        let (handle, shared) = (Arc::clone(&self.handle), Arc::clone(&self.shared));
        Self { handle, shared, protocol: PhantomData }
    }
}

impl<P: Protocol> fmt::Debug for Manager<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, status) = (self.name(), self.status());
        f.debug_struct("Manager").field("name", &name).field("status", &status).finish()
    }
}
