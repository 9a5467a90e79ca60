//! How often something can be done in a second, by us and by others, in one run.
//!
//! A test does it for a moment, to see that it can be done. `LIVEPOOL_ROUNDS` asks for figures: so
//! many rounds of a second each.

use std::future::Future;
use std::time::{Duration, Instant};

pub struct Rates {
    pub rounds: usize,
    round: Duration,
}

impl Rates {
    pub fn asked_for() -> Self {
        match std::env::var("LIVEPOOL_ROUNDS") {
            Ok(rounds) => Self {
                rounds: rounds.parse().expect("LIVEPOOL_ROUNDS is a number"),
                round: Duration::from_secs(1),
            },
            Err(_) => Self { rounds: 1, round: Duration::from_millis(50) },
        }
    }

    /// How often in a second, by so many callers together.
    pub async fn of<F>(&self, callers: usize, once: impl Fn() -> F + Clone + Send + 'static) -> f64
    where
        F: Future<Output = ()> + Send,
    {
        let (began, round) = (Instant::now(), self.round);
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let once = once.clone();
                tokio::spawn(async move {
                    let mut count = 0_u32;
                    // At least once: on a busy machine the moment may be over before it began.
                    loop {
                        once().await;
                        count += 1;
                        if began.elapsed() >= round {
                            break count;
                        }
                    }
                })
            })
            .collect();
        let mut total = 0;
        for caller in callers {
            total += caller.await.unwrap();
        }
        f64::from(total) / began.elapsed().as_secs_f64()
    }
}

/// Ours, theirs, and the median of the ratios of each round.
pub fn beside(ours: &[f64], theirs: &[f64]) -> String {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let (ours, theirs) = (median(ours.to_vec()), median(theirs.to_vec()));
    format!("{ours:>7.0}/s beside {theirs:>7.0}/s, ratio {:.2}", median(ratios))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
