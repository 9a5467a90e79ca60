//! [`Config`]: the configuration of a pool.

use std::time::Duration;

use super::{
    Backoff, FirstConnect, Limits, MetricsConfig, Order, SocketConfig, Timeouts, Validation,
};

/// The configuration of a pool. Start with [`Config::new`].
///
/// Most settings can be changed while the pool runs: [`Pool::reconfigure`](crate::Pool::reconfigure).
#[cfg_attr(
    doc,
    doc = "The [guide](crate::guide::reconfiguring) says of each whether it can, and for which connections it holds then."
)]
///
/// ```
/// use std::time::Duration;
/// use livepool::Config;
///
/// let config = Config::new("db.internal:5432")
///     .with_name("orders")
///     .with_max_size(16)
///     .with_idle_timeout(Some(Duration::from_secs(300)));
/// assert!(config.check().is_ok());
///
/// // With the feature `serde`, the same from a file.
/// # #[cfg(feature = "serde")] {
/// let from_file: Config = toml::from_str(
///     r#"
///         upstream = ["db.internal:5432"]
///         name = "orders"
///         max_size = 16
///         idle_timeout = "5m"
///     "#,
/// )
/// .unwrap();
/// assert_eq!(from_file, config);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Config {
    /// The pool's name: label `pool` of every metric, field of every log line. Default empty, which
    /// means the text of the first upstream; while another pool of the process has that name, with
    /// `#2` appended, or the next free number. At most 255 bytes.
    pub name: String,
    /// The addresses to connect to: `"host:port"`, `"192.0.2.1:80"`, `"[2001:db8::1]:80"` or
    /// `"unix:/path/to.sock"`. Names are looked up anew for every dial. Entries have to be
    /// addresses of the *same* service: connections are spread over them. A dial tries the address
    /// with the fewest connections first; among equals this order, IPv4 and IPv6 in turn; a new one
    /// every 250 ms or as soon as one fails (RFC 8305). The first connection that is made is kept.
    /// The list has at least one entry; a single one may be written without a list.
    ///
    /// A dial tries no more than 32 addresses, the first ones in this order: a name may lead to
    /// thousands, and after 32 failures one more attempt says little. The next dial begins with
    /// others.
    #[cfg_attr(feature = "serde", serde(with = "super::human::one_or_many"))]
    pub upstream: Vec<String>,
    /// The highest number of connections at a time, those being made and those in use included.
    /// Default 10; 1 to 65535: memory for all of them is reserved at the start, and one address
    /// cannot have more connections to another than there are ports.
    pub max_size: usize,
    /// The lowest number of idle connections: the pool makes new ones as soon as there are fewer,
    /// within `max_size`, and does not close these for being idle. Default 0. No connection is made
    /// before the first checkout or [`warm_up`](crate::Pool::warm_up).
    pub min_idle: usize,
    /// The highest number of connections being made at a time. Default 2: an upstream that comes
    /// back, or a burst of callers, is met by two dials at a time and not by all of them at once.
    /// As many connections more are made at a time to ask peers to stop a request, by protocols
    /// that can. 1 to 65535.
    pub max_connecting: usize,
    /// The time for which an address that could not be connected to is left alone. Default: a
    /// random time up to 50 ms, doubling with every failure up to 5 s.
    pub backoff: Backoff,
    /// The fate of callers when a dial fails before the pool has had its first connection. Default
    /// [`FirstConnect::FailFast`]: they are told at once. After the first connection they wait.
    pub first_connect: FirstConnect,
    /// The time between lookups of the names in `upstream` while nothing is dialed. Default 30 s.
    /// An address that is missing in three answers in a row, and for this long, is drained: its
    /// idle connections are closed, those in use when they come back. At least 1 s. With `None` (in
    /// a file `"never"`) names are looked up for dials only.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub dns_refresh: Option<Duration>,
    /// The highest number of callers that may wait for a connection; the next one gets an error at
    /// once. Default 1024: a queue that long will hardly be served within the checkout's 10 s. With
    /// `Some(0)` no caller ever waits. At most 16777216.
    ///
    /// With `None` (in a file `"unlimited"`) there is no bound, and an upstream that hangs lets the
    /// queue grow as long as callers come: each of them is a task of a kilobyte or more that waits
    /// for the whole checkout timeout, only to be told what `QueueFull` tells at once.
    #[cfg_attr(feature = "serde", serde(with = "super::human::count_or_unlimited"))]
    pub max_waiting: Option<usize>,
    /// The highest number of callers who [share](crate::Pool::share) a connection at a time, where its
    /// protocol allows more. Default 256. 1 to 65535; with 1 nobody shares.
    pub max_shares: usize,
    /// The choice among idle connections. Default [`Order::Lifo`].
    pub order: Order,
    /// The check of a connection before it is handed out. Default [`Validation::Peek`].
    pub validation: Validation,
    /// The longest time without use, after which an idle connection is closed. Default 10 min:
    /// below the hour after which servers tend to hang up by themselves; `None` is never. A value
    /// not below `max_lifetime` has no effect.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub idle_timeout: Option<Duration>,
    /// The longest life of a connection, which is not used again afterwards: load spreads to new
    /// servers, changed names are noticed, and memory of long sessions is freed. Default 30 min. Up
    /// to 25 % is subtracted at random for each connection, so that those made together do not end
    /// together. With `None` a connection is used at any age.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub max_lifetime: Option<Duration>,
    /// The longest silence of a peer, after which its idle connection is asked for a sign of life:
    /// the peer's kernel answers a keepalive probe, without its program or protocol noticing.
    /// Default 5 s, at least 1 s. A silent peer is out of the pool within this and the time of a
    /// verdict, about 2 s. With `None` silence is left to the kernel's keepalive. The setting has
    /// an effect only where the system can tell (Linux, with keepalive on).
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub max_silence: Option<Duration>,
    /// The longest silence on a connection that was used within the last minute. Default 1 s, which
    /// is as soon as the kernel asks: the next caller of a busy pool is not handed a connection
    /// whose peer has vanished for longer than that. At least 1 s; never more than `max_silence` in
    /// effect. With `None` it is as for all others.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub max_silence_after_use: Option<Duration>,
    /// The time for which a checkout that met only silent connections waits for one of them to
    /// answer, before it has a new one made. A caller who has waited before waits as long from when
    /// they are asked. Default 250 ms, and never less than the round trip allows. At least 1 ms.
    #[cfg_attr(feature = "serde", serde(with = "super::human::plain"))]
    pub patience: Duration,
    /// The longest time a connection is held without a report. After that it is reported, once,
    /// with the place where it was checked out; and the error of a checkout that waited in vain
    /// names the longest holders. Default `None`: off. At least 1 ms.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub hold_warning: Option<Duration>,
    /// The longest wait of a checkout without a report. A caller who gets a connection after a longer
    /// one is reported, with the place where it asked: in the log once per second at most, each time
    /// as [`Event::WaitedTooLong`](crate::Event::WaitedTooLong). Default 2 s, a fifth of
    /// `timeouts.checkout`: what waits so long is on its way to waiting in vain. At least 1 ms. With
    /// `None` no wait is reported that ends well; one that does not is a failed checkout.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub wait_warning: Option<Duration>,
    /// What the metrics of the pool are called, and what it records beyond what every pool does.
    /// Default: our names, and nothing beyond.
    pub metrics: MetricsConfig,
    /// Bounds of the memory that an upstream can make a client library hold. The limits concern
    /// protocols; a bare stream is read into its user's own buffers.
    pub limits: Limits,
    /// The time limits of each operation. `accept` has no meaning here.
    pub timeouts: Timeouts,
    /// The options of every socket.
    pub socket: SocketConfig,
}

