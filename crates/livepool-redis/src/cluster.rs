//! Redis Cluster: one pool for each node, and every command to the node that serves its slot.
//!
//! ```no_run
//! use livepool_redis::cluster::Cluster;
//! use livepool_redis::redis::{self, AsyncCommands};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder(["redis://:secret@10.0.0.1:6379", "10.0.0.2:6379"])?.build()?;
//!
//! let mut conn = cluster.clone();
//! let _: () = conn.set("greeting", "hello").await?;
//! let (name, age): (String, u32) = redis::pipe().get("name").get("age").query_async(&mut conn).await?;
//! # Ok(()) }
//! ```
//!
//! # What it does
//!
//! - **Slots.** Any node tells who serves which slot. A few are asked at a time, and the one that knows of the
//!   latest change (`CLUSTER INFO`) is believed; one that is cut off from the others, or behind what is known
//!   already, is not. A command goes by its first key. One without a key that concerns one node (`FLUSHALL`,
//!   `KEYS`, `SCAN`, `CLUSTER RESET`) is refused: take the node with [`Cluster::nodes`]. `SCRIPT LOAD`, `EXISTS`
//!   and `FLUSH` go to every master, so that `redis::Script` works; in a pipeline they go first.
//! - **Pipelines.** Their commands go to their nodes at the same time, and need no common slot; those of an
//!   atomic one do. Commands of one slot are carried out in their order, unless the slot moves meanwhile:
//!   those that are redirected are sent again behind the others. Where the order matters, make it atomic.
//!   When a pipeline fails, commands of it may have been carried out, and the error says so:
//!   [`checkout_error`](crate::checkout_error) finds nothing in it then.
//! - **Resharding.** `MOVED` and `ASK` are followed, `TRYAGAIN` is tried again. `ASKING` goes in one write with
//!   the command it is about: others use the same connection. An error that a script makes itself is its
//!   answer, and it does not run again, whatever the error is called; unless it is word for word what the
//!   server says of the script's own slot.
//! - **Failover.** A command whose node is gone waits within `timeouts.checkout` (10 s), and goes to whoever
//!   serves the slot then. What may have been carried out is not repeated: it fails, and
//!   [`request_lost`](crate::request_lost) says so.
//! - **Nodes.** Each has a pool as any other: limits, checks of idle connections, deadlines, events and
//!   metrics per node. A node that is silent is found as any silent peer is; one that leaves a second's
//!   requests without an answer is doubted, and the others are asked whether they have replaced it. One that
//!   serves no slots any more is closed: whoever uses it has 2 s to finish.
//! - **Cancellation.** Dropping a future is safe at any moment: nobody reads somebody else's answer.
//!
//! Commands share connections ([`Pool::share`]). What waits (`BLPOP`), or needs a connection of its own
//! (`WATCH`), gets it from the pool of its slot: [`Cluster::pool_for`].
//!
//! # Why not the crate's own client
//!
//! `redis::cluster_async::ClusterConnection` is generic over its connections, so that ours could stand under
//! it. It makes them with `Connect::connect_with_config`, which is given an address and no `self`: a pool
//! would have to be found through a global table; and what takes another type of connection is hidden from
//! its documentation. It sends `ASKING` as a command of its own, behind which, on a connection that others
//! use, another caller's may go first. All requests pass one task, which repeats them on its own judgement,
//! and goes on with those whose callers have left. Its table of commands and their keys is private. So the
//! slots are kept here, over pools that are like any other.

mod asking;
mod nodes;
mod pipeline;
mod run;
mod slots;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use livepool::config::{Config, Timeouts};
use livepool::setup::FromUrl;
use livepool::{Builder, Pool, SetupError};

use crate::settings::Redis;
use nodes::{Inner, With};
#[cfg(any(test, feature = "__properties"))]
pub(crate) use slots::place_of_first_key as first_key;
use slots::{Target, slot_of};
use topology::Redirect;

/// A Redis Cluster. It is what the crate `redis` calls a [`ConnectionLike`]; cloning gives another handle to
/// the same pools, which are closed with the last one. See the [module](self).
///
/// ```no_run
/// use livepool_redis::cluster::Cluster;
/// use livepool_redis::redis::AsyncCommands;
///
/// /// Handlers have a clone each.
/// async fn visits(mut cluster: Cluster, user: u64) -> livepool_redis::redis::RedisResult<u64> {
///     cluster.incr(format!("visits:{user}"), 1).await
/// }
/// ```
#[derive(Clone)]
pub struct Cluster(Arc<Handle>);

