//! The network: one thread that takes packets from one host and brings them to another.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::flows::Flows;
use super::link::{Link, Verdict};
use super::packet::{Parsed, Way};
use super::reply;

/// Packets taken from one host before the others have their turn.
const TURN: usize = 64;

/// Where a host is plugged in.
pub(super) struct Port {
    tun: File,
    link: Link,
}

/// Who is there, and which addresses are theirs.
pub(super) struct Network {
    state: Mutex<State>,
    wake: PipeWriter,
}

#[derive(Default)]
struct State {
    ports: Vec<Arc<Port>>,
    routes: HashMap<Ipv4Addr, Arc<Port>>,
    flows: Flows,
    stop: bool,
}

impl Network {
    /// Plugs a host in, with its first address.
    pub(super) fn connect(&self, address: Ipv4Addr, tun: File, link: Link) {
        let port = Arc::new(Port { tun, link });
        let mut state = self.state();
        state.ports.push(Arc::clone(&port));
        state.routes.insert(address, port);
        drop(state);
        self.wake();
    }

    /// From now on this address is owned by the host with that first address.
    pub(super) fn route(&self, address: Ipv4Addr, owner: Ipv4Addr) {
        let mut state = self.state();
        let port = state.ports.iter().find(|port| port.link.ip() == owner).map(Arc::clone);
        state.routes.insert(address, port.expect("a host of this network"));
    }

    /// Takes the host with this first address away.
    pub(super) fn disconnect(&self, owner: Ipv4Addr) {
        let mut state = self.state();
        state.ports.retain(|port| port.link.ip() != owner);
        state.routes.retain(|_, port| port.link.ip() != owner);
        drop(state);
        self.wake();
    }

    /// The number of the latest connection.
    pub(super) fn connections(&self) -> u64 {
        self.state().flows.count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // See `Link::rules`.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wake(&self) {
        // A relay that has panicked or been stopped reads no more.
        let _ = (&self.wake).write_all(&[0]);
    }
}

/// Runs the network until it is dropped.
pub(super) struct Relay {
    network: Arc<Network>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(super) fn start() -> Self {
        let (woken, wake) = std::io::pipe().unwrap();
        let network = Arc::new(Network { state: Mutex::default(), wake });
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
        let mut state = self.network.state();
        *state = State { stop: true, ..State::default() };
        drop(state);
        self.network.wake();
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
            let state = network.state();
            if state.stop {
                return;
            }
            ports.clone_from(&state.ports);
            // `ready` speaks of the ports there were before.
            continue;
        }
        for (port, _) in ports.iter().zip(ready).filter(|(_, ready)| *ready) {
            for _ in 0..TURN {
                let Some(bytes) = receive(port, &mut buffer) else { break };
                carry(&mut network.state(), &mut clock, port, bytes);
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

/// Decides about one packet: over the link of its sender, then over that of its receiver.
fn carry(state: &mut State, clock: &mut Clock, sender: &Arc<Port>, bytes: &[u8]) {
    // IPv6 talks to itself as soon as an interface is up.
    let Some(parsed) = Parsed::read(bytes) else { return };
    if !state.routes.get(parsed.from.ip()).is_some_and(|port| Arc::ptr_eq(port, sender)) {
        return sender.link.stray();
    }
    let now = Instant::now();
    let mut packet = parsed.on_its_way(&mut state.flows);
    let (mut verdict, mut delay) = sender.link.decide(&packet);
    let receiver = state.routes.get(parsed.to.ip());
    if let (Verdict::Pass | Verdict::Hold(_), Some(receiver)) = (verdict, receiver) {
        packet.way = Way::In;
        let (also, more) = receiver.link.decide(&packet);
        verdict = also;
        delay += more;
    }
    let answer = match verdict {
        Verdict::Drop => None,
        Verdict::Reset => reply::reset(&parsed),
        Verdict::Unreachable => reply::unreachable(reply::HOST_UNREACHABLE, &parsed, bytes),
        Verdict::Prohibited => reply::unreachable(reply::PROHIBITED, &parsed, bytes),
        Verdict::Pass | Verdict::Hold(_) => {
            if let Some(receiver) = receiver {
                clock.send(now + delay, Arc::clone(receiver), bytes.to_vec());
            }
            None
        }
    };
    if let Some(answer) = answer {
        // There and back.
        clock.send(now + delay * 2, Arc::clone(sender), answer);
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
