//! The maintenance task: one per pool, none per connection.
//!
//! It wakes when a sentinel fires, and on a beat for idle and lifetime limits and the gauges. It
//! holds the pool weakly while it sleeps, so that it never keeps one alive.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::age::Age;
use super::common::Common;
use super::core::{Classified, Core};
use super::inbox::Inbox;
use super::quarantine::Quarantine;
use super::{Inner, plan};
use crate::beat::phase;
use crate::deadline::Deadline;

// Closing a socket costs about 8 µs, and a runtime with nothing but ready tasks looks at its sockets
// every 61 polls (tokio's `event_interval`). So other tasks run after every single one: a handful at
// a time would keep an answer waiting for many milliseconds.

/// Reading `TCP_INFO` costs less than half a microsecond: this many, then let other tasks run.
const LOOKS: usize = 16;

/// The kernel sends no probe to a peer it has heard within a second.
const SOONEST: Duration = Duration::from_secs(1);

/// Runs until the pool is closed or gone.
pub(super) async fn run(pool: Weak<Inner>, common: Arc<Common>, beat: Duration) {
    let mut next = Instant::now() + phase(beat);
    let mut quarantine = Quarantine::new(&common.suspects);
    let mut generation = common.generation.now();
    loop {
        let judgement = common.peers.next_judgement(Instant::now());
        let wake = [quarantine.due(), judgement].into_iter().flatten().fold(next, Instant::min);
        let _ = Deadline::at(wake).run(common.inbox.filled()).await;
        let Some(inner) = pool.upgrade() else { return };
        inner.classify_fired().await;
        if inner.is_closed() {
            return;
        }
        quarantine.look(|core| inner.offer(core));
        inner.ask_siblings().await;
        let last = std::mem::replace(&mut generation, common.generation.now());
        if common.peers.judge() || last != generation {
            inner.evict_retired().await;
        }
        // Judged by the clock: a busy inbox must not keep the beat from coming.
        if Instant::now() >= next {
            inner.evict_due().await;
            if let Some(max) = inner.settings().max_silence {
                // One beat early, so that a probe has begun when `max_silence` is over.
                inner.check_silence(max.saturating_sub(beat).max(SOONEST), |_| true).await;
            }
            inner.evict_retired().await;
            inner.evict_surplus();
            inner.report_holders();
            if inner.common.ended.swap(false, Ordering::AcqRel) {
                inner.store.sweep();
            }
            inner.refresh_gauges();
            if inner.settings().min_idle > 0 {
                inner.slots.announce();
            }
            next = Instant::now() + beat;
        }
    }
}

/// Fired connections that were not looked at yet. If the runtime ends meanwhile, the next task looks.
struct Fired<'a> {
    inbox: &'a Inbox,
    left: Vec<Weak<Core>>,
}

impl Drop for Fired<'_> {
    fn drop(&mut self) {
        for core in self.left.drain(..) {
            self.inbox.push(core);
        }
    }
}

impl Inner {
    /// Looks at every connection whose sentinel fired.
    async fn classify_fired(self: &Arc<Self>) {
        let mut fired = Fired { inbox: &self.common.inbox, left: self.common.inbox.take() };
        while !fired.left.is_empty() {
            let Some(core) = fired.left.pop().and_then(|core| core.upgrade()) else { continue };
            if core.classify() == Classified::Homeless {
                self.offer(Arc::clone(&core));
            }
            self.sweep_if_closed(&core);
            tokio::task::yield_now().await;
        }
    }

    /// Puts an idle connection that lost its place where the next caller finds it.
    fn offer(self: &Arc<Self>, core: Arc<Core>) {
        self.sweep_if_closed(&core);
        self.store.put(core);
        self.serve();
    }

    /// When a connection died silently, the others to the same peer are asked at once, together.
    async fn ask_siblings(self: &Arc<Self>) {
        if self.settings().max_silence.is_none() {
            return;
        }
        for peer in self.common.peers.suspects() {
            self.check_silence(SOONEST, |core| core.peer.is_of(&peer)).await;
        }
    }

    /// Evicts the idle connections to peers that are no longer used.
    pub(super) async fn evict_retired(&self) {
        for core in self.common.registry.idle() {
            if core.retired().is_some_and(|reason| core.evict(reason)) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads of every idle connection how long its peer has been silent, and has those asked that
    /// were not heard for `limit`.
    async fn check_silence(self: &Arc<Self>, limit: Duration, of: impl Fn(&Core) -> bool) {
        let now = Instant::now();
        let idle = self.common.registry.idle();
        let mut looks = 0;
        let silent = |core: &Arc<Core>| of(core) && core.unheard_for(core.age_at(now)) >= limit;
        for core in idle.into_iter().filter(silent) {
            if core.check_silence(now, limit) == Classified::Homeless {
                self.offer(core);
            }
            looks += 1;
            if looks % LOOKS == 0 {
                tokio::task::yield_now().await;
                // On a busy runtime it is long until the next turn; deaths do not wait for it.
                self.classify_fired().await;
            }
        }
    }

    /// Evicts what has been idle too long or is too old. The youngest `min_idle` are not evicted for
    /// being idle: the pool would only make new ones.
    async fn evict_due(&self) {
        let now = Instant::now();
        let idle_timeout = self.settings().idle_timeout;
        let mut idle = self.common.registry.idle();
        idle.sort_by_cached_key(|core| core.moment(core.idle_since()));
        let spare = idle.len().saturating_sub(self.settings().min_idle);
        for (index, core) in idle.into_iter().enumerate() {
            let own = idle_timeout.filter(|_| index < spare);
            let limit = own.map_or(Age::NEVER, Age::of).min(core.idle_limit());
            let due = plan::due(core.age_at(now), core.idle_since(), core.expires(), limit);
            if due.is_some_and(|reason| core.evict(reason)) {
                tokio::task::yield_now().await;
            }
        }
    }
}
