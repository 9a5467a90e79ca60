//! Ports for servers, and a question to one.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A port that was free a moment ago, below those that the kernel hands out on its own: while a
/// server is down, no client must get its port (not even by connecting to itself). At random, so that
/// no other process that looks for one follows in its steps.
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
