//! The status of a pool and of its peers.

use std::fmt;

use crate::event::PeerState;
use crate::net::PeerAddr;

/// The status of a pool at one moment: how full it is.
///
/// `idle + in_use + shared + connecting + quarantined + ending` never exceeds `max_size`.
///
/// ```
/// let pool = livepool::Pool::new(livepool::Config::new("db.internal:5432")).unwrap();
/// let status = pool.status();
/// assert_eq!((status.max_size, status.idle, status.waiting), (10, 0, 0));
/// assert_eq!(status.to_string(), "0 of 10 in use, 0 idle, 0 connecting, 0 waiting");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// The most connections the pool may have.
    pub max_size: usize,
    /// Connections waiting for a user.
    pub idle: usize,
    /// Connections held by a guard, or on the way to or from a guard, as one that was just made.
    pub in_use: usize,
    /// Connections used by several callers at a time, or by one of those who share.
    pub shared: usize,
    /// Callers who share the connections of `shared`.
    pub shares: usize,
    /// Connections of `in_use` whose guard has gone, and which are being reset for the next one.
    pub resetting: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Connections whose peer is silent and being asked for a sign of life, which count as neither
    /// idle nor in use.
    pub quarantined: usize,
    /// Connections that were closed in the middle of a request, while their peer is asked to stop
    /// working on it. A place is free again when the peer has stopped.
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
        let Self { max_size, idle, in_use, resetting, connecting, quarantined, .. } = self;
        let Self { shared, shares, ending, waiting, paused, closed, .. } = self;
        // A reader takes "in use" for "held by a caller"; connections that are being reset have a
        // number of their own below.
        let in_use = in_use.saturating_sub(*resetting);
        write!(
            f,
            "{in_use} of {max_size} in use, {idle} idle, {connecting} connecting, {waiting} waiting"
        )?;
        if *shared > 0 {
            write!(f, ", {shared} shared by {shares}")?;
        }
        if *resetting > 0 {
            write!(f, ", {resetting} being reset")?;
        }
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

/// An address of the upstream, as the pool sees it. See [`Pool::peers`](crate::Pool::peers).
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// for peer in pool.peers() {
///     println!("{}: {}, {} connections", peer.addr, peer.state, peer.connections);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer's address.
    pub addr: PeerAddr,
    /// The pool's judgement of the peer.
    pub state: PeerState,
    /// The number of open connections to the peer.
    pub connections: usize,
}
