//! What an operator asks of a pool at 3 a.m., in one look: [`Pool::report`](crate::Pool::report).
//!
//! Its text is for a terminal of [`COLUMNS`] columns; with the feature `serde` it is data, for JSON.

mod display;
#[cfg(feature = "serde")]
mod serial;

use std::panic::Location;
use std::time::Duration;

use crate::config::Config;
use crate::event::{CloseReason, ConnId, DialOutcome, PeerState};
use crate::net::PeerAddr;
use crate::status::Status;

/// The columns that the text of a [`Report`] has at most.
pub const COLUMNS: usize = 100;

/// The most holders, callers who wait, and peers that a [`Report`] has, each. Of more there are those that
/// say most, and a number.
pub const MOST: usize = 100;

/// What a pool is doing at one moment, and why.
///
/// Every part is bounded, however large the pool is. The parts are read one after the other while the pool
/// goes on: a connection may be in two of them, or in none.
///
/// ```
/// use livepool::report::{DialerWait, Holds};
///
/// # fn f(pool: livepool::Pool) {
/// let report = pool.report();
/// if let Some(first) = report.waiting.first() {
///     eprintln!("somebody has been waiting for {:?} at {}", first.waited, first.asked_at);
/// }
/// for holder in report.holders.iter().filter(|holder| holder.holds == Holds::Connection) {
///     if let (Some(held), Some(place)) = (holder.held, holder.taken_at) {
///         eprintln!("{} was taken {held:?} ago at {place}", holder.conn);
///     }
/// }
/// for peer in &report.peers {
///     if let Some(death) = peer.death {
///         eprintln!("{}: {}, {:?} ago", peer.addr, death.what, death.ago);
///     }
/// }
/// if let (DialerWait::Pause, Some(left)) = (report.dialer.waits_for, report.dialer.left) {
///     eprintln!("it dials again in {left:?}; the last error: {:?}", report.errors.first());
/// }
/// eprintln!("{report}");
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// The pool's name.
    pub pool: String,
    /// The settings in force, as [`Pool::config`](crate::Pool::config) has them. The text leaves them out.
    pub config: Config,
    /// How full it is.
    pub status: Status,
    /// Who has a connection or a share of one, the longest first.
    pub holders: Vec<HolderReport>,
    /// How many more there are.
    pub more_holders: usize,
    /// Who waits, in the order in which they will be served.
    pub waiting: Vec<WaiterReport>,
    /// How many more there are.
    pub more_waiting: usize,
    /// What is known of each peer: those in trouble first.
    pub peers: Vec<PeerReport>,
    /// How many more there are.
    pub more_peers: usize,
    /// What the dialer does.
    pub dialer: DialerReport,
    /// What went wrong lately, the last first: one entry for each kind, at most 16.
    pub errors: Vec<ErrorReport>,
}

/// Somebody who has a connection.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// let report = pool.report();
/// for holder in &report.holders {
///     println!("{holder:?}");
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HolderReport {
    /// The connection.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::number"))]
    pub conn: ConnId,
    /// The address the connection goes to.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text"))]
    pub peer: PeerAddr,
    /// Whose it is.
    pub holds: Holds,
    /// For how long. `None` where it is on its way to or from a caller, or several share it and
    /// `hold_warning` is not set.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "held_seconds", serialize_with = "serial::seconds_if")
    )]
    pub held: Option<Duration>,
    /// The place where it was checked out, as [`held`](Self::held).
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text_if"))]
    pub taken_at: Option<&'static Location<'static>>,
    /// The name of the span its caller was in. Only if `hold_warning` is set: to note it costs every
    /// checkout a call of the subscriber.
    pub span: Option<&'static str>,
}

/// Whose a connection is.
///
/// ```
/// use livepool::report::{HolderReport, Holds};
///
/// fn is_being_reset(holder: &HolderReport) -> bool {
///     holder.holds == Holds::Reset
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Holds {
    /// A caller's.
    Connection,
    /// Several callers', of whom this is one; or all of them, where nobody notes who they are.
    Share,
    /// The pool's: its protocol makes it fit for the next caller.
    Reset,
}

