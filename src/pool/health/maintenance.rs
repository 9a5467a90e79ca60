//! The maintenance task: one per pool, none per connection.
//!
//! The task wakes when a sentinel fires, when a peer is to be asked for a sign of life or may have
//! answered, and once per tick for idle and lifetime limits and the gauges. The end of the pool
//! ends it.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::liveness::UNASKED;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Entry, State};
use crate::pool::health::quarantine::Quarantine;
use crate::pool::health::schedule::{LOOKS, ProbeSchedule};
use crate::pool::inner::PoolInner;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Weak};
use crate::tick::{first_delay, tick_period};

// Closing a socket costs about 8 µs, and a runtime with nothing but ready tasks looks at its sockets
// every 61 polls (tokio's `event_interval`). So other tasks run after every single one: a handful at
// a time would keep an answer waiting for many milliseconds.

/// Runs until the pool is closed.
pub(in crate::pool) async fn run(pool: Arc<PoolInner>) {
    let mut next = Instant::now() + first_delay(period(&pool.settings()));
    let mut quarantine = Quarantine::new(&pool);
    let mut schedule = ProbeSchedule::new();
    // Idle connections of which many may have to be closed, those to close first at the end.
    let mut unwanted: Vec<Arc<Entry>> = Vec::new();
    let mut demands = pool.demands();
    loop {
        if unwanted.is_empty() {
            let judgement = pool.peers.next_judgement(Instant::now());
            let sooner = [quarantine.due(), judgement, schedule.due()];
            let wake = sooner.into_iter().flatten().fold(next, Instant::min);
            let _ = Deadline::at(wake).run(pool.fired_queue.filled()).await;
        } else {
            tokio::task::yield_now().await;
        }
        // First, since slots wait for these.
        pool.close_left().await;
        pool.check_fired().await;
        if pool.is_closed() {
            quarantine.close().await;
            pool.close_left().await;
            drop(pool.given_up.close());
            return;
        }
        pool.close_given_up().await;
        // Before new ones are asked: an answer that is there frees a connection.
        quarantine.look().await;
        pool.ask_siblings().await;
        pool.check_due(&mut schedule).await;
        let last = std::mem::replace(&mut demands, pool.demands());
        let has_ejected = pool.peers.judge();
        if has_ejected {
            // From now on the dialer has to see when that peer is back.
            pool.slots.announce();
        }
        if last.changes != demands.changes {
            // What is due by the new settings is due now, and so is the look that plans by them.
            next = Instant::now();
        }
        if has_ejected || last != demands {
            unwanted = pool.longest_idle();
            // Popped from the end.
            unwanted.reverse();
        }
        for entry in unwanted.split_off(unwanted.len().saturating_sub(LOOKS)).into_iter().rev() {
            if pool.evict_unwanted(&entry) {
                tokio::task::yield_now().await;
            }
        }
        let now = Instant::now();
        // Judged by the clock: a busy queue must not keep the tick from coming.
        if now >= next {
            let settings = pool.live().snapshot();
            let period = period(&settings);
            next = now + period;
            let idle = pool.registry.idle();
            let survey = pool.survey(&settings, now, next, &idle);
            // Before the evictions, which take turns with other tasks: a plan that comes late is no
            // plan.
            schedule.plan(period, survey.silent);
            if survey.has_due {
                pool.evict_due(&settings, now, idle).await;
            }
            pool.report_holders();
            pool.look_at_shares();
            pool.clear_doubts();
            if pool.has_ended.swap(false, Ordering::AcqRel) {
                pool.idle_set.sweep();
            }
            pool.refresh_gauges();
            if settings.min_idle > 0 {
                pool.slots.announce();
            }
        }
    }
}

/// The time between two ticks.
fn period(settings: &Settings) -> Duration {
    let Settings { idle_timeout, max_lifetime, max_silence, hold_warning, .. } = *settings;
    tick_period([idle_timeout, max_lifetime, max_silence, hold_warning])
}

