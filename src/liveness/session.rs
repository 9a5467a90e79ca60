//! [`ProbeSession`]: the probe of one silent peer, from the suspicion to the verdict. [`Probe`] decides,
//! and this turns the kernel's knobs for it.

use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use super::{Probe, Step};
use crate::sys::tcp_info::{self, KeepaliveValues, TcpInfo};

/// The probe of one peer, if one is under way, and what has to be restored after it.
#[derive(Debug, Default)]
pub(crate) struct ProbeSession {
    /// Boxed: hardly any connection ever has one.
    probing: Option<Box<Probing>>,
}

impl ProbeSession {
    /// Whether a peer is being asked.
    pub(crate) fn is_under_way(&self) -> bool {
        self.probing.is_some()
    }

    /// Asks before anything was read, a peer that the kernel itself has not asked. `own`: the settings
    /// in force on this socket. Returns when to look for the answer.
    pub(crate) fn begin_blindly(
        &mut self,
        socket: &SockRef<'_>,
        now: Instant,
        own: KeepaliveValues,
    ) -> Duration {
        let (probe, look_in) = Probe::begin_sent(now);
        tcp_info::send_probe(socket);
        let probing = Probing { probe, own, has_sent: true, is_held: false };
        self.probing = Some(Box::new(probing));
        look_in
    }

    /// Takes one step, by this reading; the first one begins the probe, with the settings in force
    /// on this socket, from `own`. Sends what there is to send. `Unknown` also if nobody knows the
    /// settings, or the kernel refuses.
    pub(crate) fn step(
        &mut self,
        socket: &SockRef<'_>,
        now: Instant,
        info: &TcpInfo,
        own: impl FnOnce() -> Option<KeepaliveValues>,
    ) -> Step {
        let probing = match &mut self.probing {
            Some(probing) => probing,
            none => {
                let Some(own) = own() else { return Step::Unknown };
                none.insert(Box::new(Probing::begin(now, own)))
            }
        };
        probing.step(socket, now, info)
    }

    /// Ends the probe, if there is one, and gives the user's settings back.
    pub(crate) fn restore(&mut self, socket: &SockRef<'_>) {
        if let Some(probing) = self.probing.take() {
            probing.restore(socket);
        }
    }
}

/// A probe that is under way.
///
/// The kernel must not take our probes for its own verdict. Hardly any probe needs a second sending,
/// and the first one ends no connection: so its verdict is held off only before the second, or where
/// it may come sooner.
#[derive(Debug)]
struct Probing {
    probe: Probe,
    /// The user's settings.
    own: KeepaliveValues,
    has_sent: bool,
    /// The kernel's own verdict is held off.
    is_held: bool,
}

impl Probing {
    fn begin(now: Instant, own: KeepaliveValues) -> Self {
        Self { probe: Probe::begin(now), own, has_sent: false, is_held: false }
    }

    fn step(&mut self, socket: &SockRef<'_>, now: Instant, info: &TcpInfo) -> Step {
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
        others || self.is_short(info) || self.own.retries < 2
    }

    /// Whether the user timeout may be over before there is a verdict.
    fn is_short(&self, info: &TcpInfo) -> bool {
        self.own.user_timeout.is_some_and(|limit| limit < longest(info))
    }

    fn restore(&self, socket: &SockRef<'_>) {
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
        let limit = self.is_short(info).then(|| longest(info));
        tcp_info::hold_verdict(socket, limit)
    }
}

