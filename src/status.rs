//! How full a pool is.

use std::fmt;

use crate::event::PeerState;
use crate::net::PeerAddr;

/// How full a pool is, at one moment.
///
/// `idle + in_use + connecting + quarantined + ending` never exceeds `max_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// The most connections the pool may have.
    pub max_size: usize,
    /// Connections waiting for a user.
    pub idle: usize,
    /// Connections held by a guard.
    pub in_use: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Connections whose peer is silent and being asked for a sign of life. They count as neither
    /// idle nor in use.
    pub quarantined: usize,
    /// Connections that were closed in the middle of a request, while their peer is asked to stop working
    /// on it. Until it has, their places are not free.
    pub ending: usize,
    /// Callers waiting for a connection, be it returned or made.
    pub waiting: usize,
    /// Whether the pool is paused.
    pub paused: bool,
    /// Whether the pool was closed.
    pub closed: bool,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_size, idle, in_use, connecting, quarantined, .. } = self;
        let Self { ending, waiting, paused, closed, .. } = self;
        write!(
            f,
            "{in_use} of {max_size} in use, {idle} idle, {connecting} connecting, {waiting} waiting"
        )?;
        if *quarantined > 0 {
            write!(f, ", {quarantined} silent")?;
        }
        if *ending > 0 {
            write!(f, ", {ending} ending")?;
        }
        if *paused {
            f.write_str(", paused")?;
        }
        if *closed { f.write_str(", closed") } else { Ok(()) }
    }
}

/// One address of the upstream, as the pool sees it. See [`Pool::peers`](crate::Pool::peers).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The address.
    pub addr: PeerAddr,
    /// What the pool thinks of it.
    pub state: PeerState,
    /// Open connections to it.
    pub connections: usize,
}
