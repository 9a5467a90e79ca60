//! Ports for servers, and a question to one.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A port that was free a moment ago, below those that the kernel hands out on its own: while a
/// server is down, no client must get its port (not even by connecting to itself). At random, so that
/// no other process that looks for one follows in its steps. No other test has it before this process ends.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    // Elsewhere than on Linux: IANA's range (RFC 6335).
    let end: u16 = range.map_or(49_152, |range| {
        range.split_whitespace().next().expect("two numbers").parse().expect("two numbers")
    });
    if end < LOWEST + 1000 {
        return TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    }
    loop {
        let random = RandomState::new().hash_one(end);
        let port = LOWEST + (random % u64::from(end - LOWEST)) as u16;
        if is_ours(port) && TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
}

/// Takes a port for this process, by a name that only one can have (unix(7), abstract sockets).
#[cfg(target_os = "linux")]
fn is_ours(port: u16) -> bool {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::sync::Mutex;

    static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("livepool-test-port-{port}")).unwrap();
    let taken = UnixListener::bind_addr(&name);
    let is_ours = taken.is_ok();
    OURS.lock().unwrap().extend(taken);
    is_ours
}

#[cfg(not(target_os = "linux"))]
fn is_ours(_port: u16) -> bool {
    true
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
