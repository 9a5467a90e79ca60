//! The kernel's knowledge of a TCP connection, and the options that a probe changes.
#![allow(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::mem::offset_of;
use std::time::Duration;

use socket2::SockRef;

/// A reading of `TCP_INFO` (tcp(7)), reduced to the fields that liveness needs.
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
    /// The smallest round trip of the last minutes, which no delayed acknowledgement has made
    /// longer; `None` before Linux 4.6, and before the first measurement.
    pub(crate) min_rtt: Option<Duration>,
    /// Whether the kernel has given this connection up or has been told to.
    pub(crate) closed: bool,
    /// Whether the peer has closed its side (FIN), read or not.
    pub(crate) peer_closed: bool,
    /// Whether bytes wait in our own send queue that were never sent; `None` before Linux 4.6.
    pub(crate) unsent: Option<bool>,
}

/// The part of Linux's `struct tcp_info` (linux/tcp.h) that is read here. New fields are only ever
/// added at its end. The libc crate has the struct for some systems only.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug, Default)]
#[repr(C)]
struct RawTcpInfo {
    state: u8,
    _ca_state: u8,
    retransmits: u8,
    probes: u8,
    _backoff_to_flags: [u8; 4],
    _rto_to_rcv_mss: [u32; 4],
    unacked: u32,
    _sacked_to_fackets: [u32; 4],
    _last_sent: [u32; 2],
    last_data_recv: u32,
    last_ack_recv: u32,
    _pmtu_and_ssthresh: [u32; 2],
    rtt: u32,
    rttvar: u32,
    _snd_ssthresh_to_total_retrans: [u32; 7],
    _pacing_and_bytes: [u64; 4],
    _segs: [u32; 2],
    /// The bytes in the send queue that were never sent; since Linux 4.6.
    notsent_bytes: u32,
    /// Since Linux 4.6.
    min_rtt: u32,
}

/// The reading, or `None` where the system (or this kind of socket) has none.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn tcp_info(socket: &SockRef<'_>) -> Option<TcpInfo> {
    use std::os::fd::AsRawFd;
    const TCP_INFO: libc::c_int = 11;
    let mut raw = RawTcpInfo::default();
    let mut length = size_of::<RawTcpInfo>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at most
    // `length` bytes to `raw`, which is that large and made of integers, and nothing keeps the
    // pointers.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_INFO,
            (&raw mut raw).cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return None;
    }
    // The kernel writes as much as it knows, and says in `length` how much that was.
    let has_min_rtt = length as usize >= offset_of!(RawTcpInfo, min_rtt) + size_of::<u32>();
    let has_unsent = length as usize >= offset_of!(RawTcpInfo, notsent_bytes) + size_of::<u32>();
    let ms = |value: u32| Duration::from_millis(value.into());
    let us = |value: u32| Duration::from_micros(value.into());
    const TCP_CLOSE: u8 = 7;
    const TCP_CLOSE_WAIT: u8 = 8;
    Some(TcpInfo {
        // The time since either is counted: the smaller one is the last sign of life.
        heard: ms(raw.last_ack_recv.min(raw.last_data_recv)),
        probes: raw.probes.into(),
        unacked: raw.unacked,
        retransmits: raw.retransmits.into(),
        rtt: us(raw.rtt),
        rttvar: us(raw.rttvar),
        // Zero and the largest number stand for "not measured" (tcp_min_rtt).
        min_rtt: (has_min_rtt && raw.min_rtt > 0 && raw.min_rtt < u32::MAX)
            .then(|| us(raw.min_rtt)),
        closed: raw.state == TCP_CLOSE,
        peer_closed: raw.state == TCP_CLOSE_WAIT,
        unsent: has_unsent.then_some(raw.notsent_bytes > 0),
    })
}

/// The reading, or `None` where the system (or this kind of socket) has none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn tcp_info(_: &SockRef<'_>) -> Option<TcpInfo> {
    None
}

impl TcpInfo {
    /// Whether bytes wait in our own send queue; to be asked when none are on their way.
    pub(crate) fn has_unsent(&self, socket: &SockRef<'_>) -> bool {
        self.unsent.unwrap_or_else(|| unsent(socket))
    }
}

/// Whether bytes wait in our own send queue, sent or not.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn unsent(socket: &SockRef<'_>) -> bool {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one int to the pointer given.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    answer == 0 && bytes > 0
}

