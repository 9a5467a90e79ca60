//! The maintenance task: one per pool, none per connection.
//!
//! It wakes when a sentinel fires, when a peer is to be asked for a sign of life or may have
//! answered, and on a beat for idle and lifetime limits and the gauges. It holds the pool weakly while
//! it sleeps, so that it never keeps one alive.

use std::time::Duration;

use tokio::time::Instant;

use crate::beat::phase;
use crate::deadline::Deadline;
use crate::liveness::UNASKED;
use crate::pool::PoolInner;
use crate::pool::common::Common;
use crate::pool::conn::age::Age;
use crate::pool::conn::entry::{Classified, Entry};
use crate::pool::health::fired::FiredQueue;
use crate::pool::health::quarantine::Quarantine;
use crate::pool::health::schedule::ProbeSchedule;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Weak};

// Closing a socket costs about 8 µs, and a runtime with nothing but ready tasks looks at its sockets
// every 61 polls (tokio's `event_interval`). So other tasks run after every single one: a handful at
// a time would keep an answer waiting for many milliseconds.

/// Looking at a connection costs less than a microsecond: this many, then let other tasks run.
const LOOKS: usize = 16;

/// Runs until the pool is closed or gone.
pub(in crate::pool) async fn run(pool: Weak<PoolInner>, common: Arc<Common>, beat: Duration) {
    let mut next = Instant::now() + phase(beat);
    let mut quarantine = Quarantine::new(&common.suspects);
    let mut schedule = ProbeSchedule::new();
    // Idle connections of which many may have to be closed, those to close first at the end.
    let mut ending: Vec<Arc<Entry>> = Vec::new();
    let mut demands = common.demands();
    loop {
        if ending.is_empty() {
            let judgement = common.peers.next_judgement(Instant::now());
            let sooner = [quarantine.due(), judgement, schedule.due()];
            let wake = sooner.into_iter().flatten().fold(next, Instant::min);
            let _ = Deadline::at(wake).run(common.fired_queue.filled()).await;
        } else {
            tokio::task::yield_now().await;
        }
        close_left(&common).await;
        let Some(inner) = pool.upgrade() else { return };
        inner.classify_fired().await;
        if inner.is_closed() {
            drop(inner);
            quarantine.close().await;
            close_left(&common).await;
            return;
        }
        if quarantine.look(|entry| inner.offer(entry)).await {
            inner.dials.announce();
        }
        inner.ask_siblings().await;
        inner.check_silence(&mut schedule).await;
        let last = std::mem::replace(&mut demands, common.demands());
        let has_ejected = common.peers.judge();
        if has_ejected {
            // From now on the dialer has to see when that peer is back.
            inner.slots.announce();
        }
        if has_ejected || last != demands {
            ending = inner.longest_idle();
            ending.reverse();
        }
        for entry in ending.split_off(ending.len().saturating_sub(LOOKS)).into_iter().rev() {
            if entry.evict_unwanted() {
                tokio::task::yield_now().await;
            }
        }
        let now = Instant::now();
        // Judged by the clock: a busy fired_queue must not keep the beat from coming.
        if now >= next {
            next = now + beat;
            let idle = inner.common.registry.idle();
            let survey = inner.survey(now, next, &idle);
            schedule.plan(beat, survey.silent);
            if survey.has_due {
                inner.evict_due(now, idle).await;
            }
            inner.report_holders();
            inner.clear_doubts();
            if inner.common.ended.swap(false, Ordering::AcqRel) {
                inner.idle_set.sweep();
            }
            inner.refresh_gauges();
            if inner.settings().min_idle > 0 {
                inner.slots.announce();
            }
        }
    }
}

/// Closes what was left to this task, one by one between other tasks.
async fn close_left(common: &Common) {
    for ending in common.closing.take() {
        drop(ending);
        tokio::task::yield_now().await;
    }
}

/// When to ask a peer that may be silent for `max`: where the kernel can ask so soon, a little
/// earlier, so that the answer is there when that is over.
fn before(max: Duration) -> Duration {
    (max - max / 32).max(UNASKED.min(max))
}

/// What there is to do about the idle connections until the next beat.
struct Survey {
    /// One has been idle too long, is too old or is not wanted.
    has_due: bool,
    /// Those whose peers will have been silent for too long, and when.
    silent: Vec<(Instant, Weak<Entry>)>,
}

/// Fired connections that were not looked at yet. If the runtime ends meanwhile, the next task looks.
struct Fired<'a> {
    fired_queue: &'a FiredQueue,
    left: Vec<Weak<Entry>>,
}

