//! Ports for servers, and a question to one.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A port that was free a moment ago, below those that the kernel hands out on its own: while a
/// server is down, no client must get its port (not even by connecting to itself).
pub fn free_port() -> u16 {
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const LOWEST: u16 = 10_000;
    let start = START.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    // Elsewhere than on Linux: IANA's range (RFC 6335).
    let end: u16 = range.map_or(49_152, |range| {
        range.split_whitespace().next().expect("two numbers").parse().expect("two numbers")
    });
    if end < LOWEST + 1000 {
        return TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    }
    loop {
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let port = LOWEST + (start.wrapping_add(count) % u64::from(end - LOWEST)) as u16;
        if TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
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
