//! Model checks: the files that connections pass from thread to thread through, run through many
//! thousands of schedules. `scripts/models` runs them.
//!
//! `scripts/models` builds the library with `cfg(shuttle)`: every lock and every
//! atomic of [`crate::sync`] is then a place where another thread may go on, and shuttle chooses which
//! one. What a model says must hold in each of these schedules. All threads of a model are run by one
//! thread of the system, and so is tokio's reactor, when the model says so: [`turn`].
//!
//! What this does not show: shuttle's atomics are sequentially consistent, whatever ordering they are
//! given, so that a fence too few is not found here.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner, thread};
use tokio::runtime::{Builder, Runtime};

/// A small program, and what holds in it whatever its threads do in which order.
#[derive(Debug)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// Runs it once, in one schedule.
    pub run: fn(),
}

fn own() -> Vec<Model> {
    let mut all = Vec::new();
    all.extend(crate::stream::models::all());
    all.extend(crate::protocol::models::all());
    all.extend(crate::pool::models::all());
    all
}

thread_local! {
    /// One for all schedules: to make one costs more than a schedule.
    static RUNTIME: RefCell<Option<&'static Runtime>> = const { RefCell::new(None) };
}

fn runtime() -> &'static Runtime {
    RUNTIME.with_borrow_mut(|runtime| {
        *runtime.get_or_insert_with(|| {
            let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
            Box::leak(Box::new(runtime.expect("a runtime can be made")))
        })
    })
}

/// Has the reactor look at the sockets once, and wake whoever waits for them. By one thread of a model
/// at a time.
pub(crate) fn turn() {
    runtime().block_on(tokio::task::yield_now());
}

/// Moves the runtime's clock, which stands still otherwise, and wakes whoever waits for that.
pub(crate) fn advance(time: Duration) {
    runtime().block_on(tokio::time::advance(time));
}

/// The driver of a connection that has no wire.
pub fn driver() -> crate::protocol::Driver {
    crate::protocol::models::driver()
}

/// Runs a future, and polls it again when it was woken and at no other time. shuttle's own polls once
/// more after every wake, which makes up for one that was lost.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let task = Arc::new(Task { thread: thread::current(), is_woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&task));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !task.is_woken.swap(false, SeqCst) {
            thread::park();
        }
    }
}

struct Task {
    thread: shuttle::thread::Thread,
    is_woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, SeqCst);
        self.thread.unpark();
    }
}

/// Schedules of one scheduler with one seed. To see a failure again takes as many.
const CHUNK: usize = 100;

/// How schedules are made: by chance, or with so many changes of priority at random places, which
/// finds what needs few but certain ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheduler {
    Random,
    Pct,
}

impl Scheduler {
    const ALL: [Self; 2] = [Self::Random, Self::Pct];

    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Pct => "pct",
        }
    }

    /// Runs a chunk. False if something did not hold; shuttle has said what then.
    fn run(self, model: &Model, seed: u64) -> bool {
        let mut config = Config::new();
        // A debug build of tokio takes more than shuttle's 32 KiB.
        config.stack_size = 512 * 1024;
        config.silence_warnings = true;
        config.max_steps = MaxSteps::FailAfter(100_000);
        let run = model.run;
        let body = move || {
            // The product's own chance is a part of the schedule.
            fastrand::seed(seed);
            run();
        };
        let result = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Random => {
                Runner::new(RandomScheduler::new_from_seed(seed, CHUNK), config).run(body)
            }
            Self::Pct => Runner::new(PctScheduler::new_from_seed(seed, 3, CHUNK), config).run(body),
        }));
        result.is_ok()
    }
}

/// What `scripts/models` asks for.
struct Wanted {
    /// For each model.
    time: Duration,
    model: Option<String>,
    scheduler: Option<Scheduler>,
    seed: Option<u64>,
    /// Their names only.
    is_list: bool,
}

impl Wanted {
    fn of_arguments() -> Result<Self, String> {
        let mut wanted = Self {
            time: Duration::from_secs(5),
            model: None,
            scheduler: None,
            seed: None,
            is_list: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{value:?} is no number"));
            match argument.as_str() {
                "--millis" => wanted.time = Duration::from_millis(number()?),
                "--seed" => wanted.seed = Some(number()?),
                "--list" => wanted.is_list = value == "true",
                "--model" => wanted.model = Some(value),
                "--scheduler" => {
                    let named = Scheduler::ALL.into_iter().find(|known| known.name() == value);
                    wanted.scheduler =
                        Some(named.ok_or_else(|| format!("no scheduler {value:?}"))?);
                }
                other => return Err(format!("{other} is not known")),
            }
        }
        Ok(wanted)
    }
}

/// Runs the models that are wanted, of ours and of these, each for its time, or one chunk of it if a seed
/// is given.
pub fn main(others: Vec<Model>) -> ExitCode {
    let wanted = match Wanted::of_arguments() {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    // For good: a model that fails may leave its own entries behind, in any order, and tokio panics when
    // the first one is left before them.
    std::mem::forget(runtime().enter());
    let is_wanted = |model: &Model| wanted.model.as_deref().is_none_or(|name| name == model.name);
    let models: Vec<_> = own().into_iter().chain(others).filter(is_wanted).collect();
    if models.is_empty() {
        eprintln!("there is no such model");
        return ExitCode::FAILURE;
    }
    if wanted.is_list {
        models.iter().for_each(|model| println!("{}", model.name));
        return ExitCode::SUCCESS;
    }
    let first = wanted.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    for model in &models {
        let (began, mut counts) = (Instant::now(), [0, 0]);
        let mut seed = first;
        loop {
            for (count, scheduler) in counts.iter_mut().zip(Scheduler::ALL) {
                if wanted.scheduler.is_some_and(|wanted| wanted != scheduler) {
                    continue;
                }
                if !scheduler.run(model, seed) {
                    let (name, scheduler) = (model.name, scheduler.name());
                    eprintln!("\nmodel {name} does not hold; to see it again:");
                    eprintln!(
                        "  ./scripts/models --model {name} --scheduler {scheduler} --seed {seed}"
                    );
                    return ExitCode::FAILURE;
                }
                *count += CHUNK;
            }
            seed += 1;
            if wanted.seed.is_some() || began.elapsed() >= wanted.time {
                break;
            }
        }
        let [random, pct] = counts;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{:<24} holds in {random} random and {pct} pct schedules, seeds from {first}, {seconds:.1} s",
            model.name
        );
    }
    ExitCode::SUCCESS
}
