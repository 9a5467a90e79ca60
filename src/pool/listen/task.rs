//! The task of a [`Subscription`](super::Subscription): takes a connection, has the protocol follow the
//! channels on it, and another one when that has ended.

use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{Instant, sleep};

use super::{Feed, Listen, Shared};
use crate::error::CheckoutFailure;
use crate::event::CloseReason;
use crate::foreign::{self, Panicked};
use crate::pool::acquire::checkout::{self, Until};
use crate::pool::conn::erased::typed;
use crate::pool::inner::PoolInner;
use crate::pool::{Guard, Pool};
use crate::protocol::log_trouble;
use crate::stream::Ledger;
use crate::sync::Arc;

/// How often it is looked at whether the connection's peer is still one to use. The pool tells at once
/// what becomes of it as a whole.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until the pool is closed, or the first connection comes to nothing.
pub(super) async fn run<P: Listen>(
    shared: Arc<Shared<P>>,
    pool: Pool<P>,
    first: Guard<P>,
    taken_at: &'static Location<'static>,
) {
    // However this ends: with its runtime, too.
    let _end = End(Arc::clone(&shared));
    let feed = Feed(Arc::clone(&shared));
    let inner = &pool.handle.0;
    let (mut next, mut failures) = (Some(first), 0_u32);
    let backoff = || inner.settings().backoff;
    loop {
        let guard = match next.take() {
            Some(guard) => guard,
            None => {
                let until = Until::Configured;
                match checkout::checkout(inner, until, taken_at).await {
                    Ok(lease) => Guard::new(lease),
                    Err(error) if error.failure() == CheckoutFailure::Closed => return,
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        log_trouble(None, &error, "a subscription gets no connection");
                        pause(inner, backoff().bound(failures)).await;
                        continue;
                    }
                }
            }
        };
        let began = Instant::now();
        let ended = serve(guard, &feed).await;
        let was_up = shared.mailbox.is_connected();
        shared.mailbox.disconnected(ended.reason);
        let is_over = match ended.error {
            Some(error) => shared.wanted.failed(error),
            // One that panics from the start will again.
            None => ended.reason == CloseReason::Panicked && shared.wanted.is_starting(),
        };
        if is_over {
            return;
        }
        // One that had lasted is followed at once: the pool's dialer has pauses of its own, if the
        // server is away.
        let has_lasted = was_up && began.elapsed() > backoff().most;
        failures = if has_lasted { 0 } else { failures.saturating_add(1) };
        // Nor the first that did not: most ends have no successor.
        if failures > 1 {
            pause(inner, backoff().bound(failures - 1)).await;
        }
    }
}

/// Waits for a random part of this time, or until the pool is closed.
async fn pause(pool: &PoolInner, bound: Duration) {
    let closed = pin!(recalled(pool, || pool.is_closed().then_some(())));
    select(closed, pin!(sleep(bound.mul_f64(fastrand::f64())))).await;
}

/// Waits until this looks different: it looks whenever the pool calls its connections back, and now and then.
async fn recalled<T>(pool: &PoolInner, look: impl Fn() -> Option<T>) -> T {
    loop {
        let mut recalled = pin!(pool.recalled.notified());
        // Before the look, or what comes in between would be missed.
        recalled.as_mut().enable();
        if let Some(seen) = look() {
            return seen;
        }
        select(recalled, pin!(sleep(LOOK))).await;
    }
}

/// The end of one connection's part in a subscription.
struct Ended<E> {
    reason: CloseReason,
    /// `None`: the pool has no use for it any more, or the protocol panicked.
    error: Option<E>,
}

/// Has the protocol follow on this connection until it is of no use any more, and gives it back.
async fn serve<P: Listen>(mut guard: Guard<P>, feed: &Feed<P>) -> Ended<P::Error> {
    let pool = Arc::clone(guard.lease().inner());
    let Some(protocol) = typed::<P>(&pool.protocol) else {
        return Ended { reason: CloseReason::Discarded, error: None };
    };
    let entry = guard.lease().entry_arc();
    // It waits for as long as it takes: that is no exchange, and whoever has it is no caller.
    guard.set_deadline(None);
    guard.set_read_timeout(None);
    entry.forget_holder();
    // As if an answer were owed: a read that waits for it looks after its peer.
    let owed = Ledger(Arc::clone(guard.lease().stream().link())).owe();
    let recalled = recalled(&pool, || {
        let closed = pool.is_closed().then_some(CloseReason::PoolClosed);
        closed.or_else(|| entry.retired())
    });
    let outcome = {
        let followed = pin!(caged(|| protocol.follow(&mut guard, feed)));
        match select(followed, pin!(recalled)).await {
            Either::Left((Ok(error), _)) => Ok(Some(error)),
            Either::Left((Err(Panicked), _)) => Ok(None),
            Either::Right((reason, _)) => {
                // Before what follows is dropped, whose own end would be taken for the reason.
                entry.interrupt(reason);
                Err(reason)
            }
        }
    };
    drop(owed);
    match outcome {
        Err(reason) => Ended { reason, error: None },
        Ok(error) => {
            if error.is_none() {
                guard.taint_as(CloseReason::Panicked);
            }
            // Where nothing speaks against it, it is the server's word, or its silence about a channel.
            let reason = guard.tainted().unwrap_or(CloseReason::Discarded);
            Ended { reason, error }
        }
    }
}

/// A protocol may panic when it is called, too.
async fn caged<F: Future>(call: impl FnOnce() -> F) -> Result<F::Output, Panicked> {
    foreign::future(foreign::call(call)?).await
}

/// Ends the subscription when it is dropped.
struct End<P: Listen>(Arc<Shared<P>>);

impl<P: Listen> Drop for End<P> {
    fn drop(&mut self) {
        self.0.end();
    }
}
