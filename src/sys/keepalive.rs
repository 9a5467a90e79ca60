//! TCP keepalive: set as a whole, read back value by value.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::sockopt::{OptionError, OptionResult};

/// Switches keepalive on with these values; what is `None` stays the system's.
///
/// When a value is refused, `SO_KEEPALIVE` is off again afterwards.
pub(crate) fn set(
    socket: &SockRef<'_>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    retries: Option<u32>,
) -> OptionResult {
    let (values, missing) = values(idle, interval, retries);
    if let Err(error) = socket.set_tcp_keepalive(&values) {
        // socket2 (like the kernel) leaves it on, with whatever values there were.
        let _ = socket.set_keepalive(false);
        return Err(error.into());
    }
    match missing {
        None => Ok(()),
        Some(missing) => Err(OptionError::Unsupported(missing)),
    }
}

/// Declares an item for systems with keepalive values per socket (and those that `$more` names),
/// and another for systems without (OpenBSD, say).
macro_rules! by_system {
    ($($more:meta)? => $with:item else $without:item) => {
        #[cfg(any(
            target_os = "android",
            target_os = "dragonfly",
            target_os = "freebsd",
            target_os = "fuchsia",
            target_os = "illumos",
            target_os = "ios",
            target_os = "linux",
            target_os = "macos",
            target_os = "netbsd",
            $($more)?
        ))]
        $with

        #[cfg(not(any(
            target_os = "android",
            target_os = "dragonfly",
            target_os = "freebsd",
            target_os = "fuchsia",
            target_os = "illumos",
            target_os = "ios",
            target_os = "linux",
            target_os = "macos",
            target_os = "netbsd",
            $($more)?
        )))]
        $without
    };
}

by_system! { windows =>
    fn values(
        idle: Option<Duration>,
        interval: Option<Duration>,
        retries: Option<u32>,
    ) -> (TcpKeepalive, Option<&'static str>) {
        let mut values = TcpKeepalive::new();
        if let Some(idle) = idle {
            values = values.with_time(idle);
        }
        if let Some(interval) = interval {
            values = values.with_interval(interval);
        }
        if let Some(retries) = retries {
            values = values.with_retries(retries);
        }
        (values, None)
    }
    else
    /// The values for a system that has the mechanism, with values of its own.
    fn values(
        idle: Option<Duration>,
        interval: Option<Duration>,
        retries: Option<u32>,
    ) -> (TcpKeepalive, Option<&'static str>) {
        let asked = idle.is_some() || interval.is_some() || retries.is_some();
        let missing = "keepalive is on, but this system has no keepalive values per socket";
        (TcpKeepalive::new(), asked.then_some(missing))
    }
}

by_system! { =>
    /// Idle, interval and retries as the kernel has them; `None` where they cannot be read.
    pub(crate) fn read(socket: &SockRef<'_>) -> (Option<Duration>, Option<Duration>, Option<u32>) {
        (
            socket.tcp_keepalive_time().ok(),
            socket.tcp_keepalive_interval().ok(),
            socket.tcp_keepalive_retries().ok(),
        )
    }
    else
    /// Idle, interval and retries: not readable on this system.
    pub(crate) fn read(_: &SockRef<'_>) -> (Option<Duration>, Option<Duration>, Option<u32>) {
        (None, None, None)
    }
}
