//! What the kernel knows of a TCP connection, and the few knobs a probe turns.
#![allow(unsafe_code)]

use std::time::Duration;

use socket2::SockRef;

/// A reading of `TCP_INFO` (tcp(7)), reduced to what liveness asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Time since anything was heard from the peer's kernel: an acknowledgement or data.
    pub(crate) heard: Duration,
    /// Keepalive probes that were really sent and are not answered.
    pub(crate) probes: u32,
    /// Segments that were sent and are not acknowledged.
    pub(crate) unacked: u32,
    /// Retransmissions of the oldest of them.
    pub(crate) retransmits: u32,
    /// Smoothed round-trip time and its variation.
    pub(crate) rtt: Duration,
    pub(crate) rttvar: Duration,
    /// The kernel has already given this connection up or has been told to.
    pub(crate) closed: bool,
    /// The peer has closed its side (FIN), whether that was read or not.
    pub(crate) peer_closed: bool,
}

/// The reading, or `None` where the system (or this kind of socket) has none.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn tcp_info(socket: &SockRef<'_>) -> Option<TcpInfo> {
    use std::os::fd::AsRawFd;
    let mut raw = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at most
    // `length` bytes to `raw`, which is that large, and nothing keeps the pointers.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return None;
    }
    // SAFETY: it was zeroed, and all of its fields are integers; an older kernel fills fewer of them.
    let raw = unsafe { raw.assume_init() };
    let ms = |value: u32| Duration::from_millis(value.into());
    let us = |value: u32| Duration::from_micros(value.into());
    const TCP_CLOSE: u8 = 7;
    const TCP_CLOSE_WAIT: u8 = 8;
    Some(TcpInfo {
        heard: ms(raw.tcpi_last_ack_recv.min(raw.tcpi_last_data_recv)),
        probes: raw.tcpi_probes.into(),
        unacked: raw.tcpi_unacked,
        retransmits: raw.tcpi_retransmits.into(),
        rtt: us(raw.tcpi_rtt),
        rttvar: us(raw.tcpi_rttvar),
        closed: raw.tcpi_state == TCP_CLOSE,
        peer_closed: raw.tcpi_state == TCP_CLOSE_WAIT,
    })
}

/// The reading, or `None` where the system (or this kind of socket) has none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn tcp_info(_: &SockRef<'_>) -> Option<TcpInfo> {
    None
}

/// Whether bytes wait in our own send queue, sent or not.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn unsent(socket: &SockRef<'_>) -> bool {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one int to the pointer given.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    answer == 0 && bytes > 0
}

/// Whether bytes wait in our own send queue, sent or not.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn unsent(_: &SockRef<'_>) -> bool {
    false
}

/// The user's settings that a probe changes for its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saved {
    idle: Duration,
    retries: u32,
    /// If it was changed.
    user_timeout: Option<Duration>,
}

/// Prepares a socket for probes of ours: the kernel must not take their number for its own verdict.
/// `None` if this socket cannot be probed: keepalive is off, or the system has no such thing.
///
/// `TCP_KEEPCNT` goes to its highest value, 127, and a user timeout that silence of `silence` would
/// pass is raised above it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn begin_probing(socket: &SockRef<'_>, silence: Duration) -> Option<Saved> {
    if !socket.keepalive().ok()? {
        return None;
    }
    let user_timeout = socket.tcp_user_timeout().ok()?;
    let short = user_timeout.is_some_and(|limit| !limit.is_zero() && limit < silence);
    let saved = Saved {
        idle: socket.tcp_keepalive_time().ok()?,
        retries: socket.tcp_keepalive_retries().ok()?,
        user_timeout: user_timeout.filter(|_| short),
    };
    set(socket, libc::TCP_KEEPCNT, 127)?;
    if short && socket.set_tcp_user_timeout(Some(silence)).is_err() {
        end_probing(socket, saved);
        return None;
    }
    Some(saved)
}

/// Sends a keepalive probe at the next tick of the kernel's clock, if the peer was not heard for
/// more than a second: lowering `TCP_KEEPIDLE` re-arms the keepalive timer.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn send_probe(socket: &SockRef<'_>) {
    let _ = set(socket, libc::TCP_KEEPIDLE, 1);
}

/// Gives the user's settings back.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn end_probing(socket: &SockRef<'_>, saved: Saved) {
    let seconds = libc::c_int::try_from(saved.idle.as_secs()).unwrap_or(libc::c_int::MAX);
    let retries = libc::c_int::try_from(saved.retries).unwrap_or(127);
    let _ = set(socket, libc::TCP_KEEPIDLE, seconds);
    let _ = set(socket, libc::TCP_KEEPCNT, retries);
    if saved.user_timeout.is_some() {
        let _ = socket.set_tcp_user_timeout(saved.user_timeout);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set(socket: &SockRef<'_>, option: libc::c_int, value: libc::c_int) -> Option<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads one int.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    (answer == 0).then_some(())
}

/// Without `TCP_INFO` nobody could read the answer to a probe.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn begin_probing(_: &SockRef<'_>, _: Duration) -> Option<Saved> {
    None
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn send_probe(_: &SockRef<'_>) {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn end_probing(_: &SockRef<'_>, _: Saved) {}
