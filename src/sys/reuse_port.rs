//! `SO_REUSEPORT`: several listeners on one port, the kernel spreading clients over them.

use socket2::Socket;

#[cfg(any(not(unix), target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
use super::sockopt::OptionError;
use super::sockopt::OptionResult;

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
pub(crate) fn set_reuse_port(socket: &Socket) -> OptionResult {
    Ok(socket.set_reuse_port(true)?)
}

#[cfg(any(not(unix), target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
pub(crate) fn set_reuse_port(_: &Socket) -> OptionResult {
    Err(OptionError::Unsupported("this system has no SO_REUSEPORT"))
}
