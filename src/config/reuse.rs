//! [`Order`] and [`Validation`]: the choice of an idle connection, and its check.

use std::time::Duration;

/// The choice of a checkout among idle connections.
///
/// ```
/// use livepool::{Config, Order};
///
/// // All connections are used in turn, so that none is idle for long.
/// let config = Config::new("db.internal:5432").with_order(Order::Fifo);
/// assert!(config.check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Order {
    /// The connection returned last. The default: the rest stay unused and `idle_timeout` can
    /// shrink the pool after a burst.
    #[default]
    Lifo,
    /// The connection returned first: all are used in turn, and none of them ages unused.
    Fifo,
}

/// The check of a connection before it is handed out.
///
/// ```
/// use std::time::Duration;
/// use livepool::{Config, Validation};
///
/// let validation = Validation::PingIfIdle(Duration::from_secs(30));
/// assert!(Config::new("cache.internal:6379").with_validation(validation).check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Validation {
    /// A `recv(MSG_PEEK | MSG_DONTWAIT)`, well below a microsecond: it finds an end, a reset, and
    /// bytes nobody asked for. A peer that vanished silently is found by its silence (see
    /// `max_silence`). A program that hangs behind a kernel that answers is not found.
    #[default]
    Peek,
    /// A peek, and a round trip of the protocol at every checkout. A connection that was just made
    /// is pinged only if its handshake had no answer, as that of a bare stream. Needs
    /// [`Builder::ping`](crate::Builder::ping).
    Ping,
    /// A peek, and a round trip for connections that were idle for this long. Needs
    /// [`Builder::ping`](crate::Builder::ping).
    PingIfIdle(#[cfg_attr(feature = "serde", serde(with = "super::human::plain"))] Duration),
}
