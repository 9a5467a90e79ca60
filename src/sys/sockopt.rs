//! Socket options that not every system has, and the one that socket2 does not have.
//!
//! The lists of systems are those tokio runs on and socket2 has the option for.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// The reason why an option is not set.
#[derive(Debug)]
pub(crate) enum OptionError {
    /// The system does not have the option; the text says what is missing.
    Unsupported(&'static str),
    /// The system has the option and refused it.
    Failed(io::Error),
}

impl From<io::Error> for OptionError {
    /// An error of the system; `ENOPROTOOPT` is unsupported.
    fn from(error: io::Error) -> Self {
        #[cfg(unix)]
        // An older or an emulated kernel says so that it does not have an option.
        if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
            return Self::Unsupported("this system's kernel does not have it");
        }
        Self::Failed(error)
    }
}

/// The result of setting an option.
pub(crate) type OptionResult = Result<(), OptionError>;

/// Declares an option's setter and getter for some systems, and "unsupported" for the rest.
macro_rules! option {
    (
        systems: [$($os:literal),+];
        $(#[$set_meta:meta])* set $set:ident($set_socket:ident, $value:ident: $value_ty:ty) $set_body:block
        $(#[$get_meta:meta])* get $get:ident($get_socket:ident) -> $get_ty:ty $get_body:block
        missing $missing:literal;
    ) => {
        $(#[$set_meta])*
        #[cfg(any($(target_os = $os),+))]
        pub(crate) fn $set($set_socket: &SockRef<'_>, $value: $value_ty) -> OptionResult $set_body

        $(#[$set_meta])*
        #[cfg(not(any($(target_os = $os),+)))]
        pub(crate) fn $set(_: &SockRef<'_>, _: $value_ty) -> OptionResult {
            Err(OptionError::Unsupported(concat!("this system has no ", $missing)))
        }

        $(#[$get_meta])*
        #[cfg(any($(target_os = $os),+))]
        pub(crate) fn $get($get_socket: &SockRef<'_>) -> Option<$get_ty> $get_body

        $(#[$get_meta])*
        #[cfg(not(any($(target_os = $os),+)))]
        pub(crate) fn $get(_: &SockRef<'_>) -> Option<$get_ty> {
            None
        }
    };
}

option! {
    systems: ["android", "fuchsia", "linux"];
    /// `TCP_USER_TIMEOUT`, in whole milliseconds.
    set set_user_timeout(socket, limit: Duration) {
        Ok(socket.set_tcp_user_timeout(Some(limit))?)
    }
    /// The timeout; `None` when it is off, or unsupported.
    get user_timeout(socket) -> Duration { socket.tcp_user_timeout().ok().flatten() }
    missing "TCP_USER_TIMEOUT";
}

option! {
    systems: ["android", "fuchsia", "linux"];
    /// `SO_MARK`.
    set set_mark(socket, mark: u32) { Ok(socket.set_mark(mark)?) }
    /// The mark; `Some(0)` is no mark.
    get mark(socket) -> u32 { socket.mark().ok() }
    missing "SO_MARK";
}

option! {
    systems: ["android", "fuchsia", "linux"];
    /// `SO_BINDTODEVICE`.
    set set_device(socket, name: &str) { Ok(socket.bind_device(Some(name.as_bytes()))?) }
    /// The interface; `None` when the socket is bound to none, or unsupported.
    get device(socket) -> String { socket.device().ok().flatten().map(text) }
    missing "SO_BINDTODEVICE";
}

option! {
    systems: ["freebsd", "linux"];
    /// `TCP_CONGESTION`.
    set set_congestion(socket, name: &str) { Ok(socket.set_tcp_congestion(name.as_bytes())?) }
    /// The algorithm in use.
    get congestion(socket) -> String { socket.tcp_congestion().ok().map(text) }
    missing "TCP_CONGESTION";
}

option! {
    systems: [
        "android", "dragonfly", "freebsd", "fuchsia", "illumos", "linux", "macos", "netbsd", "openbsd"
    ];
    /// `IPV6_TCLASS`.
    set set_traffic_class(socket, class: u8) { Ok(socket.set_tclass_v6(u32::from(class))?) }
    /// The class of what is sent.
    get traffic_class(socket) -> u32 { socket.tclass_v6().ok() }
    missing "IPV6_TCLASS";
}

option! {
    systems: [
        "android", "dragonfly", "freebsd", "illumos", "ios", "linux", "macos", "netbsd", "openbsd",
        "windows"
    ];
    /// `IP_TOS`.
    set set_tos(socket, tos: u8) { Ok(socket.set_tos_v4(u32::from(tos))?) }
    /// The type of service of what is sent.
    get tos(socket) -> u32 { socket.tos_v4().ok() }
    missing "IP_TOS";
}

/// A name out of one of the kernel's fixed fields, without the zero bytes behind it.
#[cfg(any(
    target_os = "android",
    target_os = "freebsd",
    target_os = "fuchsia",
    target_os = "linux"
))]
fn text(name: Vec<u8>) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`, also on IPv6 sockets: the port is chosen at connect, when the
/// destination is known, and not at bind. Without the option every connection from a bound address
/// uses up a local port for all destinations (ip(7), Linux 4.2).
#[cfg(any(target_os = "android", target_os = "linux"))]
pub(crate) fn set_bind_address_no_port(socket: &SockRef<'_>) -> OptionResult {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: setsockopt(2) reads `size_of::<c_int>()` bytes from the pointer, which is a live
    // `c_int` on this stack; the descriptor is borrowed from `socket` and stays open for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Says that the option is unsupported: other systems choose the port at connect by themselves or
/// not at all.
#[cfg(not(any(target_os = "android", target_os = "linux")))]
pub(crate) fn set_bind_address_no_port(_: &SockRef<'_>) -> OptionResult {
    Err(OptionError::Unsupported("this system has no IP_BIND_ADDRESS_NO_PORT"))
}
