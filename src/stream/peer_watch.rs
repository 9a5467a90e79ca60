//! Waiting with open eyes: a read that is owed an answer proves its peer while it waits.
//!
//! A slow answer from a living peer and no answer from a dead one look the same to a read timeout.
//! They do not to the kernel: it knows when the peer's kernel was last heard, and a keepalive probe
//! asks for a sign of life without the peer's program noticing. So a read may wait as long as its
//! timeout allows while the peer lives, and fails early when it does not.

use std::task::{Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use super::handle::{Link, Side};
use super::timeouts::timer::{Clock, Now};
use crate::event::CloseReason;
use crate::liveness::{ProbeSession, Step, UNASKED};
use crate::sync::Arc;
use crate::sys::tcp_info::{self, TcpInfo};

/// The least time between a peer's sign of life and the next look.
const AGAIN: Duration = Duration::from_millis(10);

/// The watch over the peer of one stream.
#[derive(Debug)]
pub(super) struct Watch {
    max_silence: Duration,
    clock: Clock,
    /// Until the next look.
    wait: Duration,
    probe: ProbeSession,
}

/// The verdict over a silent peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silent {
    pub(super) for_: Duration,
    pub(super) reason: CloseReason,
}

impl Watch {
    /// Waiting reads are few, so their peers are asked as soon as the kernel does it, and not only
    /// when an idle connection's would be.
    pub(super) fn new(max_silence: Duration) -> Self {
        let max_silence = max_silence.min(UNASKED);
        Self {
            max_silence,
            clock: Clock::default(),
            wait: max_silence,
            probe: ProbeSession::default(),
        }
    }

    /// Whether a read is watched now.
    pub(super) fn is_running(&self) -> bool {
        self.clock.is_running()
    }

    /// For a read that is pending and owed an answer, whose task `link` knows already. Ready when
    /// its peer is dead.
    pub(super) fn poll(
        &mut self,
        link: &Arc<Link>,
        now: &mut Now,
        socket: &SockRef<'_>,
    ) -> Poll<Silent> {
        loop {
            ready!(self.clock.poll(link, Side::Reading, now, Some(self.wait), None));
            let now = now.get();
            self.wait = match tcp_info::tcp_info(socket) {
                // Nobody can tell; the read's own timeout decides.
                None => self.max_silence,
                Some(info) => match self.look(now, &info, socket) {
                    Ok(wait) => {
                        link.set_suspect(self.probe.is_under_way());
                        wait
                    }
                    Err(silent) => {
                        self.rest(socket);
                        return Poll::Ready(silent);
                    }
                },
            };
        }
    }

    fn look(
        &mut self,
        now: Instant,
        info: &TcpInfo,
        socket: &SockRef<'_>,
    ) -> Result<Duration, Silent> {
        if !self.probe.is_under_way() && info.heard < self.max_silence {
            return Ok(self.max_silence - info.heard);
        }
        let wait = match self.probe.step(socket, now, info, || tcp_info::keepalive_values(socket)) {
            Step::Wait { look_in, .. } => return Ok(look_in),
            Step::Dead(reason) => return Err(Silent { for_: info.heard, reason }),
            Step::Alive => self.max_silence.saturating_sub(info.heard).max(AGAIN),
            Step::Unknown => self.max_silence,
        };
        self.probe.restore(socket);
        Ok(wait)
    }

    /// The read is over, or nothing is owed: nothing is watched, and the user's keepalive settings
    /// are back.
    pub(super) fn rest(&mut self, socket: &SockRef<'_>) {
        self.clock.stop();
        self.wait = self.max_silence;
        self.probe.restore(socket);
    }

    /// The stream has another link from now on.
    pub(super) fn forget_link(&mut self) {
        self.clock.forget_link();
    }
}
