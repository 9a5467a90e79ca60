//! [`FirstConnect`]: the fate of callers before a pool has had its first connection.

/// The fate of callers when a dial fails and the pool has never had a connection.
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
    /// Every caller who waited when it began gets the error of the first dial that met what a wrong setting brings:
    /// a name that does not exist, every address refused, unreachable or without an answer, another
    /// protocol behind the port. Whoever asks later has a dial of their own. The default, because an upstream
    /// that was never there may never be, and because a mistyped address is reported in
    /// milliseconds.
    ///
    /// Failures that pass by themselves are waited for all the same: a name server in trouble, a
    /// process without file descriptors, a server that says that it is starting or full.
    #[default]
    FailFast,
    /// Callers wait, within their time, as they do after the first connection: for a program that
    /// may start before its upstream does.
    Wait,
}