impl Drop for Fired<'_> {
    fn drop(&mut self) {
        for entry in self.left.drain(..) {
            self.fired_queue.push(entry);
        }
    }
}

impl PoolInner {
    /// Looks at every connection whose sentinel fired.
    async fn classify_fired(self: &Arc<Self>) {
        let mut fired =
            Fired { fired_queue: &self.common.fired_queue, left: self.common.fired_queue.take() };
        while !fired.left.is_empty() {
            let Some(entry) = fired.left.pop().and_then(|entry| entry.upgrade()) else { continue };
            if entry.classify() == Classified::Homeless {
                self.offer(Arc::clone(&entry));
            }
            self.sweep_if_closed(&entry);
            tokio::task::yield_now().await;
        }
    }

    /// Puts an idle connection that lost its place where the next caller finds it.
    fn offer(self: &Arc<Self>, entry: Arc<Entry>) {
        self.sweep_if_closed(&entry);
        self.idle_set.put(entry);
        self.serve();
        self.dials.announce();
    }

    /// When something speaks against the connections to a peer, they are asked at once, together.
    pub(in crate::pool) async fn ask_siblings(self: &Arc<Self>) {
        if self.settings().max_silence.is_none() {
            return;
        }
        if self.common.has_doubts.swap(false, Ordering::AcqRel) {
            let mut idle = self.common.registry.idle();
            idle.retain(|entry| entry.is_in_doubt());
            self.check_silent(idle, Entry::max_silence).await;
        }
        for peer in self.common.peers.suspects() {
            let mut idle = self.common.registry.idle();
            idle.retain(|entry| entry.peer.is_of(&peer));
            self.check_silent(idle, |_, _| Some(UNASKED)).await;
        }
    }

    /// A doubt is over when every connection that it was about has been heard or has ended.
    pub(in crate::pool) fn clear_doubts(&self) {
        let doubted = self.common.peers.doubted();
        if doubted.is_empty() {
            return;
        }
        let all = self.common.registry.all();
        for (peer, doubt) in doubted {
            if !all.iter().any(|entry| entry.peer.is_of(&peer) && entry.is_in_doubt()) {
                peer.clear_doubt(doubt);
            }
        }
    }

    /// Looks at all idle connections, at each once: ten thousand are as many reads from memory.
    fn survey(&self, now: Instant, beat: Instant, idle: &[Arc<Entry>]) -> Survey {
        let idle_timeout = self.settings().idle_timeout;
        let beat = Age::of(beat - now);
        let mut survey = Survey { has_due: false, silent: Vec::new() };
        for entry in idle {
            let age = entry.age_at(now);
            survey.has_due |= entry.outlived_idle(age, idle_timeout).is_some();
            let Some(longest) = entry.max_silence(age) else { continue };
            let left = before(longest).saturating_sub(entry.unheard_for(age));
            if Age::of(left) < beat {
                survey.silent.push((now + left, Arc::downgrade(entry)));
            }
        }
        survey
    }

    /// Looks at those whose turn it is.
    async fn check_silence(self: &Arc<Self>, schedule: &mut ProbeSchedule<Weak<Entry>>) {
        let due = schedule.take(Instant::now());
        let due = due.into_iter().filter_map(|entry| entry.upgrade()).collect();
        self.check_silent(due, |entry, age| entry.max_silence(age).map(before)).await;
    }

    /// Reads of these connections how long their peers have been silent, and has those asked that
    /// were not heard for their limit.
    async fn check_silent(
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
            if entry.check_silence(now, limit) == Classified::Homeless {
                self.offer(entry);
            }
            looks += 1;
            if looks % LOOKS == 0 {
                tokio::task::yield_now().await;
                // On a busy runtime it is long until the next turn; deaths do not wait for it.
                self.classify_fired().await;
            }
        }
    }

    /// Evicts what has been idle too long, is too old or is not wanted. The youngest `min_idle` are not
    /// evicted for being idle: the pool would only make new ones.
    async fn evict_due(&self, now: Instant, idle: Vec<Arc<Entry>>) {
        let idle = longest_idle_first(idle);
        let spare = idle.len().saturating_sub(self.settings().min_idle);
        for (index, entry) in idle.into_iter().enumerate() {
            let own = self.settings().idle_timeout.filter(|_| index < spare);
            let due = entry.outlived_idle(entry.age_at(now), own);
            if due.is_some_and(|reason| entry.evict(reason)) {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(in crate::pool) fn longest_idle(&self) -> Vec<Arc<Entry>> {
        longest_idle_first(self.common.registry.idle())
    }
}

fn longest_idle_first(mut idle: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    idle.sort_by_cached_key(|entry| entry.moment(entry.idle_since()));
    idle
}
