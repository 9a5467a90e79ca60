//! The thread that takes packets from one host and brings them to another.
#![allow(unsafe_code)]

use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::network::{Network, Port};

/// Packets taken from one host before the others have their turn.
const TURN: usize = 64;

/// Runs the network until it is dropped.
pub(super) struct Relay {
    network: Arc<Network>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(super) fn start() -> Self {
        let (woken, wake) = std::io::pipe().unwrap();
        let network = Arc::new(Network::new(wake));
        let its = Arc::clone(&network);
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || run(&its, &woken))
            .unwrap();
        Self { network, thread: Some(thread) }
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.network
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.network.stop();
        let ended = self.thread.take().expect("taken in drop only").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the relay panicked; see above");
    }
}

fn run(network: &Network, woken: &PipeReader) {
    let mut clock = Clock::default();
    let mut ports = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut ready = wait(woken, &ports, clock.next());
        if ready.remove(0) {
            let _ = (&*woken).read(&mut buffer).expect("the network holds the other end");
            let Some(now) = network.ports() else { return };
            ports = now;
            // `ready` speaks of the ports there were before.
            continue;
        }
        for (port, _) in ports.iter().zip(ready).filter(|(_, ready)| *ready) {
            for _ in 0..TURN {
                let Some(bytes) = receive(port, &mut buffer) else { break };
                network.carry(port, bytes, &mut clock);
            }
        }
        while let Some((port, bytes)) = clock.arrived(Instant::now()) {
            // An interface that takes it no more belongs to a host that is just being dropped.
            let _ = (&port.tun).write(&bytes);
        }
    }
}

fn receive<'a>(port: &Port, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    match (&port.tun).read(buffer) {
        Ok(length) => Some(&buffer[..length]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) if error.kind() == ErrorKind::Interrupted => None,
        Err(error) => panic!("reading from {}: {error}", port.link.ip()),
    }
}

/// Waits until something can be read or `until` has come. Says what can be read: the pipe, then
/// each port.
fn wait(woken: &PipeReader, ports: &[Arc<Port>], until: Option<Instant>) -> Vec<bool> {
    let watch = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let files = ports.iter().map(|port| port.tun.as_raw_fd());
    let mut watched: Vec<_> = std::iter::once(woken.as_raw_fd()).chain(files).map(watch).collect();
    let left = until.map_or(Duration::from_secs(3600), |due| due - Instant::now().min(due));
    let timeout = libc::timespec {
        tv_sec: left.as_secs() as libc::time_t,
        tv_nsec: left.subsec_nanos() as libc::c_long,
    };
    // SAFETY: ppoll(2) reads and writes `watched.len()` elements of a live array, and reads a live
    // `timespec`; a null signal mask is allowed and changes nothing.
    let result = unsafe {
        libc::ppoll(
            watched.as_mut_ptr(),
            watched.len() as libc::nfds_t,
            &raw const timeout,
            std::ptr::null(),
        )
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        return vec![false; watched.len()];
    }
    watched.iter().map(|entry| entry.revents != 0).collect()
}
