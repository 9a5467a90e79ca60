//! What needs a system call that no crate here has: the wire that is cut, processes that are stopped. The
//! only `unsafe` of the playground.

use std::io;

use tokio::net::{TcpListener, TcpStream};

/// A socket of the upstream.
pub(crate) trait Socket {
    /// From now on the socket hears nothing (`IP_MINTTL`, ip(7)): no packet of this machine has a lifetime
    /// of 255 hops. Its kernel acknowledges nothing, so that the other side sees what it sees when a cable
    /// is cut. `false` heals it.
    ///
    /// # Errors
    ///
    /// The system's; on others than Linux always.
    fn set_deaf(&self, is_deaf: bool) -> io::Result<()>;

    /// Whether the other side has acknowledged all that was sent (`SIOCOUTQ`, tcp(7)).
    fn is_acknowledged(&self) -> bool;
}

#[cfg(target_os = "linux")]
impl<S: std::os::fd::AsRawFd> Socket for S {
    #[allow(unsafe_code)]
    fn set_deaf(&self, is_deaf: bool) -> io::Result<()> {
        let least_ttl: libc::c_int = if is_deaf { 255 } else { 0 };
        // SAFETY: the descriptor is open for as long as `self` is borrowed; the kernel reads one int.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MINTTL,
                (&raw const least_ttl).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[allow(unsafe_code)]
    fn is_acknowledged(&self) -> bool {
        let mut unacknowledged: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self` is borrowed; the kernel writes one int, which
        // outlives the call. SIOCOUTQ has the number of TIOCOUTQ.
        let result =
            unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
        result != 0 || unacknowledged == 0
    }
}

#[cfg(not(target_os = "linux"))]
impl<S> Socket for S {
    fn set_deaf(&self, _: bool) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "only Linux can cut a wire without privileges",
        ))
    }

    fn is_acknowledged(&self) -> bool {
        true
    }
}

const _: fn(&TcpListener, &TcpStream) = |listener, stream| {
    let _: (&dyn Socket, &dyn Socket) = (listener, stream);
};

/// Stops this process as Ctrl-Z does, or has it go on.
///
/// # Errors
///
/// The system's; on others than Unix always.
#[cfg(unix)]
#[allow(unsafe_code)]
pub(crate) fn stop(process: u32, is_stopped: bool) -> io::Result<()> {
    let signal = if is_stopped { libc::SIGSTOP } else { libc::SIGCONT };
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: the call has no memory of ours. The process is our child and was not waited for, so that its
    // number is nobody else's.
    if unsafe { libc::kill(process, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(not(unix))]
pub(crate) fn stop(_: u32, _: bool) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Unix can stop a process"))
}

/// Has the system end this process when its parent does, however that ends: one that is stopped does not
/// notice by itself.
#[allow(unsafe_code)]
pub(crate) fn end_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is passed, and what is set concerns this process alone.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}
