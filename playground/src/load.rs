//! The callers: so many a second come to a pool, whether those before them have been served or not.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

use crate::contenders::{Contender, PATIENCE};
use crate::fleet::Fleet;
use crate::tally::{Fate, Tally};

/// The most callers of one pool at a time. Who comes when so many are there is held back, and counted.
pub(crate) const MOST_CALLERS: usize = 1000;

/// Callers come in groups, this far apart.
const BEAT: Duration = Duration::from_millis(5);

/// What is asked of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Demand {
    /// Callers per second.
    pub(crate) rate: u32,
    /// How long each keeps its connection after its answer, in milliseconds.
    pub(crate) think_ms: u32,
    /// Whether callers share connections, where the pool can do that.
    pub(crate) shared: bool,
}

/// The callers who are there.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<Mutex<Vec<AbortHandle>>>);

impl Crowd {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<AbortHandle>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cancels every third caller, wherever it is: its future is dropped.
    pub(crate) fn cancel_a_third(&self) -> usize {
        self.with(|callers| {
            callers.retain(|caller| !caller.is_finished());
            callers.iter().step_by(3).map(AbortHandle::abort).count()
        })
    }

    /// How many are there.
    pub(crate) fn len(&self) -> usize {
        self.with(|callers| {
            callers.retain(|caller| !caller.is_finished());
            callers.len()
        })
    }

    fn leave(&self) {
        self.with(|callers| callers.drain(..).for_each(|caller| caller.abort()));
    }
}

/// The callers of a pool, from `start` until this is dropped. Those who are there then are cancelled.
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    pub(crate) crowd: Crowd,
    coming: AbortHandle,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.coming.abort();
        self.crowd.leave();
    }
}

impl Load {
    /// Sends callers to the pool that `pool` gives for each demand.
    pub(crate) fn start<C: Contender>(
        pool: impl Fn(&Demand) -> C + Send + Sync + 'static,
        fleet: Fleet,
        demand: watch::Receiver<Demand>,
    ) -> Self {
        let (tally, crowd) = (Arc::<Tally>::default(), Crowd::default());
        let coming = tokio::spawn(come(pool, fleet, demand, Arc::clone(&tally), crowd.clone()));
        Self { tally, crowd, coming: coming.abort_handle() }
    }
}

async fn come<C: Contender>(
    pool: impl Fn(&Demand) -> C + Send + Sync + 'static,
    fleet: Fleet,
    demand: watch::Receiver<Demand>,
    tally: Arc<Tally>,
    crowd: Crowd,
) {
    let mut beat = interval(BEAT);
    // A machine that was busy owes nobody the callers of that time: they would come all at once.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    // How many callers' worth of time is left until the next one comes. They come by chance, as callers do
    // who do not know of each other: sometimes several at once, sometimes none.
    let mut until_next = 1.0;
    loop {
        beat.tick().await;
        let now = Instant::now();
        let demand = *demand.borrow();
        let passed = (now - last).min(Duration::from_millis(100));
        last = now;
        until_next -= passed.as_secs_f64() * f64::from(demand.rate);
        let mut wanted = 0;
        while until_next <= 0.0 {
            wanted += 1;
            until_next -= (1.0 - fastrand::f64()).ln();
        }
        let pool = pool(&demand);
        crowd.with(|callers| {
            callers.retain(|caller| !caller.is_finished());
            let room = MOST_CALLERS.saturating_sub(callers.len());
            if wanted > room {
                tally.hold_back((wanted - room) as u64);
                wanted = room;
            }
            for _ in 0..wanted {
                let think = Duration::from_millis(demand.think_ms.into());
                let caller = call(pool.clone(), fleet.clone(), think, Arc::clone(&tally));
                callers.push(tokio::spawn(caller).abort_handle());
            }
        });
    }
}

/// Counts a caller that is dropped before it has its fate as cancelled.
struct Journey {
    tally: Arc<Tally>,
    began: Instant,
    is_over: bool,
}

impl Journey {
    fn end(mut self, fate: Fate, waited: Duration, in_all: Duration) {
        self.is_over = true;
        self.tally.note(fate, waited, in_all);
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if !self.is_over {
            self.tally.note(Fate::Cancelled, Duration::ZERO, self.began.elapsed());
        }
    }
}

/// One caller: takes a connection, makes one request, thinks, and gives it back.
async fn call<C: Contender>(pool: C, fleet: Fleet, think: Duration, tally: Arc<Tally>) {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let journey = Journey { tally, began, is_over: false };
    let deadline = (began + PATIENCE).into();
    let held = within(deadline, pool.get(), "no connection in time").await;
    let waited = began.elapsed();
    let mut held = match held {
        Ok(held) => held,
        Err(error) => return journey.end(Fate::NotServed(error), waited, waited),
    };
    let handed_out = Instant::now();
    let origin = pool.origin(&held);
    let answer = within(deadline, pool.ask(&mut held, number), "no answer in time").await;
    let in_all = began.elapsed();
    match answer {
        Ok(answer) if answer == number => {
            if !think.is_zero() {
                sleep(think).await;
            }
            drop(held);
            journey.end(Fate::Served, waited, in_all);
        }
        Ok(_) => {
            C::discard(held);
            journey.end(Fate::WrongAnswer, waited, in_all);
        }
        Err(error) => {
            C::discard(held);
            let was_dead =
                origin.is_some_and(|(peer, opened)| fleet.was_dead(peer, opened, handed_out));
            journey.end(Fate::Failed { error, was_dead }, waited, in_all);
        }
    }
}

async fn within<T>(
    deadline: tokio::time::Instant,
    step: impl Future<Output = Result<T, String>>,
    late: &str,
) -> Result<T, String> {
    timeout_at(deadline, step).await.unwrap_or_else(|_| Err(late.to_owned()))
}
