//! Ports for servers, and a question to one.

use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::until_blocking;

/// Ports that this process has, and how it holds them.
static OURS: Mutex<Ours> = Mutex::new(Ours { left: Vec::new(), held: Vec::new() });

struct Ours {
    left: Vec<u16>,
    /// One for each block.
    held: Vec<Block>,
}

/// So many are taken at a time, so that a test that counts its descriptors finds one more at most.
const BLOCK: u16 = 256;
const LOWEST: u16 = 10_000;

/// A port that was free a moment ago, below those that the kernel hands out on its own: while a
/// server is down, no client must get its port (not even by connecting to itself). No other test has it
/// before this process ends.
pub fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    // Elsewhere than on Linux: IANA's range (RFC 6335).
    let end: u16 = range.map_or(49_152, |range| {
        range.split_whitespace().next().expect("two numbers").parse().expect("two numbers")
    });
    if end < LOWEST + 10 * BLOCK {
        let socket = bound(local(0)).unwrap();
        return socket.local_addr().unwrap().as_socket().unwrap().port();
    }
    let mut ours = OURS.lock().unwrap();
    loop {
        while ours.left.is_empty() {
            // At random, so that nobody follows in another's steps.
            let random = RandomState::new().hash_one(end);
            let first = LOWEST + (random % u64::from((end - LOWEST) / BLOCK)) as u16 * BLOCK;
            if let Some(block) = hold(first) {
                ours.held.push(block);
                ours.left.extend(first..first + BLOCK);
            }
        }
        let next = RandomState::new().hash_one(end) % ours.left.len() as u64;
        let port = ours.left.swap_remove(next as usize);
        if bound(local(port)).is_ok() {
            return port;
        }
    }
}

/// An address at which nobody listens, unless the one who asked for it does.
pub fn nobody() -> SocketAddr {
    local(free_port())
}

/// A socket with this address, if that is free, which does not listen: a program that another test starts
/// has the socket, too, for as long as it is a fork of this one, and the kernel would take connections for it.
pub(crate) fn bound(addr: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // As everybody does who is to listen there (std, too, but on Windows).
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Waits until nobody takes connections at this address any more. That a listener is closed here is not
/// enough, see [`bound`].
pub fn until_refused(addr: SocketAddr) {
    let asked = Duration::from_millis(100);
    until_blocking(|| match TcpStream::connect_timeout(&addr, asked) {
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::TimedOut,
    });
}

#[cfg(target_os = "linux")]
type Block = std::os::unix::net::UnixListener;
#[cfg(not(target_os = "linux"))]
type Block = ();

/// Takes the ports from this one on for this process, by a name that only one can have (unix(7), abstract
/// sockets).
#[cfg(target_os = "linux")]
fn hold(first: u16) -> Option<Block> {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("livepool-test-ports-{first}");
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    Block::bind_addr(&name).ok()
}

#[cfg(not(target_os = "linux"))]
fn hold(_first: u16) -> Option<Block> {
    Some(())
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One question to a server, and the beginning of its answer.
pub fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(local(port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = vec![0; 512];
    let count = stream.read(&mut answer).ok()?;
    answer.truncate(count);
    Some(answer)
}
