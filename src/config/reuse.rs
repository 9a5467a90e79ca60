//! [`Order`] and [`Validation`]: which idle connection is taken, and what it must show first.

use std::time::Duration;

/// Which idle connection a checkout takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Order {
    /// The one returned last. The default: the rest stay unused and `idle_timeout` can shrink the
    /// pool after a burst.
    #[default]
    Lifo,
    /// The one returned first: all connections are used in turn, and none of them ages unused.
    Fifo,
}

/// How a connection is checked before it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Validation {
    /// One `recv(MSG_PEEK | MSG_DONTWAIT)`, well below a microsecond: closed, reset, and bytes
    /// nobody asked for are found. A peer that vanished silently is found by its silence (see
    /// `max_silence`). A program that hangs behind a kernel that answers is not found.
    #[default]
    Peek,
    /// The same, and a round trip of the protocol at every checkout; of a connection that was just
    /// made only if its handshake had no answer, as that of a bare stream has none. Needs
    /// [`Builder::ping`](crate::Builder::ping).
    Ping,
    /// The same, for connections that were idle for this long, and for no others. Needs
    /// [`Builder::ping`](crate::Builder::ping).
    PingIfIdle(#[cfg_attr(feature = "serde", serde(with = "super::human::plain"))] Duration),
}
