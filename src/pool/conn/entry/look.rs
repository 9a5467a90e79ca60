//! Looks at idle connections: by the maintenance task, when a sentinel fired or a peer was silent.

use std::task::Wake;
use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, State};
use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{Life, Parked, TICK};
use crate::net::PeerAddr;
use crate::pool::conn::age::Age;
use crate::pool::health::quarantine::Known;
use crate::stream::{Conn, Keeper};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, Weak};
use crate::sys::tcp_info::{TcpInfo, tcp_info};

/// A connection that was used so short a time ago is likely to be used again soon.
const LATELY: Duration = Duration::from_secs(60);

/// How a look at a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Classified {
    /// Nothing is left to do.
    Done,
    /// It is alive and idle, and the idle set no longer has its handle.
    Homeless,
}

impl Entry {
    /// What the kernel says of a peer that has to be heard before the connection is used: it was
    /// silent for too long, or something speaks against it. `None`: it need not, or was heard. Costs
    /// a system call only when the last proof is not good enough.
    #[inline]
    pub(in crate::pool) fn silence(&self, conn: &Conn, now: Age) -> Option<TcpInfo> {
        // No limit is shorter than that.
        if now.is_within_a_second_of(self.heard.get()) && !self.peer.is_doubted() {
            return None;
        }
        self.look_for_silence(conn, now)
    }

    #[inline(never)]
    fn look_for_silence(&self, conn: &Conn, now: Age) -> Option<TcpInfo> {
        let max = self.max_silence(now)?;
        if self.unheard_for(now) < max {
            return None;
        }
        self.read_silence(conn, now, max)
    }

    /// How long its peer may have been silent; `None` where silence is no matter.
    #[inline]
    pub(in crate::pool) fn max_silence(&self, now: Age) -> Option<Duration> {
        let was_used_lately = now.since(self.idle_since()) < LATELY;
        let max = match was_used_lately {
            true => self.common.max_silence_after_use,
            false => self.common.max_silence,
        };
        match self.peer.doubted() {
            // It has to be heard after the doubt.
            Some(doubt) if doubt > self.opened => {
                max.map(|max| max.min(now.since(self.age_at(doubt))))
            }
            _ => max,
        }
    }

    /// Whether something speaks against it that was said after its peer was last heard.
    pub(in crate::pool) fn is_in_doubt(&self) -> bool {
        let heard = || self.moment(self.heard.get());
        self.peer.doubted().is_some_and(|doubt| doubt > self.opened && doubt >= heard())
    }

    #[cold]
    fn read_silence(&self, conn: &Conn, now: Age, max: Duration) -> Option<TcpInfo> {
        let info = tcp_info(&conn.stream().io().sock_ref());
        let heard = info.map(|info| info.heard);
        let life = match Life::of(heard, max) {
            // What the clock says of this very moment may be from before the doubt.
            Life::Unknown if heard.is_some() && self.is_in_doubt() => Life::Silent,
            Life::Heard(ago) if self.is_in_doubt() && ago + TICK >= max => Life::Silent,
            life => life,
        };
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

    /// Has its peer asked, and nobody given it before it is heard, though it was just taken for
    /// somebody. Returns it where nobody can tell. Only for whoever owns the stream.
    pub(in crate::pool) fn ask(&self, conn: Conn) -> Result<(), Conn> {
        let Some(info) = tcp_info(&conn.stream().io().sock_ref()) else { return Err(conn) };
        conn.set_idle(true);
        // Whoever took it has dropped its handle; it comes back when it is heard.
        self.state.store(State::Orphaned as u8, Ordering::Release);
        self.suspect(conn, Known::Reading(info));
        Ok(())
    }

    /// Whether it was made, or its peer heard, after this moment.
    pub(in crate::pool) fn is_proved_since(&self, conn: &Conn, moment: Instant) -> bool {
        if self.opened >= moment || self.moment(self.heard.get()) >= moment {
            return true;
        }
        let info = tcp_info(&conn.stream().io().sock_ref());
        info.is_some_and(|info| {
            let heard = Instant::now().checked_sub(info.heard);
            heard.is_some_and(|heard| heard > moment + TICK)
        })
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
    pub(in crate::pool) fn suspect(&self, conn: Conn, known: Known) {
        if let Some(entry) = self.me.upgrade() {
            self.common.suspects.add(entry, conn, known);
            self.common.fired_queue.wake();
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
        let known = settings().or_else(|| self.read_silence(&conn, now, max).map(Known::Reading));
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
                self.common.fired_queue.push(Weak::clone(&self.me));
            }
        }
        self.come_home(conn)
    }

    pub(in crate::pool) fn come_home(&self, conn: Conn) -> Classified {
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

    /// To be called when the connection's handle is in the idle set: what the sentinel saw before that
    /// may have found nobody home.
    pub(in crate::pool) fn recheck(&self) {
        if self.fired.load(Ordering::Acquire) {
            self.common.fired_queue.push(Weak::clone(&self.me));
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
pub(in crate::pool) struct Sentinel(pub(in crate::pool) Weak<Entry>);

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
        let Some(entry) = self.0.upgrade() else { return };
        // In use: a waker left in the slot fires on the user's own answers.
        if entry.is(State::InUse) || entry.is(State::Closed) {
            return;
        }
        if !entry.fired.swap(true, Ordering::AcqRel) {
            entry.common.fired_queue.push(Weak::clone(&self.0));
        }
    }
    fn condemned(&self) {
        if let Some(entry) = self.0.upgrade() {
            entry.common.generation.end_of(entry.generation, CloseReason::Invalidated);
            entry.common.fired_queue.wake();
        }
    }
}
