//! Looks at idle connections: by the maintenance task, when a sentinel fired or a peer was silent.

use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, Weak};
use std::task::Wake;
use std::time::Duration;

use tokio::time::Instant;

use super::{Core, State};
use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{Life, Parked};
use crate::net::PeerAddr;
use crate::pool::age::Age;
use crate::pool::quarantine::Known;
use crate::stream::{Conn, Keeper};
use crate::sys::tcp_info::{TcpInfo, tcp_info};

/// How a look at a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Classified {
    /// Nothing is left to do.
    Done,
    /// It is alive and idle, and the store no longer has its handle.
    Homeless,
}

impl Core {
    /// What the kernel says of a peer that has been silent for too long. Costs a system call only
    /// when the last proof is that old.
    #[inline]
    pub(super) fn silence(&self, conn: &Conn, now: Age, max: Duration) -> Option<TcpInfo> {
        if self.unheard_for(now) < max {
            return None;
        }
        self.read_silence(conn, now, max)
    }

    #[cold]
    fn read_silence(&self, conn: &Conn, now: Age, max: Duration) -> Option<TcpInfo> {
        let info = tcp_info(&conn.stream().io().sock_ref());
        let heard = info.map(|info| info.heard);
        let life = Life::of(heard, max);
        let verdict = match life {
            Life::Heard(_) => CheckVerdict::Alive,
            Life::Silent | Life::Unknown => CheckVerdict::Unproved,
        };
        self.report_check(Check::Life, verdict, heard);
        match life {
            Life::Heard(ago) => self.prove(Age::of(now.since(Age::of(ago)))),
            Life::Silent => {}
            // Silence is nothing to act on; the next look is as far away.
            Life::Unknown => self.postpone(now),
        }
        info.filter(|_| life == Life::Silent)
    }

    /// How long ago the peer was last proved alive.
    pub(in crate::pool) fn unheard_for(&self, now: Age) -> Duration {
        now.since(self.heard.get())
    }

    /// The peer was heard then.
    pub(in crate::pool) fn prove(&self, heard: Age) {
        self.heard.raise(heard);
        if self.peer.is_suspected() {
            self.common.peers.heard(&self.peer, self.moment(heard));
        }
    }

    /// Nobody can tell whether the peer lives: it is not asked again for as long as if it did.
    pub(in crate::pool) fn postpone(&self, now: Age) {
        self.heard.raise(now);
    }

    /// Puts it into quarantine. Only for whoever owns the stream.
    pub(super) fn suspect(&self, conn: Conn, known: Known) {
        if let Some(core) = self.me.upgrade() {
            self.common.suspects.add(core, conn, known);
            self.common.inbox.nudge();
        }
    }

    /// The idle check: a connection whose peer is silent goes to quarantine.
    pub(in crate::pool) fn check_silence(&self, now: Instant, max: Duration) -> Classified {
        let now = self.age_at(now);
        let unheard = self.unheard_for(now);
        if unheard < max || !self.change(State::Idle, State::Checking) {
            return Classified::Done;
        }
        let Some(conn) = self.home().conn.take() else { return Classified::Done };
        let is_proved = self.idle_since() < self.heard.get();
        let is_tcp = matches!(self.peer.addr(), PeerAddr::Tcp(_));
        let settings = || self.common.suspects.settings(unheard).filter(|_| is_proved && is_tcp);
        let known = settings().or_else(|| self.silence(&conn, now, max).map(Known::Reading));
        let Some(known) = known else { return self.come_home(conn) };
        self.suspect(conn, known);
        Classified::Done
    }

    /// Back to the idle ones after a look that moved its waker.
    pub(in crate::pool) fn rehome(&self, conn: Conn) -> Classified {
        match conn.park(&self.sentinel) {
            Parked::Unfit(reason) => {
                self.close(conn, reason, None);
                return Classified::Done;
            }
            Parked::Waiting => {}
            Parked::Restless => {
                self.fired.store(true, Ordering::Release);
                self.common.inbox.push(Weak::clone(&self.me));
            }
        }
        self.come_home(conn)
    }

    pub(super) fn come_home(&self, conn: Conn) -> Classified {
        self.home().conn = Some(conn);
        let classified = if self.change(State::Checking, State::Idle) {
            Classified::Done
        } else {
            self.state.store(State::Idle as u8, Ordering::Release);
            Classified::Homeless
        };
        fence(Ordering::SeqCst);
        if self.common.is_closed() {
            // Whoever closed the pool may have passed by while it was looked at.
            self.evict(CloseReason::PoolClosed);
            return Classified::Done;
        }
        // What the sentinel saw in the meantime.
        self.recheck();
        classified
    }

    /// To be called when the connection's handle is in the store: what the sentinel saw before that
    /// may have found nobody home.
    pub(in crate::pool) fn recheck(&self) {
        if self.fired.load(Ordering::Acquire) {
            self.common.inbox.push(Weak::clone(&self.me));
        }
    }

    /// Looks at an idle connection whose sentinel fired, and closes it if it is dead.
    pub(in crate::pool) fn classify(&self) -> Classified {
        if !self.change(State::Idle, State::Checking) {
            return Classified::Done;
        }
        self.fired.store(false, Ordering::Release);
        let Some(conn) = self.home().conn.take() else { return Classified::Done };
        match conn.park(&self.sentinel) {
            Parked::Unfit(reason) => {
                self.report_check(Check::Peek, CheckVerdict::Dead, None);
                self.close(conn, reason, None);
                return Classified::Done;
            }
            Parked::Waiting => self.report_check(Check::Peek, CheckVerdict::Alive, None),
            Parked::Restless => self.fired.store(true, Ordering::Release),
        }
        self.come_home(conn)
    }
}

/// The waker parked in an idle stream. It holds the connection weakly: the stream holds the waker,
/// and the connection holds the stream.
pub(super) struct Sentinel(pub(super) Weak<Core>);

impl Wake for Sentinel {
    fn wake(self: Arc<Self>) {
        self.stirred();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stirred();
    }
}

impl Keeper for Sentinel {
    fn stirred(&self) {
        let Some(core) = self.0.upgrade() else { return };
        // In use: a waker left in the slot fires on the user's own answers.
        if core.is(State::InUse) || core.is(State::Closed) {
            return;
        }
        if !core.fired.swap(true, Ordering::AcqRel) {
            core.common.inbox.push(Weak::clone(&self.0));
        }
    }
    fn condemned(&self) {
        if let Some(core) = self.0.upgrade() {
            core.common.generation.end_of(core.generation, CloseReason::Invalidated);
            core.common.inbox.nudge();
        }
    }
}