/// Closes the pools when the last [`Cluster`] is gone; background tasks hold the inside and do not count.
struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes a [`Cluster`]. Get one with [`Cluster::builder`].
///
/// ```
/// use livepool_redis::cluster::{Cluster, ClusterBuilder};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let builder: ClusterBuilder = Cluster::builder(["redis://10.0.0.1:6379"])?;
/// let cluster = builder.with_config(|config| config.with_max_size(4)).with_max_nodes(12).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[must_use]
pub struct ClusterBuilder {
    redis: Redis,
    seeds: Vec<String>,
    config: Config,
    with: Option<With>,
    max_nodes: usize,
}

/// A node that serves slots.
///
/// ```no_run
/// use livepool_redis::cluster::{Cluster, Node};
/// use livepool_redis::redis::cmd;
///
/// # async fn f(cluster: Cluster) -> Result<(), Box<dyn std::error::Error>> {
/// let mut keys: u64 = 0;
/// for node in cluster.nodes().await? {
///     let node: Node = node;
///     let mut conn = node.pool().get().await?;
///     keys += cmd("DBSIZE").query_async::<u64>(&mut *conn).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Node {
    addr: String,
    pool: Pool<Redis>,
    slots: usize,
}

impl Node {
    /// Its address, as the cluster names it.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its pool. It is closed when the node serves no slots any more.
    pub fn pool(&self) -> &Pool<Redis> {
        &self.pool
    }

    /// The number of slots that it serves.
    pub fn slots(&self) -> usize {
        self.slots
    }
}

impl Cluster {
    /// A cluster that is found through any of these nodes: `host:port`, or a URL with what every node wants,
    /// `redis://user:password@host:port`. User, password, TLS, protocol and settings of the pools
    /// (`?pool_max_size=8`) are those of the first one.
    ///
    /// # Errors
    ///
    /// [`SetupError`], which says what to change.
    pub fn builder<S: AsRef<str>>(
        nodes: impl IntoIterator<Item = S>,
    ) -> Result<ClusterBuilder, SetupError> {
        let mut all = Vec::new();
        for node in nodes {
            let node = node.as_ref();
            let redis = match node.contains("://") {
                true => Redis::from_url(node)?,
                false => Redis::from_url(format!("redis://{node}"))?,
            };
            if redis.settings.info.db() != 0 {
                return Err(SetupError::protocol(
                    "a cluster has the database 0 only: leave the number out",
                ));
            }
            all.push(redis);
        }
        let seeds = all.iter().map(|redis| redis.upstream()).collect();
        let Some(redis) = all.into_iter().next() else {
            return Err(SetupError::protocol("at least one node of the cluster has to be given"));
        };
        let mut config = redis.config.clone().with_dns_refresh(None);
        if config.name.is_empty() {
            config = config.with_name("cluster");
        }
        if config.timeouts.read == Timeouts::default().read {
            // A process that stands still is bounded: no command here waits for something to happen.
            config.timeouts = config.timeouts.with_read(Duration::from_secs(5));
        }
        Ok(ClusterBuilder { redis, seeds, config, with: None, max_nodes: 128 })
    }

    /// The pool of the node that serves this key's slot: for a connection of one's own, as `WATCH`, `BLPOP` and
    /// their like need it. A slot may move meanwhile: tell an error of such a connection to
    /// [`learn_from`](Self::learn_from), and ask again.
    ///
    /// # Errors
    ///
    /// No node could be asked, or none serves the slot.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has changed nothing.
    pub async fn pool_for(&self, key: impl AsRef<[u8]>) -> RedisResult<Pool<Redis>> {
        let inner = self.inner();
        inner.used();
        let node = inner.node_for(Target::Slot(slot_of(key.as_ref()))).await?;
        Ok(node.pool.clone())
    }

