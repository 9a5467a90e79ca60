//! A probe under way: [`Probe`] decides, and this turns the kernel's knobs for it.

use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use super::{Probe, Step};
use crate::sys::tcp_info::{self, Keepalive, TcpInfo};

/// A probe, and what has to be restored after it: see [`end`](Self::end).
#[derive(Debug)]
pub(crate) struct Probing {
    probe: Probe,
    own: Keepalive,
    has_sent: bool,
    /// The kernel's own verdict is held off.
    is_held: bool,
}

impl Probing {
    /// `own` is what is in force on this socket. `None` if the kernel refuses.
    ///
    /// The kernel must not take our probes for its own verdict. Hardly any probe needs a second
    /// sending, and the first one cannot end a connection that has time and tries left; so its
    /// verdict is held off only before the second, unless the first might end it already.
    pub(crate) fn begin(
        socket: &SockRef<'_>,
        now: Instant,
        info: &TcpInfo,
        own: Keepalive,
    ) -> Option<Self> {
        let mut probing = Self { probe: Probe::begin(now), own, has_sent: false, is_held: false };
        let is_short = own.user_timeout.is_some_and(|limit| limit < longest(info));
        let could_end = info.probes > 0 || own.retries < 2 || is_short;
        (!could_end || probing.hold(socket, info)).then_some(probing)
    }

    /// One step, by this reading. Sends what there is to send.
    pub(crate) fn step(&mut self, socket: &SockRef<'_>, now: Instant, info: &TcpInfo) -> Step {
        let step = self.probe.step(now, info, || info.has_unsent(socket));
        if let Step::Wait { send: true, .. } = step {
            if self.has_sent && !self.is_held && !self.hold(socket, info) {
                return Step::Unknown;
            }
            self.has_sent = true;
            tcp_info::send_probe(socket);
        }
        step
    }

    /// Gives the user's settings back.
    pub(crate) fn end(self, socket: &SockRef<'_>) {
        if self.has_sent {
            tcp_info::end_probes(socket, &self.own);
        }
        if self.is_held {
            tcp_info::release_verdict(socket, &self.own);
        }
    }

    fn hold(&mut self, socket: &SockRef<'_>, info: &TcpInfo) -> bool {
        // Also if only a part of it succeeds: it is to be undone.
        self.is_held = true;
        let held = tcp_info::hold_verdict(socket, &self.own, longest(info));
        if !held {
            tcp_info::release_verdict(socket, &self.own);
        }
        held
    }
}

/// The silence after which there is a verdict in any case.
fn longest(info: &TcpInfo) -> Duration {
    info.heard + 2 * Probe::verdict_time(info) + Duration::from_secs(1)
}
