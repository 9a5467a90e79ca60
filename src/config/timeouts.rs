//! [`Timeouts`]: how long each operation may take.

use std::time::Duration;

/// How long each operation may take. `None` means it may block for ever, and has to be asked for.
///
/// A timeout is per call: a `read` that returns starts the clock anew at the next one. At least
/// 1 ms, because the timer counts milliseconds, and at most 365 days. In a file: `"30s"`, or `"never"` for `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Timeouts {
    /// Taking a connection from the pool, everything included: waiting in the queue, checks, a
    /// dial. Default 10 s: long enough for a burst or one lost SYN, short enough for a caller who
    /// has a user waiting.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub checkout: Option<Duration>,
    /// Making a connection: name lookup, connect and the protocol's handshake together, over all
    /// addresses. Default 5 s: on
    /// Linux the first repeats of a lost SYN go out after 1 s and 3 s, so two losses are survived.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub connect: Option<Duration>,
    /// The round trip before a connection is handed out, where [`Validation`](super::Validation) asks
    /// for one. Default 1 s. A caller waits for it within the checkout's time; one that is over in
    /// the middle leaves the ping to the pool, which gives it the rest of this.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub ping: Option<Duration>,
    /// What a protocol does to a connection that came back, before the next caller gets it. Default
    /// 1 s; a connection that takes longer is closed.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub reset: Option<Duration>,
    /// One read. Default 30 s, far above what a healthy answer takes; raise it for calls that may
    /// legitimately wait. A read that is dropped and tried again goes on with the same clock; one
    /// that begins more than a second after that clock ran out, when the task that waited has had its
    /// turn, is taken for a new one. (A runtime of several threads, all held up by other tasks at that
    /// very moment, may make the one look like the other: the read has its time once more then.)
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub read: Option<Duration>,
    /// One write. Default 30 s. A write only waits when the send buffer is full.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub write: Option<Duration>,
    /// One flush. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub flush: Option<Duration>,
    /// Shutting down the writing side. Default 1 s: it is local work, except for layers (TLS) that
    /// still write.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub shutdown: Option<Duration>,
    /// Waiting for a client on a listener. Default 30 s: the accept loop then comes by regularly
    /// and can look at its own stop flag.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub accept: Option<Duration>,
}

impl Timeouts {
    /// No operation ever times out.
    pub fn never() -> Self {
        Self::uniform(None)
    }

    /// Every operation gets the same limit.
    pub fn all(limit: Duration) -> Self {
        Self::uniform(Some(limit))
    }

    setters! {
        with_checkout checkout: into Option<Duration>;
        with_connect connect: into Option<Duration>;
        with_ping ping: into Option<Duration>;
        with_reset reset: into Option<Duration>;
        with_read read: into Option<Duration>;
        with_write write: into Option<Duration>;
        with_flush flush: into Option<Duration>;
        with_shutdown shutdown: into Option<Duration>;
        with_accept accept: into Option<Duration>;
    }

    fn uniform(limit: Option<Duration>) -> Self {
        Self {
            checkout: limit,
            connect: limit,
            ping: limit,
            reset: limit,
            read: limit,
            write: limit,
            flush: limit,
            shutdown: limit,
            accept: limit,
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
            read: Some(Duration::from_secs(30)),
            write: Some(Duration::from_secs(30)),
            flush: Some(Duration::from_secs(30)),
            shutdown: Some(Duration::from_secs(1)),
            accept: Some(Duration::from_secs(30)),
        }
    }
}
