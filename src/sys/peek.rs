//! Looking at a socket without reading from it: the authoritative check of an idle connection.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

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
    pub(crate) fn of(result: io::Result<usize>) -> Self {
        match result {
            Ok(0) => Self::Closed,
            Ok(_) => Self::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Empty,
            Err(error) => Self::Error(error),
        }
    }
}

/// Peeks once, without waiting: the system call itself, never a cached readiness.
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
pub(crate) fn recv(socket: &SockRef<'_>) -> io::Result<usize> {
    // Not empty: a peek into no space returns 0 on a living socket, as if it had ended.
    recv_into(socket, &mut [MaybeUninit::uninit(); 64])
}

fn recv_into(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        match once(socket, space) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(unix)]
fn once(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    socket.recv_with_flags(space, libc::MSG_PEEK | libc::MSG_DONTWAIT)
}

/// Elsewhere there is no `MSG_DONTWAIT`; tokio's sockets are non-blocking anyway.
#[cfg(not(unix))]
fn once(socket: &SockRef<'_>, space: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    socket.peek(space)
}
