//! Checks of idle connections by the maintenance task: of those whose sentinel has fired, and of those
//! whose peers have been silent for too long.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Check, CheckVerdict};
use crate::liveness::UNASKED;
use crate::net::PeerAddr;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, FiredEntries, Listing};
use crate::pool::health::quarantine::ProbeStart;
use crate::pool::health::schedule::LOOKS;
use crate::pool::health::silence::is_in_doubt;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Weak};

/// Connections whose sentinel has fired, on their way to be looked at. Connections that are left
/// when this is dropped, with the runtime of the maintenance task, wait for the next task.
struct Fired<'a> {
    queue: &'a FiredEntries,
    left: Vec<Weak<Entry>>,
}

impl Drop for Fired<'_> {
    fn drop(&mut self) {
        for entry in self.left.drain(..) {
            self.queue.push(entry);
        }
    }
}

impl PoolInner {
    /// Looks at every connection whose sentinel has fired.
    pub(in crate::pool) async fn check_fired(self: &Arc<Self>) {
        let mut fired = Fired { queue: &self.fired_queue, left: self.fired_queue.take() };
        while let Some(entry) = fired.left.pop() {
            let Some(entry) = entry.upgrade() else { continue };
            self.check_socket(&entry);
            // Before others run: a handle kept here would keep a closed connection.
            drop(entry);
            tokio::task::yield_now().await;
        }
    }

    /// Looks at an idle connection whose sentinel has fired, and closes it if it is dead.
    pub(in crate::pool) fn check_socket(self: &Arc<Self>, entry: &Arc<Entry>) {
        let Some(conn) = entry.start_check_of_fired() else { return };
        match entry.leave_sentinel(&conn) {
            Err(reason) => {
                self.report_check(entry, Check::Peek, CheckVerdict::Dead, None);
                self.finish(entry, conn, reason, None);
            }
            Ok(()) => {
                if !entry.has_fired() {
                    self.report_check(entry, Check::Peek, CheckVerdict::Alive, None);
                }
                self.take_back(entry, conn);
            }
        }
    }

    /// Makes a connection idle again that was looked at or asked.
    pub(in crate::pool) fn take_back(self: &Arc<Self>, entry: &Arc<Entry>, conn: Conn) {
        // A caller may have met it meanwhile; the entry knows.
        let listing = entry.end_check(conn);
        self.publish(entry, listing);
        if listing == Listing::Lost {
            self.dials.announce();
        }
    }

    /// When something speaks against the connections to a peer, they are asked at once, together.
    pub(in crate::pool) async fn ask_siblings(self: &Arc<Self>) {
        let settings = self.live().snapshot();
        if settings.max_silence.is_none() {
            return;
        }
        // Cleared before the look: a doubt that is raised meanwhile has another look.
        if self.has_doubts.swap(false, Ordering::AcqRel) {
            let mut idle = self.registry.idle();
            idle.retain(|entry| is_in_doubt(entry));
            self.check_silent(idle, |entry, age| self.max_silence(&settings, entry, age)).await;
        }
        for peer in self.peers.suspects() {
            let mut idle = self.registry.idle();
            idle.retain(|entry| entry.peer.is_of(&peer));
            self.check_silent(idle, |_, _| Some(UNASKED)).await;
        }
    }

    /// Reads of these connections how long their peers have been silent, and has those asked that
    /// were not heard for their limit.
    pub(in crate::pool) async fn check_silent(
        self: &Arc<Self>,
        idle: Vec<Arc<Entry>>,
        limit: impl Fn(&Entry, Age) -> Option<Duration>,
    ) {
        let now = Instant::now();
        let mut looks = 0;
        for entry in idle {
            let age = entry.age_at(now);
            let Some(limit) = limit(&entry, age).filter(|max| entry.unheard_for(age) >= *max)
            else {
                continue;
            };
            self.check_silence(&entry, now, limit);
            drop(entry);
            looks += 1;
            if looks % LOOKS == 0 {
                tokio::task::yield_now().await;
                // On a busy runtime it is long until the next turn; deaths do not wait for it.
                self.check_fired().await;
            }
        }
    }

    /// Looks at an idle connection whose peer may have been silent for `max`; if so, it goes to
    /// quarantine.
    pub(in crate::pool) fn check_silence(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        now: Instant,
        max: Duration,
    ) {
        let now = entry.age_at(now);
        let unheard = entry.unheard_for(now);
        if unheard < max {
            return;
        }
        let Some(conn) = entry.start_check() else { return };
        // The kernel's settings are enough to begin with where it has asked nobody itself: the peer
        // was not used since its last proof of life.
        let is_proved = entry.idle_since() < entry.heard();
        let is_tcp = matches!(entry.peer.addr(), PeerAddr::Tcp(_));
        let settings = || self.probing.settings(unheard).filter(|_| is_proved && is_tcp);
        let reading = || self.read_silence(entry, &conn, now, max).map(ProbeStart::Reading);
        match settings().or_else(reading) {
            Some(known) => self.quarantine(Arc::clone(entry), conn, known),
            None => self.take_back(entry, conn),
        }
    }
}
