//! `SO_REUSEPORT`: several listeners on one port, the kernel spreading clients over them.

use socket2::Socket;

use super::sockopt::Outcome;
#[cfg(any(not(unix), target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
use super::sockopt::Refusal;

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
pub(crate) fn set_reuse_port(socket: &Socket) -> Outcome {
    Ok(socket.set_reuse_port(true)?)
}

#[cfg(any(not(unix), target_os = "solaris", target_os = "illumos", target_os = "cygwin"))]
pub(crate) fn set_reuse_port(_: &Socket) -> Outcome {
    Err(Refusal::Unsupported("this system has no SO_REUSEPORT"))
}
