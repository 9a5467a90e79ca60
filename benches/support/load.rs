//! Loads: what callers do with a pool.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::contenders::Contender;

/// One caller, so many times: get and return.
pub fn alone(runtime: &Runtime, pool: &impl Contender, times: u64) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..times {
            drop(pool.get().await);
        }
        start.elapsed()
    })
}

/// So many tasks: get, let the others run, return. `times` counts all of them together.
pub fn together(runtime: &Runtime, pool: &impl Contender, tasks: u64, times: u64) -> Duration {
    let each = times.div_ceil(tasks);
    let took = runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        let _held = pool.get().await;
                        tokio::task::yield_now().await;
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

/// As [`together`], and every fourth caller gives up when it finds that it has to wait.
pub fn impatient(runtime: &Runtime, pool: &impl Contender, tasks: u64, times: u64) -> Duration {
    let each = times.div_ceil(tasks);
    let took = runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|task| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    for time in 0..each {
                        if (task + time) % 4 == 0 {
                            futures_util::future::select(
                                std::pin::pin!(pool.get()),
                                std::pin::pin!(tokio::task::yield_now()),
                            )
                            .await;
                        } else {
                            let _held = pool.get().await;
                            tokio::task::yield_now().await;
                        }
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
                    while start.elapsed() < during {
                        let began = Instant::now();
                        let held = pool.get().await;
                        waits.push(began.elapsed());
                        tokio::task::yield_now().await;
                        drop(held);
                    }
                    waits
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
