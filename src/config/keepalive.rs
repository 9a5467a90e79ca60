//! [`Keepalive`] and [`UserTimeout`]: the kernel's means to find out that a silent peer is gone.

use std::time::Duration;

/// TCP keepalive: after `idle` of silence the kernel sends a probe, then one every `interval`; when
/// `retries` of them stay unanswered it ends the connection (tcp(7), RFC 1122 section 4.2.3.6).
///
/// The default 15 s / 5 s / 3 finds a dead idle peer after 30 s ([`Keepalive::detection_time`]),
/// where Linux by itself takes over two hours. Probes also keep the flow alive in NAT devices and
/// load balancers on the way; that is their use, and their cost: one small packet each way per
/// `idle`.
///
/// A field that is `None` is left at the system's value. In a file: a table (missing fields take
/// the defaults above, `"system"` leaves one to the system), or `"system"`, or `"off"`.
///
/// ```
/// use std::time::Duration;
/// use livepool::Keepalive;
///
/// let keepalive = Keepalive::default().with_idle(Duration::from_secs(60));
/// assert_eq!(keepalive.detection_time(), Some(Duration::from_secs(75)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Keepalive {
    /// Silence before the first probe. Whole seconds, 1 to 32767 (the kernel counts seconds in that
    /// range). Default 15 s: below the shortest idle limits of common NAT devices and balancers.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_system"))]
    pub idle: Option<Duration>,
    /// Time between unanswered probes. Whole seconds, 1 to 32767. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_system"))]
    pub interval: Option<Duration>,
    /// Unanswered probes that end the connection, 2 to 127. Default 3. A single probe is refused:
    /// RFC 1122 section 4.2.3.6 forbids to take a single lost probe for a dead peer.
    #[cfg_attr(feature = "serde", serde(with = "super::human::count_or_system"))]
    pub retries: Option<u32>,
}

impl Keepalive {
    /// Switches the mechanism on and leaves every value to the system.
    pub fn system() -> Self {
        Self { idle: None, interval: None, retries: None }
    }

    /// How long a peer may be gone before an idle connection to it is ended: `idle + interval *
    /// retries`. The result is `None` when the system decides one of the values;
    /// [`SocketReport`](crate::SocketReport) has the values in force.
    pub fn detection_time(&self) -> Option<Duration> {
        // Checked: the rules ask for this sum before the values are known to be in range.
        let probing = self.interval?.checked_mul(self.retries?)?;
        self.idle?.checked_add(probing)
    }

    setters! {
        with_idle idle: into Option<Duration>;
        with_interval interval: into Option<Duration>;
        with_retries retries: into Option<u32>;
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(15)),
            interval: Some(Duration::from_secs(5)),
            retries: Some(3),
        }
    }
}

/// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged before the kernel ends the
/// connection (tcp(7), RFC 5482; Linux, Android and Fuchsia).
///
/// Keepalive needs it: while a write is unacknowledged no probe is sent, and the retransmissions
/// alone go on for more than 15 minutes. The option has two more effects: a living peer may refuse
/// to read (its window closed) for no longer than this, and connect is bounded by it.
///
/// Where both are set, it replaces keepalive's count of retries: the kernel ends an idle connection
/// at the first probe after `idle + k * interval` (k at least 1) at which it has passed. Unless it
/// lies above `idle + interval * (retries - 1)` and not above `idle + interval * retries`, the two
/// contradict each other, and the configuration is refused.
///
/// ```
/// use livepool::{Config, SocketConfig, UserTimeout};
///
/// // The kernel's own limit: about a quarter of an hour for what we sent.
/// let socket = SocketConfig::default().with_user_timeout(UserTimeout::Off);
/// assert!(Config::new("db.internal:5432").with_socket(socket).check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UserTimeout {
    /// [`Keepalive::detection_time`], so that both mechanisms agree; off when keepalive is off or
    /// the system decides one of its values. The default, `"derived"` in a file.
    #[default]
    Derived,
    /// The kernel's own rule (15 retransmissions on Linux, some 15 minutes). `"off"` in a file.
    Off,
    /// The given time; whole milliseconds, from 1 ms to 2^31 - 1 ms (about 24 days).
    After(Duration),
}