/// Whether bytes wait in our own send queue, sent or not.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unsent(_: &SockRef<'_>) -> bool {
    false
}

/// The user's settings that a probe changes for its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepaliveValues {
    pub(crate) idle: Duration,
    pub(crate) retries: u32,
    pub(crate) user_timeout: Option<Duration>,
}

/// The settings in force; `None` if this socket cannot be probed, because keepalive is off or the
/// system has no such thing.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn keepalive_values(socket: &SockRef<'_>) -> Option<KeepaliveValues> {
    if !socket.keepalive().ok()? {
        return None;
    }
    Some(KeepaliveValues {
        idle: socket.tcp_keepalive_time().ok()?,
        retries: socket.tcp_keepalive_retries().ok()?,
        user_timeout: socket.tcp_user_timeout().ok()?.filter(|limit| !limit.is_zero()),
    })
}

/// Keeps the kernel from a verdict of its own while our probes go unanswered: sets `TCP_KEEPCNT` to
/// its highest value, 127, and the user timeout to this one, if any. False if the kernel refuses.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn hold_verdict(socket: &SockRef<'_>, user_timeout: Option<Duration>) -> bool {
    set(socket, libc::TCP_KEEPCNT, 127).is_some()
        && user_timeout.is_none_or(|limit| socket.set_tcp_user_timeout(Some(limit)).is_ok())
}

/// Sends a keepalive probe at the next tick of the kernel's clock, if the peer was not heard for
/// more than a second: lowering `TCP_KEEPIDLE` re-arms the keepalive timer.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn send_probe(socket: &SockRef<'_>) {
    let _ = set(socket, libc::TCP_KEEPIDLE, 1);
}

/// Ends the sending of probes: `TCP_KEEPIDLE` is the user's again.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn end_probes(socket: &SockRef<'_>, own: &KeepaliveValues) {
    // Whole seconds, as the kernel gave them.
    let seconds = libc::c_int::try_from(own.idle.as_secs()).unwrap_or(libc::c_int::MAX);
    let _ = set(socket, libc::TCP_KEEPIDLE, seconds);
}

/// Lets the kernel pass its verdict again: `TCP_KEEPCNT` and the user timeout are the user's.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn release_verdict(socket: &SockRef<'_>, own: &KeepaliveValues) {
    let _ = set(socket, libc::TCP_KEEPCNT, libc::c_int::try_from(own.retries).unwrap_or(127));
    if own.user_timeout.is_some() {
        let _ = socket.set_tcp_user_timeout(own.user_timeout);
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

/// Says that this socket cannot be probed: without `TCP_INFO` the answer to a probe could not be
/// read.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn keepalive_values(_: &SockRef<'_>) -> Option<KeepaliveValues> {
    None
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn hold_verdict(_: &SockRef<'_>, _: Option<Duration>) -> bool {
    false
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn send_probe(_: &SockRef<'_>) {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn end_probes(_: &SockRef<'_>, _: &KeepaliveValues) {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn release_verdict(_: &SockRef<'_>, _: &KeepaliveValues) {}

#[cfg(test)]
impl TcpInfo {
    /// The reading of a connection on which nothing is under way.
    pub(crate) fn quiet(heard: Duration, probes: u32, rtt: Duration) -> Self {
        Self {
            heard,
            probes,
            unacked: 0,
            retransmits: 0,
            rtt,
            rttvar: Duration::ZERO,
            min_rtt: None,
            closed: false,
            peer_closed: false,
            unsent: Some(false),
        }
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_kernel_writes_them() {
        // As C gives them for linux/tcp.h.
        let fields = [
            (offset_of!(RawTcpInfo, unacked), 24),
            (offset_of!(RawTcpInfo, last_data_recv), 52),
            (offset_of!(RawTcpInfo, last_ack_recv), 56),
            (offset_of!(RawTcpInfo, rtt), 68),
            (offset_of!(RawTcpInfo, rttvar), 72),
            (offset_of!(RawTcpInfo, notsent_bytes), 144),
            (offset_of!(RawTcpInfo, min_rtt), 148),
        ];
        for (index, (offset, expected)) in fields.into_iter().enumerate() {
            assert_eq!(offset, expected, "field {index}");
        }
    }
}
