//! [`SocketConfig`]: the options of one socket.

use std::fmt;
use std::net::IpAddr;

use super::{Keepalive, UserTimeout};

/// The options of one socket.
///
/// An option that the system refuses fails that connection attempt with an error that names it,
/// unless it is listed in `best_effort`. An option that the system does not have at all is reported
/// once as an event and never fails anything. Unix sockets have buffers, and none of the others.
///
/// ```
/// use livepool::{Config, SocketConfig};
///
/// let socket = SocketConfig::default().with_local_addr("192.0.2.7".parse::<std::net::IpAddr>().unwrap());
/// assert!(Config::new("db.internal:5432").with_socket(socket).check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct SocketConfig {
    /// TCP keepalive. Default 15 s / 5 s / 3; `None` (in a file `"off"`) leaves `SO_KEEPALIVE` off.
    #[cfg_attr(feature = "serde", serde(with = "super::human::keepalive_or_off"))]
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`. Default derived from `keepalive` (30 s).
    pub user_timeout: UserTimeout,
    /// `TCP_NODELAY`. Default on: request-and-answer protocols wait for small packets, and Nagle's
    /// rule (RFC 896) with the peer's delayed acknowledgements adds up to 40 ms to each.
    pub nodelay: bool,
    /// `SO_SNDBUF` in bytes, set before connect. Default `None`: the kernel tunes it by itself,
    /// which a fixed size switches off. Linux doubles the value and caps it at
    /// `net.core.wmem_max` (socket(7)).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes, set before connect. Default `None`, as for `send_buffer`; capped at
    /// `net.core.rmem_max`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub recv_buffer: Option<usize>,
    /// The local address to connect from. By default (`None`) the kernel chooses by route. No port
    /// can be set: with a fixed one only a single connection to each upstream could exist.
    /// `IP_BIND_ADDRESS_NO_PORT` is set along (Linux), or every connection would take a local port
    /// for itself whatever it connects to. An upstream address of the other family fails its
    /// attempt.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub local_addr: Option<IpAddr>,
    /// The network interface to use, `SO_BINDTODEVICE`; 1 to 15 bytes (Linux, Android, Fuchsia).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub device: Option<String>,
    /// `SO_MARK` for policy routing (Linux, Android, Fuchsia). Needs `CAP_NET_ADMIN`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub mark: Option<u32>,
    /// `IP_TOS`, or `IPV6_TCLASS` for IPv6: the DSCP in the upper six bits (RFC 2474).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub tos: Option<u8>,
    /// The congestion control algorithm, `TCP_CONGESTION`, such as `"bbr"`; 1 to 15 bytes (Linux,
    /// FreeBSD).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub congestion: Option<String>,
    /// Options that may fail: the connection is made without them and an event says so. An option
    /// that is listed and not set changes nothing. Default empty.
    #[cfg_attr(feature = "serde", serde(with = "super::human::one_or_many"))]
    pub best_effort: Vec<SocketOption>,
}

impl SocketConfig {
    setters! {
        with_keepalive keepalive: into Option<Keepalive>;
        with_user_timeout user_timeout: plain UserTimeout;
        with_nodelay nodelay: plain bool;
        with_send_buffer send_buffer: into Option<usize>;
        with_recv_buffer recv_buffer: into Option<usize>;
        with_local_addr local_addr: into Option<IpAddr>;
        with_device device: some String;
        with_mark mark: into Option<u32>;
        with_tos tos: into Option<u8>;
        with_congestion congestion: some String;
        with_best_effort best_effort: into Vec<SocketOption>;
    }
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            keepalive: Some(Keepalive::default()),
            user_timeout: UserTimeout::Derived,
            nodelay: true,
            send_buffer: None,
            recv_buffer: None,
            local_addr: None,
            device: None,
            mark: None,
            tos: None,
            congestion: None,
            best_effort: Vec::new(),
        }
    }
}

/// An option of [`SocketConfig`], by its field's name.
///
/// ```
/// use livepool::{SocketConfig, SocketOption};
///
/// // Where the system refuses this one, the connection is made without it.
/// let socket = SocketConfig::default().with_best_effort(vec![SocketOption::Tos]);
/// assert_eq!(socket.best_effort, [SocketOption::Tos]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SocketOption {
    /// [`SocketConfig::keepalive`].
    Keepalive,
    /// [`SocketConfig::user_timeout`].
    UserTimeout,
    /// [`SocketConfig::nodelay`].
    Nodelay,
    /// [`SocketConfig::send_buffer`].
    SendBuffer,
    /// [`SocketConfig::recv_buffer`].
    RecvBuffer,
    /// [`SocketConfig::local_addr`].
    LocalAddr,
    /// [`SocketConfig::device`].
    Device,
    /// [`SocketConfig::mark`].
    Mark,
    /// [`SocketConfig::tos`].
    Tos,
    /// [`SocketConfig::congestion`].
    Congestion,
}

impl SocketOption {
    /// Every option.
    pub const ALL: &'static [Self] = &[
        Self::Keepalive,
        Self::UserTimeout,
        Self::Nodelay,
        Self::SendBuffer,
        Self::RecvBuffer,
        Self::LocalAddr,
        Self::Device,
        Self::Mark,
        Self::Tos,
        Self::Congestion,
    ];

    /// The field's name, as it appears in configuration files, errors and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::UserTimeout => "user_timeout",
            Self::Nodelay => "nodelay",
            Self::SendBuffer => "send_buffer",
            Self::RecvBuffer => "recv_buffer",
            Self::LocalAddr => "local_addr",
            Self::Device => "device",
            Self::Mark => "mark",
            Self::Tos => "tos",
            Self::Congestion => "congestion",
        }
    }
}

impl fmt::Display for SocketOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