/// A caller who waits.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// for caller in &pool.report().waiting {
///     println!("waits for {:?}, at {}", caller.waited, caller.asked_at);
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaiterReport {
    /// For how long the caller has been waiting.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "waited_seconds", serialize_with = "serial::seconds")
    )]
    pub waited: Duration,
    /// How long it will go on waiting; `None` is for ever.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "left_seconds", serialize_with = "serial::seconds_if")
    )]
    pub left: Option<Duration>,
    /// Whether a share of a connection is enough.
    pub wants_share: bool,
    /// The place where it asked.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text"))]
    pub asked_at: &'static Location<'static>,
}

/// What is known of a peer.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// let report = pool.report();
/// for peer in &report.peers {
///     println!("{peer:?}");
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PeerReport {
    /// The peer's address.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text"))]
    pub addr: PeerAddr,
    /// The pool's judgement of the peer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text"))]
    pub state: PeerState,
    /// Open connections to the peer.
    pub connections: usize,
    /// How long ago the peer's kernel was last known to be heard, on any connection that is open.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "heard_seconds_ago", serialize_with = "serial::seconds_if")
    )]
    pub heard: Option<Duration>,
    /// What became of the last attempt to connect, and how long ago.
    pub attempt: Option<Past<DialOutcome>>,
    /// Of what the last connection died that did, and how long ago.
    pub death: Option<Past<CloseReason>>,
    /// For how long the peer is still left alone after attempts that failed, where nobody waits.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "pause_seconds", serialize_with = "serial::seconds_if")
    )]
    pub pause: Option<Duration>,
}

/// Something that happened.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// for peer in pool.report().peers {
///     if let Some(death) = peer.death {
///         println!("{}: a connection died {:?} ago of {}", peer.addr, death.ago, death.what);
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(bound(serialize = "T: std::fmt::Display")))]
#[non_exhaustive]
pub struct Past<T> {
    /// What it was.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text"))]
    pub what: T,
    /// How long ago.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "seconds_ago", serialize_with = "serial::seconds")
    )]
    pub ago: Duration,
}

impl<T> Past<T> {
    pub(crate) fn new(what: T, ago: Duration) -> Self {
        Self { what, ago }
    }
}

/// What the dialer does, and what it waits for before it makes the next connection.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// println!("{:?}", pool.report().dialer);
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DialerReport {
    /// For how long each dial under way has been so, the longest first; [`MOST`] at most.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "under_way_seconds", serialize_with = "serial::all_seconds")
    )]
    pub under_way: Vec<Duration>,
    /// What it waits for.
    pub waits_for: DialerWait,
    /// How long that is going to last at most, where time ends it.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "left_seconds", serialize_with = "serial::seconds_if")
    )]
    pub left: Option<Duration>,
}

/// What the dialer waits for.
///
/// ```
/// use livepool::report::DialerWait;
///
/// # fn f(pool: livepool::Pool) {
/// if pool.report().dialer.waits_for == DialerWait::Pause {
///     println!("the last dials have failed");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DialerWait {
    /// Demand: nobody waits for whom no dial is under way, and enough connections are idle.
    Demand,
    /// The end of a dial: as many are under way as may be (`max_connecting`).
    Dials,
    /// The end of the one dial under way: the last ones failed, and one at a time finds out.
    OneDial,
    /// The end of the pause after dials that failed.
    Pause,
    /// A connection that comes back or ends: there are as many as there may be.
    Slot,
    /// Silent connections that are being asked, or others that are being reset, which may serve those who
    /// wait.
    Silent,
    /// [`Pool::resume`](crate::Pool::resume).
    Resume,
    /// The first checkout: the pool's tasks start with it, and end with their runtime.
    Runtime,
    /// Nothing: the pool is closed.
    Closed,
    /// Its turn: a dial is about to begin.
    Turn,
}

/// One kind of error of late.
///
/// ```
/// # fn f(pool: livepool::Pool) {
/// let report = pool.report();
/// for error in &report.errors {
///     println!("{error:?}");
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ErrorReport {
    /// What failed, and how: `dial refused`, `connection reset`, `checkout timeout`.
    pub what: String,
    /// Of which peer, where it was one.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serial::text_if"))]
    pub peer: Option<PeerAddr>,
    /// The text of the last one, where there is one; escaped and cut.
    pub text: Option<String>,
    /// How many there were.
    pub count: u64,
    /// How long ago the first one was.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "first_seconds_ago", serialize_with = "serial::seconds")
    )]
    pub first: Duration,
    /// How long ago the last one was.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "last_seconds_ago", serialize_with = "serial::seconds")
    )]
    pub last: Duration,
}
