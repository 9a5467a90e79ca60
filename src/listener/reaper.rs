//! The reaper: clients that neither send nor receive for too long are let go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::beat::{beat, phase};
use crate::event::CloseReason;
use crate::stream::Link;
use crate::telemetry::Emitter;

/// The way from a listener to its reaper.
pub(super) struct Clients {
    emitter: Arc<Emitter>,
    /// Pushed and taken under this lock, nothing else.
    newcomers: Mutex<Newcomers>,
}

#[derive(Default)]
struct Newcomers {
    links: Vec<Weak<Link>>,
    /// The listener is gone: nobody will follow.
    last: bool,
}

impl Clients {
    /// Starts the one task that watches them.
    pub(super) fn watch(emitter: Arc<Emitter>, idle_timeout: Option<Duration>) -> Arc<Self> {
        let clients = Arc::new(Self { emitter, newcomers: Mutex::default() });
        tokio::spawn(reap(Arc::clone(&clients), idle_timeout));
        clients
    }

    pub(super) fn emitter(&self) -> &Arc<Emitter> {
        &self.emitter
    }

    pub(super) fn add(&self, link: &Arc<Link>) {
        self.lock().links.push(Arc::downgrade(link));
    }

    /// The listener is gone: the task ends with the last client.
    pub(super) fn no_more(&self) {
        self.lock().last = true;
    }

    fn take(&self) -> Newcomers {
        let mut newcomers = self.lock();
        Newcomers { links: std::mem::take(&mut newcomers.links), last: newcomers.last }
    }

    fn lock(&self) -> MutexGuard<'_, Newcomers> {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task. It holds the clients' links weakly: a stream that its user drops is gone at once.
async fn reap(clients: Arc<Clients>, idle_timeout: Option<Duration>) {
    let beat = beat([idle_timeout]);
    let mut watched: Vec<(Weak<Link>, Quiet)> = Vec::new();
    let mut next = Instant::now() + phase(beat);
    loop {
        tokio::time::sleep_until(next).await;
        let now = Instant::now();
        next = now + beat;
        let newcomers = clients.take();
        watched.extend(newcomers.links.into_iter().map(|link| (link, Quiet::since(now))));
        watched.retain_mut(|(link, quiet)| {
            let Some(link) = link.upgrade() else { return false };
            let quiet_for = quiet.look(link.activity(), now);
            // Once interrupted it stays in the list until its user lets go; the first reason stands.
            if idle_timeout.is_some_and(|limit| quiet_for >= limit) {
                link.interrupt(CloseReason::IdleTimeout);
            }
            true
        });
        clients.emitter.telemetry().connections(watched.len());
        if newcomers.last && watched.is_empty() {
            return;
        }
    }
}

/// Since when a client has been quiet, from readings of a counter that changes when bytes move: the
/// stream itself never looks at a clock for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quiet {
    activity: u64,
    since: Instant,
}

impl Quiet {
    fn since(now: Instant) -> Self {
        Self { activity: 0, since: now }
    }

    /// How long it has been quiet. Late by up to one beat, never early.
    fn look(&mut self, activity: u64, now: Instant) -> Duration {
        if activity != self.activity {
            *self = Self { activity, since: now };
        }
        now - self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_quiet_from_the_last_reading_that_differed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = Quiet::since(at(0));
        assert_eq!(quiet.look(0, at(5)).as_secs(), 5);
        assert_eq!(quiet.look(3, at(6)).as_secs(), 0);
        assert_eq!(quiet.look(3, at(9)).as_secs(), 3);
        assert_eq!(quiet.look(4, at(10)).as_secs(), 0);
    }
}
