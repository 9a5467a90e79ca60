//! [`SocketReport`]: the options of a socket as the kernel has them.

use std::fmt;
use std::io;
use std::time::Duration;

use socket2::SockRef;

use super::options::is_ipv6;
use crate::sys::{keepalive, sockopt};

/// The options of a socket, read back from the kernel. An option is `None` where the system does
/// not have it, or the kind of socket does not (Unix sockets have buffers only).
///
/// ```no_run
/// use livepool::{Config, Connector};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = Connector::new(&Config::new("db.internal:5432"))?.connect().await?;
/// let report = stream.socket_report()?;
/// assert!(report.keepalive);
/// println!("{report}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketReport {
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// Silence before the first probe. The system's value when keepalive was not configured.
    pub keepalive_idle: Option<Duration>,
    /// Time between unanswered probes.
    pub keepalive_interval: Option<Duration>,
    /// Unanswered probes that end the connection.
    pub keepalive_retries: Option<u32>,
    /// `TCP_USER_TIMEOUT`; `None` also when it is off.
    pub user_timeout: Option<Duration>,
    /// `TCP_NODELAY`.
    pub nodelay: Option<bool>,
    /// `SO_SNDBUF` in bytes. Linux reports twice what was asked for (socket(7)).
    pub send_buffer: usize,
    /// `SO_RCVBUF` in bytes; twice what was asked for, too.
    pub recv_buffer: usize,
    /// `IP_TOS`, or `IPV6_TCLASS` for IPv6.
    pub tos: Option<u32>,
    /// `SO_MARK`; 0 is no mark.
    pub mark: Option<u32>,
    /// The congestion control algorithm.
    pub congestion: Option<String>,
    /// The network interface the socket is bound to; `None` also when it is bound to none.
    pub device: Option<String>,
}

impl SocketReport {
    /// Reads the options of one socket.
    pub(crate) fn read(socket: &SockRef<'_>) -> io::Result<Self> {
        // For the address family. A mapped IPv4 address needs the peer's, which says so.
        let addr = socket.peer_addr().or_else(|_| socket.local_addr())?;
        let ip = addr.as_socket();
        let (idle, interval, retries) = match ip {
            Some(_) => keepalive::read(socket),
            None => (None, None, None),
        };
        Ok(Self {
            keepalive: socket.keepalive()?,
            keepalive_idle: idle,
            keepalive_interval: interval,
            keepalive_retries: retries,
            user_timeout: ip.and_then(|_| sockopt::user_timeout(socket)),
            nodelay: ip.and_then(|_| socket.tcp_nodelay().ok()),
            send_buffer: socket.send_buffer_size()?,
            recv_buffer: socket.recv_buffer_size()?,
            tos: ip.and_then(|addr| match is_ipv6(addr) {
                true => sockopt::traffic_class(socket),
                false => sockopt::tos(socket),
            }),
            mark: ip.and_then(|_| sockopt::mark(socket)),
            congestion: ip.and_then(|_| sockopt::congestion(socket)),
            device: ip.and_then(|_| sockopt::device(socket)),
        })
    }

    /// The time for which a peer may be gone before the kernel ends an idle connection to it;
    /// `None` if that is never, or if this system does not say.
    ///
    /// A user timeout decides instead of the count of retries: at the first probe, after the very
    /// first one, that finds it passed.
    pub fn detection_time(&self) -> Option<Duration> {
        if !self.keepalive {
            return None;
        }
        let (idle, interval) = (self.keepalive_idle?, self.keepalive_interval?);
        let probes = match self.user_timeout {
            None => u128::from(self.keepalive_retries?),
            // Probes without a pause between them: there is no step to round up to.
            Some(limit) if interval.is_zero() => return Some(limit.max(idle)),
            Some(limit) => {
                // tcp_keepalive_timer looks at the user timeout only when a probe is due, and never
                // before the first is sent.
                limit.saturating_sub(idle).as_nanos().div_ceil(interval.as_nanos()).max(1)
            }
        };
        idle.checked_add(interval.checked_mul(u32::try_from(probes).ok()?)?)
    }
}

impl fmt::Display for SocketReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keepalive ")?;
        match (self.keepalive, self.keepalive_idle, self.keepalive_interval, self.keepalive_retries)
        {
            (false, ..) => f.write_str("off")?,
            (true, Some(idle), Some(interval), Some(retries)) => {
                write!(f, "{idle:?} + {interval:?} * {retries}")?;
            }
            (true, ..) => f.write_str("on")?,
        }
        match self.user_timeout {
            Some(limit) => write!(f, ", user timeout {limit:?}")?,
            None => f.write_str(", no user timeout")?,
        }
        if let Some(nodelay) = self.nodelay {
            write!(f, ", nodelay {}", if nodelay { "on" } else { "off" })?;
        }
        write!(f, ", buffers {} B out {} B in", self.send_buffer, self.recv_buffer)?;
        if let Some(tos) = self.tos.filter(|tos| *tos != 0) {
            write!(f, ", tos {tos:#04x}")?;
        }
        if let Some(mark) = self.mark.filter(|mark| *mark != 0) {
            write!(f, ", mark {mark:#x}")?;
        }
        if let Some(name) = &self.congestion {
            write!(f, ", congestion {name}")?;
        }
        if let Some(name) = &self.device {
            write!(f, ", device {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(user_timeout_ms: Option<u64>) -> SocketReport {
        SocketReport {
            keepalive: true,
            keepalive_idle: Some(Duration::from_secs(1)),
            keepalive_interval: Some(Duration::from_secs(1)),
            keepalive_retries: Some(2),
            user_timeout: user_timeout_ms.map(Duration::from_millis),
            nodelay: Some(true),
            send_buffer: 1,
            recv_buffer: 2,
            tos: Some(0),
            mark: Some(0),
            congestion: Some("cubic".to_owned()),
            device: None,
        }
    }

    #[test]
    fn detection_follows_the_kernel_in_letting_the_user_timeout_replace_the_count() {
        // What Linux was measured to do with keepalive 1 s / 1 s / 2.
        let measured = [
            (None, 3),
            (Some(500), 2),
            (Some(1500), 2),
            (Some(2500), 3),
            (Some(3000), 3),
            (Some(3500), 4),
            (Some(10_000), 10),
        ];
        for (user_timeout, seconds) in measured {
            let time = report(user_timeout).detection_time();
            assert_eq!(time, Some(Duration::from_secs(seconds)), "{user_timeout:?}");
        }
    }

    #[test]
    fn without_keepalive_nothing_is_ever_detected() {
        let mut report = report(Some(2000));
        report.keepalive = false;
        assert_eq!(report.detection_time(), None);
    }

    #[test]
    fn a_report_is_one_readable_line() {
        assert_eq!(
            report(Some(3000)).to_string(),
            "keepalive 1s + 1s * 2, user timeout 3s, nodelay on, buffers 1 B out 2 B in, congestion cubic"
        );
    }
}