impl Config {
    /// The default configuration for this upstream.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self { upstream: vec![upstream.into()], ..Self::default() }
    }

    /// The same with [`upstream`](Self::upstream) changed.
    // Not by `setters!`: any iterator of texts is taken.
    #[must_use]
    pub fn with_upstream<T: Into<String>>(mut self, upstream: impl IntoIterator<Item = T>) -> Self {
        self.upstream = upstream.into_iter().map(Into::into).collect();
        self
    }

    setters! {
        with_name name: into String;
        with_max_size max_size: plain usize;
        with_min_idle min_idle: plain usize;
        with_max_connecting max_connecting: plain usize;
        with_backoff backoff: plain Backoff;
        with_first_connect first_connect: plain FirstConnect;
        with_dns_refresh dns_refresh: into Option<Duration>;
        with_max_waiting max_waiting: into Option<usize>;
        with_max_shares max_shares: plain usize;
        with_order order: plain Order;
        with_validation validation: plain Validation;
        with_idle_timeout idle_timeout: into Option<Duration>;
        with_max_lifetime max_lifetime: into Option<Duration>;
        with_max_silence max_silence: into Option<Duration>;
        with_max_silence_after_use max_silence_after_use: into Option<Duration>;
        with_patience patience: plain Duration;
        with_hold_warning hold_warning: into Option<Duration>;
        with_wait_warning wait_warning: into Option<Duration>;
        with_metrics metrics: plain MetricsConfig;
        with_limits limits: plain Limits;
        with_timeouts timeouts: plain Timeouts;
        with_socket socket: plain SocketConfig;
    }
}

impl Default for Config {
    /// The default configuration without an upstream, the one value that has to be given.
    fn default() -> Self {
        Self {
            name: String::new(),
            upstream: Vec::new(),
            max_size: 10,
            min_idle: 0,
            max_connecting: 2,
            backoff: Backoff::default(),
            first_connect: FirstConnect::default(),
            dns_refresh: Some(Duration::from_secs(30)),
            max_waiting: Some(1024),
            max_shares: 256,
            order: Order::Lifo,
            validation: Validation::Peek,
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            max_lifetime: Some(Duration::from_secs(30 * 60)),
            max_silence: Some(Duration::from_secs(5)),
            max_silence_after_use: Some(Duration::from_secs(1)),
            patience: Duration::from_millis(250),
            hold_warning: None,
            wait_warning: Some(Duration::from_secs(2)),
            metrics: MetricsConfig::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            socket: SocketConfig::default(),
        }
    }
}
