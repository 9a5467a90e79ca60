//! What the kernel knows about a TCP connection.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

/// Reads `TCP_INFO`. It consumes no error and no byte.
pub fn tcp_info(socket: &impl AsFd) -> libc::tcp_info {
    // SAFETY: a `tcp_info` is plain integers, for which all zeroes are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `size` bytes to the pointer, which is a live `tcp_info`
    // of that size on this stack, and the length written to the second one, a live `socklen_t`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    info
}
