//! The ways of a stream: from its connection to a user, back, and from one user to the next.

use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, State};
use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{Parked, UNASKED, Verdict};
use crate::pool::conn::age::Age;
use crate::pool::conn::expiry;
use crate::pool::health::quarantine::Known;
use crate::stream::Conn;
use crate::sync::atomic::Ordering;
use crate::sys::tcp_info::tcp_info;

impl Entry {
    /// Takes an idle connection for a user, if it may still be used. It never waits: flag, peek,
    /// lifetime; yes or no, at once. Of one that may not be used, the stream and the reason are for
    /// whoever asked.
    #[inline(always)]
    pub(in crate::pool) fn claim(&self, now: Age) -> Result<Conn, Option<(Conn, CloseReason)>> {
        while !self.change(State::Idle, State::InUse) {
            // Being looked at right now: it will be offered again when that is over.
            if self.change(State::Checking, State::Orphaned) {
                return Err(None);
            }
            // Closed, or nothing that could be claimed; only a look that ended just now is.
            // Read once: looks may begin and end between two readings, and its handle would be lost.
            let state = self.state.load(Ordering::Acquire);
            if state != State::Idle as u8 && state != State::Checking as u8 {
                return Err(None);
            }
        }
        let has_fired = self.fired.load(Ordering::Acquire);
        if has_fired {
            self.fired.store(false, Ordering::Release);
        }
        let Some(conn) = self.home().conn.take() else { return Err(None) };
        let unwelcome = || expiry::due(now, self.idle_since(), Age::NEVER, self.idle_limit());
        let unfit = match self.unwanted(now).or_else(unwelcome) {
            Some(reason) => Some(reason),
            None => match conn.check(has_fired) {
                Verdict::Alive => {
                    self.report_alive();
                    None
                }
                Verdict::Dead(reason) => {
                    self.report_check(Check::Peek, CheckVerdict::Dead, None);
                    Some(reason)
                }
            },
        };
        if let Some(reason) = unfit {
            return Err(Some((conn, reason)));
        }
        if let Some(info) = self.silence(&conn, now) {
            // Whoever claimed it drops its handle; it comes back when it is heard.
            self.state.store(State::Orphaned as u8, Ordering::Release);
            self.suspect(conn, Known::Reading(info));
            return Err(None);
        }
        conn.set_idle(false);
        Ok(conn)
    }

    /// Why the pool would rather not have it, or have it back, if so.
    fn unwanted(&self, now: Age) -> Option<CloseReason> {
        let surplus = || self.common.slots.are_over().then_some(CloseReason::Resized);
        self.outlived(now).or_else(surplus)
    }

    /// Why it must not stay among the idle ones, if so: `own` is how long the pool lets it be idle.
    pub(in crate::pool) fn outlived_idle(
        &self,
        now: Age,
        own: Option<Duration>,
    ) -> Option<CloseReason> {
        let limit = own.map_or(Age::NEVER, Age::of).min(self.idle_limit());
        expiry::due(now, self.idle_since(), self.expires, limit).or_else(|| self.unwanted(now))
    }

    /// Closes it if it is idle and not wanted.
    pub(in crate::pool) fn evict_unwanted(&self) -> bool {
        self.unwanted(self.age()).is_some_and(|reason| self.evict(reason))
    }

    /// Notes that the peer of a connection that comes back was heard. A user who read has heard it,
    /// at the earliest at the beginning; when exactly would cost a clock per read.
    pub(in crate::pool) fn note_heard(&self, conn: &Conn, used_since: Age) {
        if conn.stream().was_read() {
            self.prove(used_since);
        }
    }

    /// What the end of this use says of the other connections to its peer, if anything: that those
    /// are to be asked that were not heard after this moment.
    pub(in crate::pool) fn evidence(&self, conn: &Conn, reason: CloseReason) -> Option<Instant> {
        let stream = conn.stream();
        let now = Instant::now();
        let lately = now.checked_sub(UNASKED);
        match stream.tainted().unwrap_or(reason) {
            // The kernel's word on this connection: its bytes are repeated, or nothing was heard
            // since they were sent. Else its program is slow, and so are its siblings, but alive.
            CloseReason::OpTimeout | CloseReason::PingTimeout | CloseReason::ResetFailed => {
                match tcp_info(&stream.io().sock_ref()) {
                    Some(info) if info.unacked > 0 && info.retransmits > 0 => Some(now),
                    Some(info) if info.heard >= 2 * UNASKED => Some(now),
                    _ => lately,
                }
            }
            // One that was idle before, at its first bytes: there is another host, or a middlebox
            // that has forgotten it. A new one only meets who does not want it.
            _ if stream.was_read() || self.idle_since() == Age::ZERO => None,
            CloseReason::Reset => Some(now),
            CloseReason::PeerClosed => lately,
            _ => None,
        }
    }

    /// Makes a connection that comes back ready for its next user at once. It passes the checks that
    /// an idle one passes, and says why if it does not. No sentinel is left in it: nobody else would
    /// look at it meanwhile.
    #[inline(always)]
    pub(in crate::pool) fn pass_on(&self, conn: &mut Conn, now: Age) -> Result<(), CloseReason> {
        conn.set_idle(true);
        self.rest(conn)?;
        self.idle_since.set(now);
        let unwelcome = || expiry::due(now, now, Age::NEVER, self.idle_limit());
        if let Some(reason) = self.unwanted(now).or_else(unwelcome) {
            return Err(reason);
        }
        if let Verdict::Dead(reason) = conn.check(true) {
            return Err(reason);
        }
        conn.set_idle(false);
        self.let_go();
        Ok(())
    }

    /// The peek found nothing.
    pub(in crate::pool) fn report_alive(&self) {
        self.common.emitter.found_alive(self.id, Check::Peek);
    }

    /// Takes the stream of a user back and leaves the sentinel in it. Gives it back with the reason
    /// if it is not fit to wait.
    pub(in crate::pool) fn settle(
        &self,
        mut conn: Conn,
        now: Age,
    ) -> Result<(), (Conn, CloseReason)> {
        if let Some(reason) = self.unwanted(now) {
            return Err((conn, reason));
        }
        self.let_go();
        // From here on the sentinel counts.
        self.state.store(State::Parking as u8, Ordering::Release);
        conn.set_idle(true);
        match conn.park(&self.sentinel) {
            Parked::Unfit(reason) => {
                self.state.store(State::InUse as u8, Ordering::Release);
                return Err((conn, reason));
            }
            Parked::Waiting => {}
            Parked::Restless => self.fired.store(true, Ordering::Release),
        }
        if let Err(reason) = self.rest(&mut conn) {
            self.state.store(State::InUse as u8, Ordering::Release);
            return Err((conn, reason));
        }
        self.idle_since.set(now);
        self.home().conn = Some(conn);
        // Before the look at whether the pool was closed, in every thread's eyes.
        self.state.store(State::Idle as u8, Ordering::SeqCst);
        Ok(())
    }
}