    /// Takes in where a slot has moved to, if this error says so. Returns whether it does, so that another
    /// try goes elsewhere.
    ///
    /// An error that says that the node may be gone or replaced (of the connection, `CLUSTERDOWN`, `LOADING`,
    /// `MASTERDOWN`, `READONLY`, and what ends a wait at a master that is none any more) has the nodes asked in
    /// the background: [`pool_for`](Self::pool_for) is right again as soon as they know. Without it that takes
    /// up to 30 s, unless a command of the cluster finds out. Tell it a [`CheckoutError`] as well:
    ///
    /// ```no_run
    /// # use livepool_redis::cluster::Cluster;
    /// # async fn f(cluster: Cluster) -> livepool_redis::redis::RedisResult<()> {
    /// let got = cluster.pool_for("jobs").await?.get().await;
    /// let mut own = got.map_err(|error| {
    ///     let error = std::io::Error::from(error).into();
    ///     cluster.learn_from(&error);
    ///     error
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// [`CheckoutError`]: livepool::CheckoutError
    pub fn learn_from(&self, error: &RedisError) -> bool {
        let all = error.clone().into_server_errors();
        let mut all = all.iter().flat_map(|all| all.iter());
        if let Some(Redirect::Moved(slot, addr)) =
            all.clone().find_map(|(_, error)| topology::parse_redirect(error, ""))
            && self.inner().moved(slot, &addr).is_ok()
        {
            return true;
        }
        if error.is_io_error() || all.any(|(_, error)| topology::is_doubtful(error)) {
            self.inner().doubt();
        }
        false
    }

    /// Every node that serves slots.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`pool_for`](Self::pool_for).
    pub async fn nodes(&self) -> RedisResult<Vec<Node>> {
        let inner = self.inner();
        inner.used();
        inner.node_for(Target::Any).await?;
        let node = |(node, slots): (Arc<nodes::Node>, usize)| Node {
            addr: node.addr.clone(),
            pool: node.pool.clone(),
            slots,
        };
        Ok(inner.servers().into_iter().map(node).collect())
    }

    /// Closes the pool of every node. Commands fail from now on; those under way come to their end.
    pub fn close(&self) {
        self.inner().close();
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }
}

impl ClusterBuilder {
    /// The same with the configuration of each node's pool changed: its `max_size` is for one node. The
    /// defaults are those of [`Config`], with the name `cluster` and `timeouts.read` of 5 s. A node's pool has
    /// this name and a number behind it: the lowest that is free, so that metrics have no more names than
    /// there are nodes at a time. `upstream` is set here.
    pub fn with_config(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.config = change(self.config);
        self
    }

    /// The same with settings of the adapter changed: TLS, credentials.
    ///
    /// ```
    /// use livepool_redis::Credentials;
    /// use livepool_redis::cluster::Cluster;
    ///
    /// # async fn token() -> std::io::Result<String> { Ok(String::new()) }
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = Cluster::builder(["10.0.0.1:6379"])?.with_redis(|redis| {
    ///     redis.with_credentials(|_| async { std::io::Result::Ok(Credentials::new("app", token().await?)) })
    /// });
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    pub fn with_redis(mut self, change: impl FnOnce(Redis) -> Redis) -> Self {
        self.redis = change(self.redis);
        self
    }

    /// The same with observers and hooks for the pool of each node. Called for every node that is met.
    ///
    /// ```
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_redis::cluster::Cluster;
    ///
    /// let cluster = Cluster::builder(["10.0.0.1:6379"])?
    ///     .with_pools(|pool| {
    ///         pool.observer(|name: &str, event: &livepool::Event| println!("{name}: {event:?}"))
    ///     })
    ///     .build()?;
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    pub fn with_pools(
        mut self,
        with: impl Fn(Builder<Redis>) -> Builder<Redis> + Send + Sync + 'static,
    ) -> Self {
        self.with = Some(Arc::new(with));
        self
    }

    /// The same for so many nodes at most, those that are no master any more or were given for a start
    /// included. Default 128. A cluster that has more is an error.
    pub fn with_max_nodes(mut self, most: usize) -> Self {
        self.max_nodes = most;
        self
    }

    /// Makes the cluster. Nothing is connected to before the first command.
    ///
    /// # Errors
    ///
    /// [`SetupError`], if an address is none or something is wrong in the configuration.
    pub fn build(self) -> Result<Cluster, SetupError> {
        let Self { redis, seeds, config, with, max_nodes } = self;
        FromUrl::check(&redis)?;
        let inner = Inner::new(redis, config, with, max_nodes, seeds)?;
        Ok(Cluster(Arc::new(Handle(inner))))
    }
}

impl ConnectionLike for Cluster {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { self.inner().command(cmd).await })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { self.inner().pipeline(pipeline, offset, count).await })
    }

    /// A cluster has no other database.
    fn get_db(&self) -> i64 {
        0
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.inner().servers();
        let nodes = nodes.iter().map(|(node, slots)| (&node.addr, slots));
        f.debug_map().entries(nodes).finish()
    }
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("redis", &self.redis)
            .field("seeds", &self.seeds)
            .field("max_nodes", &self.max_nodes)
            .finish_non_exhaustive()
    }
}
