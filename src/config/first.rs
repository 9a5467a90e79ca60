//! [`FirstConnect`]: what becomes of callers before a pool has had its first connection.

/// What becomes of the callers of a pool that has never had a connection, when a dial fails.
///
/// After the first connection this setting is over, for the life of the pool: callers wait, within
/// their time, for an upstream that was there and will be back.
///
/// ```
/// use livepool::Config;
/// use livepool::config::FirstConnect;
///
/// // Started together with its database, in whatever order.
/// let config = Config::new("db:5432").with_first_connect(FirstConnect::Wait);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FirstConnect {
    /// All who wait are told by the first dial that met what a wrong setting brings: a name that does
    /// not exist, every address refused, unreachable or without an answer, another protocol behind the
    /// port. Whoever asks after that has a new dial. The default: of an upstream that was never there,
    /// nothing says that it will be, and whoever mistyped its address is told in milliseconds.
    ///
    /// What passes by itself is waited for all the same: a name server in trouble, a process without
    /// file descriptors, a server that says that it is starting or full.
    #[default]
    FailFast,
    /// They wait, within their time, as they do later on: for a program that may start before its
    /// upstream does.
    Wait,
}
