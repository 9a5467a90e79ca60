//! An advisory lock (`flock`) on an open file or directory, which ends with the descriptor.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

/// Locks the file for this descriptor alone, among all programs that ask for the lock. Never waits:
/// [`WouldBlock`](io::ErrorKind::WouldBlock) says that another program has it.
#[cfg(not(target_os = "solaris"))]
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: flock(2) takes two numbers; the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(target_os = "solaris")]
pub(crate) fn try_lock(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
