//! A peer that vanishes without a word, on plain loopback and as an ordinary user.
//!
//! `IP_MINTTL` (`IPV6_MINHOPCOUNT`) tells the kernel to drop every segment that arrives with a
//! smaller time to live, before TCP has seen it. Packets on loopback carry 64, so a socket that asks
//! for 255 hears nothing any more. To the other end it looks as if the machine had lost its power:
//! no ACK, no FIN, no RST. Keepalive, retransmission and the user timeout then do what they do in
//! real life.
//!
//! It takes one direction only. The silenced socket still *sends*, and whatever it sends proves to
//! the other end that it lives. So on the silenced side:
//!
//! - keep the socket open: closing it sends a FIN;
//! - do not write, and leave keepalive off: its probes would be heard.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use socket2::{Domain, SockRef};

/// More than any packet on loopback carries.
const DEAF: libc::c_int = 255;

/// From now on the other end of this TCP socket hears nothing from here: no ACK, no RST.
///
/// Call it on the server's accepted socket to make a server vanish, and on the client's to make a
/// client vanish.
pub fn silence(socket: &impl AsFd) {
    set(socket, DEAF);
}

/// Undoes [`silence`]. Retransmissions get through at their next try, and the connection goes on,
/// unless one of the ends has given it up.
pub fn heal(socket: &impl AsFd) {
    set(socket, 0);
}

fn set(socket: &impl AsFd, ttl: libc::c_int) {
    let socket = SockRef::from(socket);
    let fd = socket.as_raw_fd();
    // An IPv6 socket with an IPv4 client takes IPv4 packets, and obeys the IPv4 option.
    set_option(fd, libc::IPPROTO_IP, libc::IP_MINTTL, ttl).unwrap();
    if socket.domain().unwrap() == Domain::IPV6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, ttl).unwrap();
    }
}

/// Sets an option whose value is an `int`.
pub fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: setsockopt(2) reads `size_of::<c_int>()` bytes from the pointer, which is a live
    // `c_int` on this stack. A descriptor that is not open is an error, not undefined behaviour.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option whose value is an `int`.
pub fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `size` bytes to the pointer, which is a live `c_int` of
    // that size on this stack, and the length written to the second one, a live `socklen_t`.
    let result =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
