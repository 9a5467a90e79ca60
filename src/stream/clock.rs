//! The lazily re-armed timer behind every per-operation deadline.
//!
//! An operation that is ready at once costs nothing. One that stays pending only *stores* its
//! deadline; a single [`Sleep`] per direction stays registered with the runtime and, when it fires
//! before the current deadline, is armed again. Registering a timer per operation would cost five
//! to ten times as much as the rest of the operation's bookkeeping.
//!
//! Each direction has a clock of its own: a `Sleep` keeps one waker, so two halves of a stream that
//! share one would lose a deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline found passed by more than this was not being waited for: the operation that set it
/// was dropped, and the one that polls now is a new one. A live operation is woken by the timer and
/// polls within the runtime's scheduling delay.
const ABANDONED: Duration = Duration::from_secs(1);

/// The timer of one direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// When the pending operation began, and when it must end.
    running: Option<(Instant, Instant)>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The moment `sleep` is registered for. Never later than the running deadline.
    armed: Option<Instant>,
    /// Whom `sleep` wakes. Polling the sleep again for the same waker is not needed.
    waker: Option<Waker>,
}

impl Clock {
    /// The operation ended, or none is owed: the next pending one starts afresh.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Something moved: an operation that is still pending has its full time again.
    pub(super) fn restart(&mut self, limit: Option<Duration>, cap: Option<Instant>) {
        if self.running.is_some() {
            self.running = begin(limit, cap);
        }
    }

    /// For an operation that is pending now. Ready, with the time it was given, when that is up.
    ///
    /// `limit` is the operation's own, `cap` the deadline of the exchange around it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Option<Duration>,
        cap: Option<Instant>,
    ) -> Poll<Duration> {
        let (began, deadline) = match self.running {
            Some(running) => running,
            None => match begin(limit, cap) {
                Some(running) => *self.running.insert(running),
                None => return Poll::Pending,
            },
        };
        if self.registered(cx, deadline) {
            return Poll::Pending;
        }
        let now = Instant::now();
        if now >= deadline {
            self.running = None;
            if now - deadline <= ABANDONED || cap.is_some_and(|cap| cap <= now) {
                return Poll::Ready(deadline - began);
            }
            // Nobody waited when the time ran out; the operation that polls now is a new one.
            return self.poll(cx, limit, cap);
        }
        self.arm(cx, deadline);
        Poll::Pending
    }

    /// Whether the sleep will wake this very task, in time.
    fn registered(&self, cx: &Context<'_>, deadline: Instant) -> bool {
        let (Some(sleep), Some(armed), Some(waker)) = (&self.sleep, self.armed, &self.waker) else {
            return false;
        };
        armed <= deadline && waker.will_wake(cx.waker()) && !sleep.is_elapsed()
    }

    /// Registers the sleep for `deadline` and this task.
    fn arm(&mut self, cx: &mut Context<'_>, deadline: Instant) {
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if self.armed.is_none_or(|armed| armed > deadline) || sleep.is_elapsed() {
                    sleep.as_mut().reset(deadline);
                    self.armed = Some(deadline);
                }
                sleep
            }
            none => {
                self.armed = Some(deadline);
                none.insert(Box::pin(sleep_until(deadline)))
            }
        };
        // Unconstrained: with the task's coop budget spent, a sleep returns Pending without
        // registering its waker, and the deadline would be lost.
        let mut poll_now = tokio::task::unconstrained(sleep.as_mut());
        if Pin::new(&mut poll_now).poll(cx).is_ready() {
            // Its moment came while it was being registered.
            cx.waker().wake_by_ref();
            self.waker = None;
        } else {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Forgets the task that used the stream, so that an idle connection keeps no finished task
    /// alive.
    pub(super) fn forget_task(&mut self) {
        self.running = None;
        if self.waker.take().is_some()
            && let Some(sleep) = &mut self.sleep
        {
            let mut nobody = Context::from_waker(Waker::noop());
            let mut poll_now = tokio::task::unconstrained(sleep.as_mut());
            let _ = Pin::new(&mut poll_now).poll(&mut nobody);
        }
    }
}

fn begin(limit: Option<Duration>, cap: Option<Instant>) -> Option<(Instant, Instant)> {
    if limit.is_none() && cap.is_none() {
        return None;
    }
    let now = Instant::now();
    let own = limit.and_then(|limit| now.checked_add(limit));
    let deadline = match (own, cap) {
        (Some(own), Some(cap)) => own.min(cap),
        (own, cap) => own.or(cap)?,
    };
    // An exchange may be out of time before the operation begins.
    Some((now.min(deadline), deadline))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    struct Never;
    impl Wake for Never {
        fn wake(self: Arc<Self>) {}
    }

    async fn expires(clock: &mut Clock, limit: Duration) -> Duration {
        std::future::poll_fn(|cx| clock.poll(cx, Some(limit), None)).await
    }

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_pending_operation_ends_at_its_limit() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!(expires(&mut clock, TEN).await, TEN);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_operation_has_its_full_time_although_the_timer_was_armed_by_an_earlier_one() {
        let mut clock = Clock::default();
        std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        })
        .await;
        clock.stop();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let start = Instant::now();
        expires(&mut clock, TEN).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_than_the_armed_one_is_kept() {
        let mut clock = Clock::default();
        std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        })
        .await;
        clock.stop();
        let start = Instant::now();
        expires(&mut clock, Duration::from_secs(2)).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_while_nobody_waited_does_not_hit_the_next_operation() {
        let mut clock = Clock::default();
        std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        })
        .await;
        // The operation is dropped here; nothing tells the clock.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        expires(&mut clock, TEN).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn polling_again_and_again_does_not_postpone_the_deadline() {
        let start = Instant::now();
        let mut clock = Clock::default();
        loop {
            tokio::select! {
                _ = expires(&mut clock, TEN) => break,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_coop_budget_does_not_lose_the_deadline() {
        let start = Instant::now();
        let mut clock = Clock::default();
        let mut first = true;
        std::future::poll_fn(|cx| {
            if std::mem::take(&mut first) {
                while tokio::task::coop::has_budget_remaining() {
                    let mut unit = std::pin::pin!(tokio::task::coop::consume_budget());
                    let _ = unit.as_mut().poll(cx);
                }
            }
            clock.poll(cx, Some(TEN), None)
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_clock_keeps_no_task() {
        let mut clock = Clock::default();
        let task = Arc::new(Never);
        let waker = Waker::from(Arc::clone(&task));
        assert!(clock.poll(&mut Context::from_waker(&waker), Some(TEN), None).is_pending());
        drop(waker);
        assert!(Arc::strong_count(&task) > 1);
        clock.forget_task();
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_exchange_deadline_cuts_an_operation_that_has_time_left() {
        let start = Instant::now();
        let cap = start + Duration::from_secs(4);
        let mut clock = Clock::default();
        let given = std::future::poll_fn(|cx| clock.poll(cx, Some(TEN), Some(cap))).await;
        assert_eq!(given.as_secs(), 4);
    }
}
