//! A probe under way: [`Probe`] decides, and this turns the kernel's knobs for it.

use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use super::{Probe, Step};
use crate::sys::tcp_info::{self, Keepalive, TcpInfo};

/// A probe, and what has to be restored after it: see [`end`](Self::end).
///
/// The kernel must not take our probes for its own verdict. Hardly any probe needs a second sending,
/// and the first one ends no connection: so its verdict is held off only before the second, or where
/// it may come sooner.
#[derive(Debug)]
pub(crate) struct Probing {
    probe: Probe,
    own: Keepalive,
    has_sent: bool,
    /// The kernel's own verdict is held off.
    is_held: bool,
}

impl Probing {
    /// `own` is what is in force on this socket.
    pub(crate) fn begin(now: Instant, own: Keepalive) -> Self {
        Self { probe: Probe::begin(now), own, has_sent: false, is_held: false }
    }

    /// Asks before anything was read, a peer that the kernel itself has not asked. Returns when to
    /// look for the answer, too.
    pub(crate) fn begin_blindly(
        socket: &SockRef<'_>,
        now: Instant,
        own: Keepalive,
    ) -> (Self, Duration) {
        let (probe, look_in) = Probe::begin_sent(now);
        tcp_info::send_probe(socket);
        (Self { probe, own, has_sent: true, is_held: false }, look_in)
    }

    /// One step, by this reading. Sends what there is to send. `Unknown` also if the kernel refuses.
    pub(crate) fn step(&mut self, socket: &SockRef<'_>, now: Instant, info: &TcpInfo) -> Step {
        let step = self.probe.step(now, info, || info.has_unsent(socket));
        let Step::Wait { send, .. } = step else { return step };
        let is_second = send && self.has_sent;
        if !self.is_held && (is_second || self.may_be_ended(info)) && !self.hold(socket, info) {
            return Step::Unknown;
        }
        if send {
            self.has_sent = true;
            tcp_info::send_probe(socket);
        }
        step
    }

    /// Whether the kernel may have a verdict before our second probe.
    fn may_be_ended(&self, info: &TcpInfo) -> bool {
        let others = info.probes > u32::from(self.has_sent);
        let is_short = self.own.user_timeout.is_some_and(|limit| limit < longest(info));
        others || is_short || self.own.retries < 2
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
