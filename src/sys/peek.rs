//! Looking at a socket without reading from it: the authoritative check of an idle connection.
//!
//! What stands between a checkout and this system call is inlined into one frame, here and in those
//! who call it. Kernels that guard against speculation leave the processor's memory of return
//! addresses useless: every function that was entered before the call costs a mispredicted return
//! after it, 7 ns each where that was measured.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
#[cfg(unix)]
use std::os::fd::AsRawFd;

use socket2::SockRef;

/// What was found.
#[derive(Debug)]
pub(crate) enum Peeked {
    /// Nothing is waiting and nothing is known against the connection (`EAGAIN`).
    Empty,
    /// The peer closed its side (FIN).
    Closed,
    /// At least this many bytes are waiting, never 0; they stay where they are.
    Bytes,
    /// The socket's error. The kernel reports it once: whoever sees it has to keep it.
    Error(io::Error),
}

impl Peeked {
    /// What a peek that returned this means.
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

/// The number itself first: to name its kind costs more than the rest of a peek outside the kernel.
#[inline(always)]
fn is_empty(error: &io::Error) -> bool {
    #[cfg(unix)]
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

/// As [`peek`], and copies what waits into `bytes`, as much as there is room for. Returns how much.
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

/// The call behind [`peek`], for those who have to pass its result on as it is.
#[inline(always)]
pub(crate) fn recv(socket: &SockRef<'_>) -> io::Result<usize> {
    // Not empty: a peek into no space returns 0 on a living socket, as if it had ended.
    recv_into(socket, &mut [MaybeUninit::uninit(); 64])
}

#[inline(always)]
fn recv_into(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        match recv_once(socket, space) {
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

/// Elsewhere there is no `MSG_DONTWAIT`; tokio's sockets are non-blocking anyway.
#[cfg(not(unix))]
fn recv_once(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    socket.peek(space)
}
