//! [`Log`]: what a test's thread logs.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::dispatcher::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::FmtSpan;

/// What is logged on one thread, on which everything in a test's runtime happens.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// From now on until the guard is dropped: what has at least this level.
    pub fn start(level: Level) -> (Self, DefaultGuard) {
        Self::start_with(level, FmtSpan::NONE)
    }

    /// The same, and a line for each span that closes.
    pub fn start_with_spans(level: Level) -> (Self, DefaultGuard) {
        Self::start_with(level, FmtSpan::CLOSE)
    }

    fn start_with(level: Level, spans: FmtSpan) -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_span_events(spans)
            .with_writer(move || writer.clone())
            .finish();
        (log, subscribe(subscriber))
    }

    pub fn all(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines with this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let all = self.all();
        all.lines().filter(|line| line.contains(text)).map(|line| line.trim().to_owned()).collect()
    }
}

/// Subscribers that see nothing, and are there for good: see [`subscribe`].
static OTHERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// Makes this the subscriber of this thread, as `tracing::subscriber::set_default` does.
///
/// Whether anybody wants a line, `tracing` finds out when it is first met, and keeps that. As long as a process
/// has one subscriber only, it asks that of the thread which meets the line: that of another test, which has
/// none. Of two or more it asks all.
pub fn subscribe(subscriber: impl Subscriber + Send + Sync) -> DefaultGuard {
    LazyLock::force(&OTHERS);
    tracing::subscriber::set_default(subscriber)
}
