//! Silence: which peers have to be heard before their connections are used again, and what one
//! connection says of the others to its peer.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::event::{Check, CheckVerdict, CloseReason};
use crate::liveness::{Life, TICK, UNASKED};
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::Entry;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::sync::atomic::Ordering;
use crate::sys::tcp_info::{TcpInfo, tcp_info};

/// A connection that was used so short a time ago is likely to be used again soon.
const LATELY: Duration = Duration::from_secs(60);

impl PoolInner {
    /// The kernel's reading of a peer that has to be heard before the connection is used: the peer
    /// was silent for too long, or something speaks against it. Returns `None` where it need not be
    /// heard, or was. Costs a system call only when the last proof is not good enough.
    #[inline]
    pub(in crate::pool) fn silence(&self, entry: &Entry, conn: &Conn, now: Age) -> Option<TcpInfo> {
        // No limit is shorter than that.
        if now.is_within_a_second_of(entry.heard()) && !entry.peer.is_doubted() {
            return None;
        }
        self.look_for_silence(entry, conn, now)
    }

    #[inline(never)]
    fn look_for_silence(&self, entry: &Entry, conn: &Conn, now: Age) -> Option<TcpInfo> {
        let max = self.max_silence(&self.settings(), entry, now)?;
        if entry.unheard_for(now) < max {
            return None;
        }
        self.read_silence(entry, conn, now, max)
    }

    /// How long the peer of an idle connection may have been silent; `None` where silence is no matter.
    #[inline]
    pub(in crate::pool) fn max_silence(
        &self,
        settings: &Settings,
        entry: &Entry,
        now: Age,
    ) -> Option<Duration> {
        // Busy connections are asked sooner: their next use is near.
        let was_used_lately = now.since(entry.idle_since()) < LATELY;
        let max = match was_used_lately {
            true => settings.max_silence_after_use,
            false => settings.max_silence,
        };
        match entry.peer.doubted() {
            // It has to be heard after the doubt.
            Some(doubt) if doubt > entry.opened() => {
                max.map(|max| max.min(now.since(entry.age_at(doubt))))
            }
            _ => max,
        }
    }

    /// Reads how long the peer was silent, and says so if it was `max`.
    #[cold]
    pub(in crate::pool) fn read_silence(
        &self,
        entry: &Entry,
        conn: &Conn,
        now: Age,
        max: Duration,
    ) -> Option<TcpInfo> {
        let info = tcp_info(&conn.stream().io().sock_ref());
        let heard = info.map(|info| info.heard);
        let life = match Life::of(heard, max) {
            // What the clock says of this very moment may be from before the doubt.
            Life::Unknown if heard.is_some() && is_in_doubt(entry) => Life::Silent,
            Life::Heard(ago) if is_in_doubt(entry) && ago + TICK >= max => Life::Silent,
            life => life,
        };
        let verdict = match life {
            Life::Heard(_) => CheckVerdict::Alive,
            Life::Silent | Life::Unknown => CheckVerdict::Unproved,
        };
        self.report_check(entry, Check::Life, verdict, heard);
        match life {
            Life::Heard(ago) => self.prove(entry, Age::of(now.since(Age::of(ago)))),
            Life::Silent => {}
            // Silence is nothing to act on: it is not read again for as long as if the peer were heard.
            Life::Unknown => entry.note_heard(now),
        }
        info.filter(|_| life == Life::Silent)
    }

    /// Raises a doubt against all connections to this one's peer that were not heard after this
    /// moment. The maintenance task asks them at once, and no caller is handed one before.
    pub(in crate::pool) fn doubt_siblings(&self, entry: &Entry, moment: Option<Instant>) {
        if let Some(moment) = moment {
            entry.peer.doubt(moment);
            self.has_doubts.store(true, Ordering::Release);
        }
        self.fired_queue.wake();
    }

    /// Takes a doubt back when every connection that it was about has been heard or has ended.
    pub(in crate::pool) fn clear_doubts(&self) {
        let doubted = self.peers.doubted();
        if doubted.is_empty() {
            return;
        }
        let all = self.registry.all();
        for (peer, doubt) in doubted {
            if !all.iter().any(|entry| entry.peer.is_of(&peer) && is_in_doubt(entry)) {
                peer.clear_doubt(doubt);
            }
        }
    }
}

/// Whether something speaks against a connection that was said after its peer was last heard.
pub(in crate::pool) fn is_in_doubt(entry: &Entry) -> bool {
    let heard = || entry.moment(entry.heard());
    entry.peer.doubted().is_some_and(|doubt| doubt > entry.opened() && doubt >= heard())
}

/// Whether a connection was made, or its peer heard, after this moment.
pub(in crate::pool) fn is_proved_since(entry: &Entry, conn: &Conn, moment: Instant) -> bool {
    if entry.opened() >= moment || entry.moment(entry.heard()) >= moment {
        return true;
    }
    let info = tcp_info(&conn.stream().io().sock_ref());
    info.is_some_and(|info| {
        let heard = Instant::now().checked_sub(info.heard);
        heard.is_some_and(|heard| heard > moment + TICK)
    })
}

/// The evidence that the end of a connection's use gives against the others to its peer: those are
/// to be asked that were not heard after this moment.
pub(in crate::pool) fn evidence(
    entry: &Entry,
    conn: &Conn,
    reason: CloseReason,
) -> Option<Instant> {
    let stream = conn.stream();
    let now = Instant::now();
    // The clock of a machine that has just started may not reach back so far.
    let lately = now.checked_sub(UNASKED);
    match stream.tainted().unwrap_or(reason) {
        // The kernel's word on this connection: its bytes are repeated, or nothing was heard
        // since they were sent. Else its program is slow, and so are its siblings, but alive.
        CloseReason::OpTimeout
        | CloseReason::PingTimeout
        | CloseReason::ResetFailed
        | CloseReason::HookFailed => match tcp_info(&stream.io().sock_ref()) {
            Some(info) if info.unacked > 0 && info.retransmits > 0 => Some(now),
            Some(info) if info.heard >= 2 * UNASKED => Some(now),
            _ => lately,
        },
        // One that was idle before, at its first bytes: there is another host, or a middlebox
        // that has forgotten it. A new one only meets who does not want it.
        _ if stream.was_read() || entry.idle_since() == Age::ZERO => None,
        CloseReason::Reset => Some(now),
        CloseReason::PeerClosed => lately,
        _ => None,
    }
}
