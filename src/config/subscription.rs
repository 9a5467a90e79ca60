//! [`SubscriptionConfig`]: how much a subscription keeps for a slow reader, and how its server is asked.

use std::time::Duration;

use super::error::Problems;
use super::{ConfigError, rules};

/// How much a [`Subscription`](crate::Subscription) keeps for a slow reader, and how often its server
/// is asked whether it still serves it. Given to [`Pool::listen_with`](crate::Pool::listen_with).
///
/// ```
/// use std::time::Duration;
/// use livepool::SubscriptionConfig;
///
/// let config = SubscriptionConfig::default()
///     .with_max_messages(100)
///     .with_heartbeat(Duration::from_secs(2));
/// assert_eq!(config.max_bytes, 16 << 20);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionConfig {
    /// The most messages that are kept for a reader who does not take them. The oldest are dropped for
    /// newer ones, and the reader is told how many ([`Delivery::Missed`](crate::Delivery::Missed)).
    /// Default 1024: a pause of some seconds on a busy channel. 1 to 16777216.
    pub max_messages: usize,
    /// The most bytes of messages that are kept, in the same way; one message is kept however long it
    /// is. Default 16 MiB; from 1024 bytes to 2147483647.
    pub max_bytes: usize,
    /// So often a server that says nothing is asked whether it serves the subscription, and it has as
    /// long to answer. An answer that does not come ends the connection, so that a server whose process
    /// hangs is left after twice this time. (PostgreSQL is asked while it says something, too: whether
    /// the session still listens.) A host that is gone is found earlier and without it, as for any read
    /// that waits. Default 5 s; at least 1 ms. `None`: it is never asked.
    pub heartbeat: Option<Duration>,
}

impl Default for SubscriptionConfig {
    fn default() -> Self {
        Self { max_messages: 1024, max_bytes: 16 << 20, heartbeat: Some(Duration::from_secs(5)) }
    }
}

impl SubscriptionConfig {
    setters! {
        with_max_messages max_messages: plain usize;
        with_max_bytes max_bytes: plain usize;
        with_heartbeat heartbeat: into Option<Duration>;
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        rules::max_messages(&mut problems, self.max_messages);
        rules::max_bytes(&mut problems, self.max_bytes);
        rules::limit(&mut problems, "heartbeat", self.heartbeat);
        problems.or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_a_subscription_is_named() {
        SubscriptionConfig::default().check().unwrap();
        SubscriptionConfig::default().with_heartbeat(None).check().unwrap();
        let wrong = SubscriptionConfig::default()
            .with_max_messages(0)
            .with_max_bytes(10)
            .with_heartbeat(Duration::ZERO);
        let error = wrong.check().unwrap_err();
        let fields: Vec<_> =
            error.problems().iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["max_messages", "max_bytes", "heartbeat"]);
    }
}
