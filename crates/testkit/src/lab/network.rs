//! The network: who is plugged in, which addresses are theirs, and what becomes of a packet.

use std::collections::HashMap;
use std::fs::File;
use std::io::{PipeWriter, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::clock::Clock;
use super::flows::Flows;
use super::link::Link;
use super::packet::{Parsed, Way};
use super::reply;
use super::rules::Verdict;

/// Where a host is plugged in.
pub(super) struct Port {
    pub(super) tun: File,
    pub(super) link: Link,
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
    /// Something is written to `wake` whenever [`ports`](Self::ports) has changed.
    pub(super) fn new(wake: PipeWriter) -> Self {
        Self { state: Mutex::default(), wake }
    }

    /// All that is plugged in. `None`: stop.
    pub(super) fn ports(&self) -> Option<Vec<Arc<Port>>> {
        let state = self.state();
        (!state.stop).then(|| state.ports.clone())
    }

    /// Unplugs everybody, and ends the relay.
    pub(super) fn stop(&self) {
        *self.state() = State { stop: true, ..State::default() };
        self.wake();
    }

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

    /// Takes a packet from a host, and lets the clock deliver it, or an answer, or nothing.
    pub(super) fn carry(&self, sender: &Arc<Port>, bytes: &[u8], clock: &mut Clock) {
        carry(&mut self.state(), clock, sender, bytes);
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
