//! Waiting for something real. A wait that gives up shows what there was to see.

use std::fmt::{Debug, Write};
use std::panic::Location;
use std::path::Path;
use std::time::{Duration, Instant};

use livepool::Pool;
use livepool::protocol::Protocol;

use super::{ROOT, scene};

/// A wait that is over at all is over in milliseconds. This is for machines that are busy.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// Waits until something real has happened; fails after ten seconds. Polls real time in a runtime
/// whose clock may be paused.
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let waiting = Waiting::begin();
    async move {
        while !condition() {
            waiting.goes_on(String::new).await;
        }
    }
}

/// The same for a pool, whose status is shown by a wait that gives up.
#[track_caller]
pub fn until_status<P: Protocol>(
    pool: &Pool<P>,
    mut condition: impl FnMut(&livepool::Status) -> bool,
) -> impl Future<Output = ()> {
    let seen = until_seen(|| pool.status(), move |now| condition(now));
    async move {
        seen.await;
    }
}

/// The same for what `look` returns, which is shown by a wait that gives up.
#[track_caller]
pub fn until_seen<T: Debug>(
    mut look: impl FnMut() -> T,
    mut enough: impl FnMut(&T) -> bool,
) -> impl Future<Output = T> {
    let waiting = Waiting::begin();
    async move {
        loop {
            let seen = look();
            if enough(&seen) {
                return seen;
            }
            waiting.goes_on(|| format!("it saw {seen:?}\n")).await;
        }
    }
}

/// As [`until`], but the runtime of the test gets no chance to do anything meanwhile.
#[track_caller]
pub fn until_blocking(mut condition: impl FnMut() -> bool) {
    let waiting = Waiting::begin();
    while !condition() {
        waiting.give_up_when_late(String::new);
        std::thread::sleep(PAUSE);
    }
}

/// On a paused clock a lost wakeup waits for ever; this makes it a failure.
#[track_caller]
pub fn ends<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = Location::caller();
    let day = Duration::from_secs(24 * 60 * 60);
    async move {
        let result = tokio::time::timeout(day, future).await;
        result.unwrap_or_else(|_| panic!("it waits for ever\n{}", what_was_seen(at)))
    }
}

/// One wait.
struct Waiting {
    since: Instant,
    at: &'static Location<'static>,
}

impl Waiting {
    #[track_caller]
    fn begin() -> Self {
        Self { since: Instant::now(), at: Location::caller() }
    }

    async fn goes_on(&self, seen: impl FnOnce() -> String) {
        self.give_up_when_late(seen);
        tokio::task::yield_now().await;
        std::thread::sleep(PAUSE);
    }

    fn give_up_when_late(&self, seen: impl FnOnce() -> String) {
        if self.since.elapsed() >= LIMIT {
            let (seen, scene) = (seen(), what_was_seen(self.at));
            panic!("it did not happen within {LIMIT:?}\n{seen}{scene}");
        }
    }
}

/// The wait as it is written, and everything that the test has made.
fn what_was_seen(at: &Location<'_>) -> String {
    let mut text = format!("{at}\n");
    // Cargo compiles in the workspace's folder and runs a test in its package's. Where the source is
    // gone, the place has to do.
    let source = std::fs::read_to_string(Path::new(ROOT).join(at.file())).unwrap_or_default();
    for line in source.lines().skip(at.line() as usize - 1).take(12) {
        let _ = writeln!(text, "| {line}");
        if line.ends_with(';') {
            break;
        }
    }
    text + &scene::describe()
}
