//! Contenders in turn, round by round, in one process.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One request of a contender, from the question for a connection to the answer.
type Request = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub struct Contender {
    name: &'static str,
    request: Request,
    goal: Goal,
}

/// What livepool is held to beside a contender.
#[derive(Debug, Clone, Copy, Default)]
pub struct Goal {
    /// Requests of livepool for each of this one, at least.
    pub ratio: Option<f64>,
    /// CPU of livepool for one request, for that of this one, at most.
    pub cpu_ratio: Option<f64>,
}

impl Contender {
    pub fn with_goal(mut self, ratio: f64) -> Self {
        self.goal.ratio = Some(ratio);
        self
    }

    pub fn with_cpu_goal(mut self, cpu_ratio: f64) -> Self {
        self.goal.cpu_ratio = Some(cpu_ratio);
        self
    }
}

/// A contender of what is cloned for each request and the request itself.
pub fn contender<T, F>(
    name: &'static str,
    with: &T,
    request: impl Fn(T) -> F + Send + Sync + 'static,
) -> Contender
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let with = with.clone();
    let request: Request = Arc::new(move || Box::pin(request(with.clone())));
    Contender { name, request, goal: Goal::default() }
}

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// One more is made first, and not counted.
    pub rounds: usize,
    pub slice: Duration,
}

/// What a contender did.
#[derive(Debug, Default)]
pub struct Figures {
    pub name: &'static str,
    pub per_second: f64,
    /// Of this process, for one request.
    pub cpu_micros: f64,
    /// Requests of the first contender for each of this one.
    pub ratio: f64,
    /// CPU of the first contender for one request, for that of this one.
    pub cpu_ratio: f64,
    pub goal: Goal,
}

/// So many callers make requests, one after another, by each contender in turn. All figures are
/// medians; ratios are those of neighbours in one round.
pub async fn compare(plan: Plan, callers: usize, contenders: &[Contender]) -> Vec<Figures> {
    let mut found = vec![Vec::new(); contenders.len()];
    for round in 0..=plan.rounds {
        for (at, contender) in contenders.iter().enumerate() {
            let one = slice(plan.slice, callers, &contender.request).await;
            if round > 0 {
                found[at].push(one);
            }
        }
    }
    let first = found[0].clone();
    let of = |rounds: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        median(rounds.iter().map(which).collect())
    };
    let figures = contenders.iter().zip(&found).map(|(contender, rounds)| Figures {
        name: contender.name,
        goal: contender.goal,
        per_second: of(rounds, |round| round.0),
        cpu_micros: of(rounds, |round| round.1),
        ratio: median(first.iter().zip(rounds).map(|(ours, theirs)| ours.0 / theirs.0).collect()),
        cpu_ratio: median(
            first.iter().zip(rounds).map(|(ours, theirs)| ours.1 / theirs.1).collect(),
        ),
    });
    figures.collect()
}

/// Requests a second, and CPU for each in microseconds.
async fn slice(length: Duration, callers: usize, request: &Request) -> (f64, f64) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let tasks = (0..callers).map(|_| {
        let request = Arc::clone(request);
        tokio::spawn(async move {
            let mut made = 0_u64;
            while began.elapsed() < length {
                request().await;
                made += 1;
            }
            made
        })
    });
    let mut made = 0;
    for task in tasks.collect::<Vec<_>>() {
        made += task.await.expect("no request fails");
    }
    let made = made.max(1) as f64;
    (made / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / made)
}

/// CPU time of this process: fields 14 and 15 of proc(5), in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(12) + ticks(13)) / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, per_second, cpu_micros, ratio, cpu_ratio, goal } = self;
        write!(
            f,
            "  {name:<36} {per_second:>9.0}/s  {cpu_micros:>6.1} us of CPU   \
             livepool / this: {ratio:.2}, CPU {cpu_ratio:.2}"
        )?;
        if goal.ratio.is_some_and(|goal| *ratio < goal)
            || goal.cpu_ratio.is_some_and(|goal| *cpu_ratio > goal)
        {
            write!(f, "  (goal NOT met)")?;
        }
        Ok(())
    }
}
