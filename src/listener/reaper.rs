//! The reaper: clients that neither send nor receive for too long are let go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::CloseReason;
use crate::stream::Link;
use crate::telemetry::Emitter;
use crate::tick::{first_delay, tick_period};

/// The listener's handle of its reaper, a task.
pub(super) struct Reaper {
    emitter: Arc<Emitter>,
    // The lock is held to push and to take, and for nothing else.
    new_clients: Mutex<NewClients>,
}

#[derive(Default)]
struct NewClients {
    links: Vec<Weak<Link>>,
    /// Whether the listener is gone, and no client will follow.
    is_closed: bool,
}

impl Reaper {
    /// Starts the task that watches all clients.
    pub(super) fn start(emitter: Arc<Emitter>, idle_timeout: Option<Duration>) -> Arc<Self> {
        let reaper = Arc::new(Self { emitter, new_clients: Mutex::default() });
        tokio::spawn(reap(Arc::clone(&reaper), idle_timeout));
        reaper
    }

    pub(super) fn emitter(&self) -> &Arc<Emitter> {
        &self.emitter
    }

    pub(super) fn add(&self, link: &Arc<Link>) {
        self.lock().links.push(Arc::downgrade(link));
    }

    /// Tells the task that the listener is gone: it ends with the last client.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn take(&self) -> NewClients {
        let mut new_clients = self.lock();
        NewClients {
            links: std::mem::take(&mut new_clients.links),
            is_closed: new_clients.is_closed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, NewClients> {
        self.new_clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task, which ends when the listener and all clients are gone.
async fn reap(reaper: Arc<Reaper>, idle_timeout: Option<Duration>) {
    let period = tick_period([idle_timeout]);
    // Weak: a stream that its user drops is gone at once.
    let mut watched: Vec<(Weak<Link>, IdleClock)> = Vec::new();
    let mut next = Instant::now() + first_delay(period);
    loop {
        tokio::time::sleep_until(next).await;
        let now = Instant::now();
        next = now + period;
        let new_clients = reaper.take();
        watched.extend(new_clients.links.into_iter().map(|link| (link, IdleClock::since(now))));
        watched.retain_mut(|(link, idle)| {
            let Some(link) = link.upgrade() else { return false };
            let idle_for = idle.update(link.activity(), now);
            // Once interrupted it stays in the list until its user lets go; the first reason stands.
            if idle_timeout.is_some_and(|limit| idle_for >= limit) {
                link.interrupt(CloseReason::IdleTimeout);
            }
            true
        });
        reaper.emitter.set_connections(watched.len());
        if new_clients.is_closed && watched.is_empty() {
            return;
        }
    }
}

/// The time since a client was last active, from readings of a counter that changes when bytes
/// move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdleClock {
    // A counter, so that the stream looks at no clock when it reads and writes.
    activity: u64,
    since: Instant,
}

impl IdleClock {
    fn since(now: Instant) -> Self {
        Self { activity: 0, since: now }
    }

    /// Takes in a reading, and returns the time since the last activity: short by up to a tick,
    /// never long.
    fn update(&mut self, activity: u64, now: Instant) -> Duration {
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
        let mut idle = IdleClock::since(at(0));
        assert_eq!(idle.update(0, at(5)).as_secs(), 5);
        assert_eq!(idle.update(3, at(6)).as_secs(), 0);
        assert_eq!(idle.update(3, at(9)).as_secs(), 3);
        assert_eq!(idle.update(4, at(10)).as_secs(), 0);
    }
}
