//! [`Timeouts`]: the time limits of each operation, and of a whole use.

use std::time::Duration;

/// The time limits of each operation. With `None`, which has to be asked for, an operation may
/// block for ever.
///
/// A timeout is per call: a `read` that returns starts the clock anew at the next one. At least
/// 1 ms, because the timer counts milliseconds, and at most 365 days. In a file: `"30s"`, or `"never"` for `None`.
///
/// ```
/// use std::time::Duration;
/// use livepool::{Config, Timeouts};
///
/// // Nobody waits for longer than 2 s: one for a connection, one for all that is done with it.
/// let second = Duration::from_secs(1);
/// let timeouts = Timeouts::default().with_checkout(second).with_operation(second);
/// let config = Config::new("db.internal:5432").with_timeouts(timeouts);
/// assert!(config.check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Timeouts {
    /// The limit of a checkout, everything included: waiting in the queue, checks, a dial. Default
    /// 10 s: long enough for a burst or one lost SYN, short enough for a caller who has a user
    /// waiting.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub checkout: Option<Duration>,
    /// The limit of a dial: name lookup, connect and the protocol's handshake together, over all
    /// addresses. Default 5 s: on Linux the first repeats of a lost SYN go out after 1 s and 3 s,
    /// so two losses are survived.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub connect: Option<Duration>,
    /// The limit of the round trip before a connection is handed out, where
    /// [`Validation`](super::Validation) asks for one. Default 1 s. A caller waits for it within
    /// the checkout's time; one that is over in the middle leaves the ping to the pool, which gives
    /// it the rest of this.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub ping: Option<Duration>,
    /// The limit of a protocol's reset of a connection that came back, before the next caller gets
    /// it. Default 1 s; a connection that takes longer is closed.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub reset: Option<Duration>,
    /// The limit of each run of a hook ([`Builder::before_checkout`](crate::Builder::before_checkout),
    /// [`after_return`](crate::Builder::after_return),
    /// [`before_close`](crate::Builder::before_close)). Default 1 s; a connection whose hook takes longer
    /// is closed. A caller waits for the one before a checkout within the checkout's time. The hook
    /// after connect is part of the dial, and has `connect`.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub hook: Option<Duration>,
    /// The limit of a read while the peer owes an answer. Default [`ReadTimeout::Default`]: 30 s
    /// for bare streams and accepted ones, no limit where the protocol knows what it is owed. A
    /// read that is dropped and tried again goes on with the same clock; one that begins more than
    /// a second after that clock ran out, when the task that waited has had its turn, is taken for
    /// a new one. (A runtime of several threads, all held up by other tasks at that very moment,
    /// may make the one look like the other: the read has its time once more then.)
    pub read: ReadTimeout,
    /// The limit of a write. Default 30 s. A write only waits when the send buffer is full.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub write: Option<Duration>,
    /// The limit of a flush. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub flush: Option<Duration>,
    /// The limit of shutting down the writing side. Default 1 s: it is local work, except for
    /// layers (TLS) that still write.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub shutdown: Option<Duration>,
    /// The limit of waiting for a client on a listener. Default 30 s: the accept loop then comes by
    /// regularly and can look at its own stop flag.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub accept: Option<Duration>,
    /// The limit of a whole use of a pooled connection: from the moment in which a caller gets it,
    /// the time within which all reads and writes must be done. Default `None`: no such bound. A
    /// guard may set another limit, or none, with [`Guard::deadline`](crate::Guard::deadline). The
    /// wait for the connection is not part of it: that is `checkout`. Pools and
    /// [`Manager`](crate::Manager) keep this limit; a [`Connector`](crate::Connector) and a
    /// listener have no use of it.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub operation: Option<Duration>,
}

/// The limit of a read while the peer owes an answer; see [`Timeouts::read`].
///
/// Made of a `Duration`, or of `None`, by the setters:
///
/// ```
/// use std::time::Duration;
/// use livepool::config::{ReadTimeout, Timeouts};
///
/// let timeouts = Timeouts::default();
/// assert_eq!(timeouts.read, ReadTimeout::Default);
/// let minute = Duration::from_secs(60);
/// assert_eq!(timeouts.with_read(minute).read, ReadTimeout::After(minute));
/// assert_eq!(timeouts.with_read(None).read, ReadTimeout::Never);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadTimeout {
    /// The default. A bare stream has 30 s, far above what a healthy answer takes. A protocol that
    /// knows what it is owed, by a ledger or a scanner as those for PostgreSQL, Redis and HTTP, has
    /// no limit: a statement may take an hour. While its read waits the peer has to give a sign of
    /// life every few seconds, so that a dead one is found far sooner than by any timeout. A peer
    /// whose kernel lives and whose program hangs is bounded by [`Timeouts::operation`] or
    /// [`Guard::deadline`](crate::Guard::deadline). Where nothing proves a peer's life, because
    /// `socket.keepalive` is off, it is 30 s for all. In a file `"default"`, or nothing.
    #[default]
    Default,
    /// No limit; in a file `"never"`.
    Never,
    /// The given time.
    After(Duration),
}

impl ReadTimeout {
    /// The limit of a bare stream, unless another was set.
    pub(crate) const BARE: Duration = Duration::from_secs(30);

    /// The limit in effect. `knows_debts`: a protocol knows what it is owed, and its peer has to
    /// show that it lives.
    pub(crate) fn limit(self, knows_debts: bool) -> Option<Duration> {
        match self {
            Self::Default if knows_debts => None,
            Self::Default => Some(Self::BARE),
            Self::Never => None,
            Self::After(limit) => Some(limit),
        }
    }
}

impl From<Duration> for ReadTimeout {
    fn from(limit: Duration) -> Self {
        Self::After(limit)
    }
}

impl From<Option<Duration>> for ReadTimeout {
    fn from(limit: Option<Duration>) -> Self {
        limit.map_or(Self::Never, Self::After)
    }
}

impl Timeouts {
    /// Time limits with which no operation ever times out.
    pub fn never() -> Self {
        Self::uniform(None)
    }

    /// The same limit for every operation, and none for a whole use.
    pub fn all(limit: Duration) -> Self {
        Self::uniform(Some(limit))
    }

    setters! {
        with_checkout checkout: into Option<Duration>;
        with_connect connect: into Option<Duration>;
        with_ping ping: into Option<Duration>;
        with_reset reset: into Option<Duration>;
        with_hook hook: into Option<Duration>;
        with_read read: into ReadTimeout;
        with_write write: into Option<Duration>;
        with_flush flush: into Option<Duration>;
        with_shutdown shutdown: into Option<Duration>;
        with_accept accept: into Option<Duration>;
        with_operation operation: into Option<Duration>;
    }

    fn uniform(limit: Option<Duration>) -> Self {
        Self {
            checkout: limit,
            connect: limit,
            ping: limit,
            reset: limit,
            hook: limit,
            read: limit.into(),
            write: limit,
            flush: limit,
            shutdown: limit,
            accept: limit,
            // Not `limit`: a use consists of many operations.
            operation: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            checkout: Some(Duration::from_secs(10)),
            connect: Some(Duration::from_secs(5)),
            ping: Some(Duration::from_secs(1)),
            reset: Some(Duration::from_secs(1)),
            hook: Some(Duration::from_secs(1)),
            read: ReadTimeout::Default,
            write: Some(Duration::from_secs(30)),
            flush: Some(Duration::from_secs(30)),
            shutdown: Some(Duration::from_secs(1)),
            accept: Some(Duration::from_secs(30)),
            operation: None,
        }
    }
}
