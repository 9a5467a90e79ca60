//! [`ListenerConfig`]: the configuration of a listener.

use std::time::Duration;

use super::{SocketConfig, Timeouts};

/// The configuration of a listener. The address to listen on is given when it is bound.
///
/// ```
/// use std::time::Duration;
/// use livepool::ListenerConfig;
///
/// let config = ListenerConfig::default().with_idle_timeout(Some(Duration::from_secs(60)));
/// assert!(config.check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct ListenerConfig {
    /// The listener's name in metrics and logs. Default empty, which means the address it is bound
    /// to. At most 255 bytes.
    pub name: String,
    /// `SO_REUSEADDR`. Default on, or a restart would fail while old connections are in TIME_WAIT.
    /// On Linux it helps only if the old listener had it too, and does not allow two live
    /// listeners. On Windows, where the option lets others take the port, it is not set.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: several listeners share the address and the kernel spreads clients among
    /// them. Default off: closing one of them resets the clients in its queue.
    pub reuse_port: bool,
    /// Clients that may wait to be accepted, 1 to 65535. Default 1024; Linux caps it at
    /// `net.core.somaxconn` (4096 by default) without a word (listen(2)).
    pub backlog: u32,
    /// Whether a listener on `[::]` also takes IPv4 clients. Default on; set either way, because
    /// systems differ in what they do by themselves.
    pub dual_stack: bool,
    /// The longest time without a byte in either direction, after which a client is cut off.
    /// Default 10 min; `None` is never.
    #[cfg_attr(feature = "serde", serde(with = "super::human::duration_or_never"))]
    pub idle_timeout: Option<Duration>,
    /// The time limits of each operation. `checkout` and `connect` have no meaning here.
    pub timeouts: Timeouts,
    /// The options of every accepted socket. `device`, `mark`, the buffers and `congestion` are set
    /// on the listening socket, from which the accepted ones inherit them. `local_addr` is refused:
    /// the listener's address is the one it is bound to.
    pub socket: SocketConfig,
}

impl ListenerConfig {
    setters! {
        with_name name: into String;
        with_reuse_address reuse_address: plain bool;
        with_reuse_port reuse_port: plain bool;
        with_backlog backlog: plain u32;
        with_dual_stack dual_stack: plain bool;
        with_idle_timeout idle_timeout: into Option<Duration>;
        with_timeouts timeouts: plain Timeouts;
        with_socket socket: plain SocketConfig;
    }
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            reuse_address: true,
            reuse_port: false,
            backlog: 1024,
            dual_stack: true,
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            timeouts: Timeouts::default(),
            socket: SocketConfig::default(),
        }
    }
}
