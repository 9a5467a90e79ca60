//! Dropping a future after so many polls.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;

/// When a future that is still pending is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// Right after its last poll.
    AtOnce,
    /// After it was woken and before it was polled again: what it waited for has been given to it,
    /// and it has not seen it.
    OnceWoken,
}

/// Both.
pub const DROPS: [Drop; 2] = [Drop::AtOnce, Drop::OnceWoken];

/// Polls `future` at most `polls` times, each time when it was woken, and drops it then. `between`
/// runs after every poll that was pending, and is told how many there were.
pub async fn cut<F: Future>(
    future: F,
    polls: usize,
    drop: Drop,
    mut between: impl FnMut(usize),
) -> Option<F::Output> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    for poll in 1..=polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        between(poll);
        if poll < polls || drop == Drop::OnceWoken {
            woken.0.notified().await;
        }
    }
    None
}

#[derive(Default)]
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
