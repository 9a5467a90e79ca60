//! Loads: what callers do with a pool.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::contenders::Contender;

/// What callers do, over and over.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// One caller: get and return.
    Alone,
    /// So many tasks: get, let the others run, return.
    Together(u64),
    /// The same, and every fourth time a caller gives up when it finds that it has to wait.
    Impatient(u64),
}

impl Load {
    /// So many times, of all tasks together.
    pub fn run(self, runtime: &Runtime, pool: &impl Contender, times: u64) -> Duration {
        match self {
            Self::Alone => runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    drop(pool.get().await);
                }
                start.elapsed()
            }),
            Self::Together(tasks) => spread(runtime, tasks, times, |_| {
                let pool = pool.clone();
                move |_| use_one(pool.clone())
            }),
            Self::Impatient(tasks) => spread(runtime, tasks, times, |task| {
                let pool = pool.clone();
                move |time| {
                    let pool = pool.clone();
                    async move {
                        if (task + time) % 4 == 0 {
                            let (get, turn) = (pool.get(), tokio::task::yield_now());
                            futures_util::future::select(std::pin::pin!(get), std::pin::pin!(turn))
                                .await;
                        } else {
                            use_one(pool).await;
                        }
                    }
                }
            }),
        }
    }
}

async fn use_one(pool: impl Contender) {
    let _held = pool.get().await;
    tokio::task::yield_now().await;
}

/// Spreads the work over tasks. The last round may do a little more than was asked for; what it took
/// is what the part that was asked for took.
fn spread<T, F>(runtime: &Runtime, tasks: u64, times: u64, task: impl Fn(u64) -> T) -> Duration
where
    T: Fn(u64) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let each = times.div_ceil(tasks);
    let took = runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|number| {
                let once = task(number);
                tokio::spawn(async move {
                    for time in 0..each {
                        once(time).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        start.elapsed()
    });
    took.mul_f64(times as f64 / (each * tasks) as f64)
}

/// How long each caller waited, of so many tasks that do this over and over for `during`.
pub fn waits(
    runtime: &Runtime,
    pool: &impl Contender,
    tasks: u64,
    during: Duration,
) -> Vec<Duration> {
    let mut all: Vec<Duration> = runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut waits = Vec::with_capacity(1 << 16);
                    // Once at least, however busy the machine is.
                    loop {
                        let began = Instant::now();
                        let held = pool.get().await;
                        waits.push(began.elapsed());
                        tokio::task::yield_now().await;
                        drop(held);
                        if start.elapsed() >= during {
                            break waits;
                        }
                    }
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.append(&mut task.await.expect("no panic"));
        }
        all
    });
    all.sort();
    all
}
