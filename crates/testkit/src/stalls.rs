//! How long the machine stood still while something was measured.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);

/// How long this runtime stood still, all in all, until it is asked. An upper bound may be that much later.
/// Code that blocks the runtime is not told from a machine that stands still.
pub struct Stalls {
    lost: Arc<Mutex<Duration>>,
    task: JoinHandle<()>,
}

impl Stalls {
    pub fn watch() -> Self {
        let lost = Arc::new(Mutex::new(Duration::ZERO));
        let shared = Arc::clone(&lost);
        // One that begins before the task below has run counts, too.
        let mut start = Instant::now();
        let task = tokio::spawn(async move {
            loop {
                sleep(5 * MS).await;
                let now = Instant::now();
                // The timer counts milliseconds, and rounds up.
                *shared.lock().unwrap() += (now - start).saturating_sub(7 * MS);
                start = now;
            }
        });
        Self { lost, task }
    }

    pub async fn lost(&self) -> Duration {
        // One that lasts until now counts, too.
        sleep(5 * MS).await;
        *self.lost.lock().unwrap()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.task.abort();
    }
}