/// What is demanded of all connections: a change of it may make many of them unwanted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Demands {
    generation: u64,
    size: usize,
    /// How often the settings were changed.
    changes: usize,
}

/// When to ask a peer that may be silent for `max`: where the kernel can ask so soon, a little
/// earlier, so that the answer is there when that is over.
fn before(max: Duration) -> Duration {
    (max - max / 32).max(UNASKED.min(max))
}

/// Work on the idle connections until the next tick.
struct Survey {
    /// A connection has been idle too long, is too old or is not wanted.
    has_due: bool,
    /// Connections whose peers will have been silent for too long, and when.
    silent: Vec<(Instant, Weak<Entry>)>,
}

impl PoolInner {
    fn demands(&self) -> Demands {
        Demands {
            generation: self.generation.now(),
            size: self.slots.limit(),
            changes: self.live().changes(),
        }
    }

    /// Closes what was left to this task, one by one between other tasks.
    async fn close_left(&self) {
        for ending in self.closing.take() {
            drop(ending);
            tokio::task::yield_now().await;
        }
    }

    /// Closes what its owner gave up while it was being looked at.
    pub(in crate::pool) async fn close_given_up(&self) {
        for (entry, reason) in self.given_up.take() {
            if self.evict(&entry, reason) {
                tokio::task::yield_now().await;
            } else if !entry.is(State::Closed) {
                // The look is not over. Closed with the pool, it is closed by whoever looks.
                let _ = self.given_up.push((entry, reason));
            }
        }
    }

    /// Looks at all idle connections, at each once: ten thousand are as many reads from memory.
    fn survey(
        &self,
        settings: &Settings,
        now: Instant,
        next: Instant,
        idle: &[Arc<Entry>],
    ) -> Survey {
        let until_next = Age::of(next - now);
        let mut survey = Survey { has_due: false, silent: Vec::new() };
        for entry in idle {
            let age = entry.age_at(now);
            survey.has_due |= self.outlived_idle(entry, age, settings.idle_timeout).is_some();
            let Some(longest) = self.max_silence(settings, entry, age) else { continue };
            let left = before(longest).saturating_sub(entry.unheard_for(age));
            if Age::of(left) < until_next {
                survey.silent.push((now + left, Arc::downgrade(entry)));
            }
        }
        survey
    }

    /// Looks at those whose turn it is.
    async fn check_due(self: &Arc<Self>, schedule: &mut ProbeSchedule<Weak<Entry>>) {
        let due = schedule.take(Instant::now());
        let due = due.into_iter().filter_map(|entry| entry.upgrade()).collect();
        let settings = self.live().snapshot();
        let limit = |entry: &Entry, age| self.max_silence(&settings, entry, age).map(before);
        self.check_silent(due, limit).await;
    }

    /// Evicts what has been idle too long, is too old or is not wanted. The youngest `min_idle` are not
    /// evicted for being idle: the pool would only make new ones.
    async fn evict_due(&self, settings: &Settings, now: Instant, idle: Vec<Arc<Entry>>) {
        let idle = longest_idle_first(idle);
        let spare = idle.len().saturating_sub(settings.min_idle);
        for (index, entry) in idle.into_iter().enumerate() {
            let own = settings.idle_timeout.filter(|_| index < spare);
            let due = self.outlived_idle(&entry, entry.age_at(now), own);
            if due.is_some_and(|reason| self.evict(&entry, reason)) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Why a connection must not stay idle, if so: `own` is how long the pool lets it be.
    fn outlived_idle(&self, entry: &Entry, now: Age, own: Option<Duration>) -> Option<CloseReason> {
        entry.due(now, own).or_else(|| self.unwanted(entry, now))
    }

    pub(in crate::pool) fn longest_idle(&self) -> Vec<Arc<Entry>> {
        longest_idle_first(self.registry.idle())
    }
}

fn longest_idle_first(mut idle: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    idle.sort_by_cached_key(|entry| entry.moment(entry.idle_since()));
    idle
}
