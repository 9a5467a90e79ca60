//! [`Deadline`]: a moment that bounds all work before it. Timeouts are made in no other way.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

// A phase inside a larger operation gets `deadline.min(cap)`: its own limit, or what is left.
/// A moment after which an operation must not go on, or never.
///
/// Methods that take one take a std or tokio `Instant` as it is; a tokio `Option<Instant>`, where `None`
/// is never; or one of these.
///
/// ```
/// use std::time::{Duration, Instant};
/// # async fn f(pool: livepool::Pool) -> Result<(), livepool::CheckoutError> {
/// let guard = pool.get_by(Instant::now() + Duration::from_millis(200)).await?;
/// # drop(guard); Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

/// The result of an operation whose deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl Deadline {
    /// The deadline that never passes.
    pub const NEVER: Self = Self(None);

    /// The deadline `limit` from now. No limit, and a limit beyond what the clock can count, mean
    /// never.
    pub(crate) fn after(limit: Option<Duration>) -> Self {
        Self::within(Instant::now(), limit)
    }

    /// The deadline `limit` after this moment.
    pub(crate) fn within(moment: Instant, limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| moment.checked_add(limit)))
    }

    /// The deadline at this moment.
    pub(crate) fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// The moment itself, if there is one.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// The earlier of the two.
    pub(crate) fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Runs `future` until it is done or the moment has come. A future that is ready at once costs
    /// no timer.
    pub(crate) async fn run<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut timer = pin!(None);
        poll_fn(|cx| {
            // The future first: a result that is ready counts, even when the deadline has passed.
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let Some(moment) = self.0 else { return Poll::Pending };
            if timer.is_none() {
                // Unconstrained: a future that spends the task's coop budget at every poll would
                // otherwise never let its timer fire.
                timer.set(Some(unconstrained(sleep_until(moment))));
            }
            let elapsed = timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx));
            elapsed.unwrap_or(Poll::Pending).map(|()| Err(Elapsed))
        })
        .await
    }
}

impl From<Instant> for Deadline {
    fn from(moment: Instant) -> Self {
        Self::at(moment)
    }
}

impl From<std::time::Instant> for Deadline {
    fn from(moment: std::time::Instant) -> Self {
        Self::at(moment.into())
    }
}

impl From<Option<Instant>> for Deadline {
    fn from(moment: Option<Instant>) -> Self {
        Self(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_never_ends_is_cut_at_the_deadline() {
        let start = Instant::now();
        let deadline = Deadline::after(Some(Duration::from_secs(3)));
        assert_eq!(deadline.run(std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ready_future_wins_even_when_the_deadline_has_passed() {
        let deadline = Deadline::after(Some(Duration::ZERO));
        assert_eq!(deadline.run(async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_spends_the_whole_coop_budget_is_cut_all_the_same() {
        let greedy = async {
            loop {
                tokio::task::consume_budget().await;
                if !tokio::task::coop::has_budget_remaining() {
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
            }
        };
        let deadline = Deadline::after(Some(Duration::from_millis(50)));
        assert_eq!(deadline.run(greedy).await, Err::<(), _>(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_gets_what_is_left_of_the_whole() {
        let whole = Deadline::after(Some(Duration::from_secs(2)));
        let phase = Deadline::after(Some(Duration::from_secs(5)));
        assert_eq!(whole.min(phase), whole);
        assert_eq!(phase.min(whole), whole);
        assert_eq!(Deadline::NEVER.min(phase), phase);
    }

    #[test]
    fn a_limit_beyond_the_clock_means_never() {
        assert_eq!(Deadline::after(Some(Duration::MAX)), Deadline::NEVER);
    }
}
