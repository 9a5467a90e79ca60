//! The one network interface of a namespace: a TUN device, whose other end is a file.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::queue;

const NAME: &str = "lab0";

/// The whole lab is one network, so that no route has to be set.
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);

/// Packets the kernel keeps for a relay that gets no CPU for a while, before it drops some.
const QUEUE: u32 = 10_000;

/// Makes the interface in the network namespace of this thread. Reading the file, which does not
/// block, gives an IP packet that the namespace sent; one written to it arrives there. The
/// interface goes when the file is closed.
pub(super) fn open(address: Ipv4Addr) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = request(NAME);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    control(file.as_raw_fd(), libc::TUNSETIFF as libc::c_ulong, &request)?;
    set_address(libc::SIOCSIFADDR, NAME, address)?;
    set_address(libc::SIOCSIFNETMASK, NAME, NETMASK)?;
    queue::set_length(NAME, QUEUE)?;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    configure(libc::SIOCSIFFLAGS, &request)?;
    Ok(file)
}

/// Gives the interface of this namespace one more address. `number` has not been used for another.
pub(super) fn add_address(address: Ipv4Addr, number: usize) -> io::Result<()> {
    set_address(libc::SIOCSIFADDR, &format!("{NAME}:{number}"), address)
}

/// Makes a TUN device and lets it go. Only system calls on its own stack and constants: it runs
/// between fork and exec.
pub(super) fn rehearse() -> io::Result<()> {
    // SAFETY: open(2) reads the path, a constant that ends with a zero byte.
    let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut request = request(NAME);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let result = control(fd, libc::TUNSETIFF as libc::c_ulong, &request);
    // SAFETY: the descriptor was opened above and is used by nobody else.
    unsafe { libc::close(fd) };
    result
}

fn set_address(what: libc::c_ulong, interface: &str, address: Ipv4Addr) -> io::Result<()> {
    // SAFETY: a `sockaddr_in` is plain data, for which all zeroes are valid.
    let mut internet: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    internet.sin_family = libc::AF_INET as libc::sa_family_t;
    internet.sin_addr.s_addr = u32::from(address).to_be();
    let mut request = request(interface);
    // SAFETY: `sockaddr_in` is a form of `sockaddr`, of the same size (the compiler checks that),
    // and neither has invalid values.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(internet) };
    configure(what, &request)
}

fn request(interface: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than there is room for, as the name ends with a zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// netdevice(7): any socket of the namespace will do.
fn configure(what: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    control(socket.as_raw_fd(), what, request)
}

fn control(fd: RawFd, what: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    let mut request = *request;
    // SAFETY: every request used here reads one `ifreq` (TUNSETIFF writes the name back) at the
    // pointer, which is live and writable on this stack. A wrong descriptor is an error.
    let result = unsafe { libc::ioctl(fd, what as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
