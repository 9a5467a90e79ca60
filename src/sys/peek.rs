//! A look at a socket without reading from it: the authoritative check of an idle connection.
//!
//! The code between a checkout and this system call is inlined into one frame, here and in the
//! callers. Kernels that guard against speculation leave the processor's memory of return addresses
//! useless: every function that was entered before the call costs a mispredicted return after it, 7
//! ns each where that was measured.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
#[cfg(unix)]
use std::os::fd::AsRawFd;

use socket2::SockRef;

/// The finding of a peek.
#[derive(Debug)]
pub(crate) enum Peeked {
    /// No bytes wait, and the kernel knows nothing against the connection (`EAGAIN`).
    Empty,
    /// The peer closed its side (FIN).
    Closed,
    /// Bytes are waiting; they stay where they are.
    Bytes,
    /// The socket's error, which the kernel reports once: the caller has to keep it.
    Error(io::Error),
}

impl Peeked {
    /// The finding of a peek that returned this.
    #[inline(always)]
    pub(crate) fn of(result: io::Result<usize>) -> Self {
        match result {
            Ok(0) => Self::Closed,
            Ok(_) => Self::Bytes,
            Err(error) if is_empty(&error) => Self::Empty,
            Err(error) => Self::Error(error),
        }
    }
}

/// Whether the error says that no bytes wait.
#[inline(always)]
fn is_empty(error: &io::Error) -> bool {
    #[cfg(unix)]
    // The number first: to find the kind of an error costs more than the rest of a peek outside the
    // kernel.
    if error.raw_os_error() == Some(libc::EAGAIN) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}

/// Peeks once, without waiting: the system call itself, never a cached readiness.
#[inline(always)]
pub(crate) fn peek(socket: &SockRef<'_>) -> Peeked {
    Peeked::of(recv(socket))
}

/// Peeks as [`peek`] does, and copies waiting bytes into `bytes`, as many as there is room for.
/// Returns their number as well.
pub(crate) fn peek_bytes(socket: &SockRef<'_>, bytes: &mut [u8; 256]) -> (Peeked, usize) {
    let mut space = [MaybeUninit::uninit(); 256];
    let result = recv_into(socket, &mut space);
    let count = *result.as_ref().unwrap_or(&0);
    for (to, from) in bytes.iter_mut().zip(&space[..count]) {
        // SAFETY: recv(2) has written that many bytes, and said so.
        *to = unsafe { from.assume_init() };
    }
    (Peeked::of(result), count)
}

/// The call behind [`peek`], for a caller that has to pass its result on as it is.
#[inline(always)]
pub(crate) fn recv(socket: &SockRef<'_>) -> io::Result<usize> {
    // Not empty: a peek into no space returns 0 on a living socket, as if it had ended.
    recv_into(socket, &mut [MaybeUninit::uninit(); 64])
}

#[inline(always)]
fn recv_into(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        match recv_once(socket, space) {
            // Empty first, as above: it is the usual answer.
            Err(error) if !is_empty(&error) && error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(unix)]
#[inline(always)]
fn recv_once(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: the descriptor is open as long as it is borrowed, and there is that much space.
    let count = unsafe { libc::recv(fd, space.as_mut_ptr().cast(), space.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Peeks without `MSG_DONTWAIT`, which this system does not have; tokio's sockets are non-blocking
/// anyway.
#[cfg(not(unix))]
fn recv_once(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    socket.peek(space)
}