/// The silence after which there is a verdict in any case.
fn longest(info: &TcpInfo) -> Duration {
    info.heard + 2 * Probe::verdict_time(info) + Duration::from_secs(1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::TcpKeepalive;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const SILENCE: Duration = Duration::from_secs(6);

    /// A connection with keepalive 15 s / `retries` and this user timeout, and its other end.
    fn connection(retries: u32, user_timeout: Duration) -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new().with_time(15 * SECOND).with_retries(retries);
        socket.set_tcp_keepalive(&keepalive).unwrap();
        socket.set_tcp_user_timeout(Some(user_timeout)).unwrap();
        [stream, listener.accept().unwrap().0]
    }

    /// The idle time in seconds, the tries and the user timeout in force.
    fn in_force(socket: &SockRef<'_>) -> (u64, u32, Duration) {
        let own = tcp_info::keepalive_values(socket).unwrap();
        (own.idle.as_secs(), own.retries, own.user_timeout.unwrap_or_default())
    }

    fn step_of(
        session: &mut ProbeSession,
        socket: &SockRef<'_>,
        now: Instant,
        info: &TcpInfo,
    ) -> Step {
        session.step(socket, now, info, || tcp_info::keepalive_values(socket))
    }

    #[test]
    fn the_verdict_of_the_kernel_is_held_off_before_a_second_probe_and_then_given_back() {
        let [stream, _peer] = connection(3, 30 * SECOND);
        let (socket, now) = (SockRef::from(&stream), Instant::now());
        let mut session = ProbeSession::default();
        step_of(&mut session, &socket, now, &TcpInfo::quiet(SILENCE, 0, MS));
        assert_eq!(in_force(&socket), (1, 3, 30 * SECOND), "the first probe");
        step_of(&mut session, &socket, now + 25 * MS, &TcpInfo::quiet(SILENCE + 25 * MS, 1, MS));
        assert_eq!(in_force(&socket), (1, 3, 30 * SECOND), "nothing more is sent");
        step_of(&mut session, &socket, now + 60 * MS, &TcpInfo::quiet(SILENCE + 60 * MS, 1, MS));
        assert_eq!(in_force(&socket), (1, 127, 30 * SECOND), "the second probe");
        session.restore(&socket);
        assert_eq!(in_force(&socket), (15, 3, 30 * SECOND));
    }

    #[test]
    fn it_is_held_off_at_once_where_it_may_come_sooner() {
        let table = [
            // tries, user timeout, probes that the kernel has sent itself => in force
            (1, 30 * SECOND, 0, (1, 127, 30 * SECOND)),
            (3, 30 * SECOND, 1, (1, 127, 30 * SECOND)),
            (3, 8 * SECOND, 0, (1, 127, longest(&TcpInfo::quiet(SILENCE, 0, MS)))),
            (3, Duration::ZERO, 0, (1, 3, Duration::ZERO)),
        ];
        for (retries, user_timeout, probes, expected) in table {
            let [stream, _peer] = connection(retries, user_timeout);
            let (socket, now) = (SockRef::from(&stream), Instant::now());
            let mut session = ProbeSession::default();
            step_of(&mut session, &socket, now, &TcpInfo::quiet(SILENCE, probes, MS));
            assert_eq!(in_force(&socket), expected, "{retries} {user_timeout:?} {probes}");
            session.restore(&socket);
            assert_eq!(in_force(&socket), (15, retries, user_timeout));
        }
    }

    #[test]
    fn a_peer_that_was_asked_blindly_is_looked_at_before_it_is_asked_again() {
        let [stream, _peer] = connection(1, 30 * SECOND);
        let (socket, now) = (SockRef::from(&stream), Instant::now());
        let own = tcp_info::keepalive_values(&socket).unwrap();
        let mut session = ProbeSession::default();
        let look_in = session.begin_blindly(&socket, now, own);
        assert_eq!(in_force(&socket), (1, 1, 30 * SECOND), "sent");
        let now = now + look_in;
        let step = step_of(&mut session, &socket, now, &TcpInfo::quiet(SILENCE + look_in, 1, MS));
        assert!(matches!(step, Step::Wait { send: false, .. }), "{step:?}");
        assert_eq!(in_force(&socket).1, 127, "one try would be over with the next one");
        let step = step_of(&mut session, &socket, now + MS, &TcpInfo::quiet(MS, 0, MS));
        assert_eq!(step, Step::Alive);
        session.restore(&socket);
        assert_eq!(in_force(&socket), (15, 1, 30 * SECOND));
    }
}
