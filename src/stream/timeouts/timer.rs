//! The lazily re-armed timer behind every per-operation deadline.
//!
//! An operation that is ready at once costs nothing. One that stays pending only *stores* its
//! deadline; a single [`Sleep`] per direction stays registered with the runtime, wakes the task that
//! the stream's [`Link`] knows and, when it fires before the current deadline, is armed again.
//! Registering a timer per operation would cost five to ten times as much as the rest of the
//! operation's bookkeeping.
//!
//! Each direction has a clock of its own: two halves of a stream that shared one would lose a
//! deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::stream::handle::{Link, Side};
use crate::sync::{Arc, Mutex, PoisonError};

/// Nobody polled for this long after the alarm rang, although the task that it woke has had its turn:
/// the operation that set the deadline was dropped, and the one that polls now is a new one. One that
/// is dropped and tried again, in a loop that does something else once a second, comes back sooner.
///
/// The time alone would not tell: a runtime that another task holds up polls a live operation as late.
const ABANDONED: Duration = Duration::from_secs(1);

/// The time of one poll, looked up once at most: reading a clock costs more than the rest of it.
#[derive(Debug, Default)]
pub(in crate::stream) struct Now(Option<Instant>);

impl Now {
    pub(in crate::stream) fn get(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// The timer of one direction of a stream.
#[derive(Debug, Default)]
pub(in crate::stream) struct Clock {
    /// When the pending operation began, and when it must end.
    running: Option<(Instant, Instant)>,
    /// Boxed: most connections of a large pool never wait.
    alarm: Option<Box<TimerSleep>>,
}

impl Clock {
    /// The operation ended, or none is owed: the next pending one starts afresh.
    #[inline]
    pub(in crate::stream) fn stop(&mut self) {
        self.running = None;
    }

    /// Whether an operation waits.
    #[inline]
    pub(in crate::stream) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Notes that bytes moved: an operation that is still pending has its full time again.
    pub(in crate::stream) fn restart(&mut self, limit: Option<Duration>, cap: Option<Instant>) {
        self.running = begin(&mut Now::default(), limit, cap);
    }

    /// For an operation that is pending now, whose task `link` knows already: an alarm that rings
    /// from now on wakes it. Ready, with the time it was given, when that is up.
    ///
    /// `limit` is the operation's own, `cap` the deadline of the exchange around it.
    pub(in crate::stream) fn poll(
        &mut self,
        link: &Arc<Link>,
        side: Side,
        now: &mut Now,
        limit: Option<Duration>,
        cap: Option<Instant>,
    ) -> Poll<Duration> {
        loop {
            let (began, deadline) = match self.running {
                Some(running) => running,
                None => match begin(now, limit, cap) {
                    Some(running) => *self.running.insert(running),
                    None => return Poll::Pending,
                },
            };
            if let Some(alarm) = &self.alarm
                && alarm.armed <= deadline
                && !alarm.sleep.is_elapsed()
            {
                return Poll::Pending;
            }
            let now = now.get();
            if now < deadline {
                self.alarm = Some(TimerSleep::set(self.alarm.take(), deadline, link, side));
                return Poll::Pending;
            }
            let unheard = self.alarm.as_ref().is_some_and(|alarm| alarm.rang_for_nobody(now));
            self.running = None;
            if !unheard || cap.is_some_and(|cap| cap <= now) {
                return Poll::Ready(deadline - began);
            }
            // Nobody waited when the time ran out; the operation that polls now is a new one.
        }
    }

    /// The stream has another link from now on.
    pub(in crate::stream) fn forget_link(&mut self) {
        *self = Self::default();
    }
}

/// A sleep that is registered with its runtime once and rings for whichever task waits.
#[derive(Debug)]
struct TimerSleep {
    sleep: Pin<Box<Sleep>>,
    bell: Arc<TimerWaker>,
    /// The moment the sleep is registered for.
    armed: Instant,
    /// The runtime it is registered with. A sleep must not be polled when its runtime has ended.
    runtime: Option<Id>,
}

impl TimerSleep {
    /// Sets the alarm, the last one if it can be used again.
    fn set(last: Option<Box<Self>>, deadline: Instant, link: &Arc<Link>, side: Side) -> Box<Self> {
        let runtime = Handle::try_current().ok().map(|handle| handle.id());
        let mut alarm = match last {
            Some(mut last) if last.runtime == runtime => {
                *last.bell.ring() = None;
                last.sleep.as_mut().reset(deadline);
                last.armed = deadline;
                last
            }
            _ => Box::new(Self {
                sleep: Box::pin(sleep_until(deadline)),
                bell: Arc::new(TimerWaker { link: Arc::clone(link), side, ring: Mutex::default() }),
                armed: deadline,
                runtime,
            }),
        };
        let bell = Waker::from(Arc::clone(&alarm.bell));
        // Unconstrained: with the task's coop budget spent, a sleep returns Pending without
        // registering its waker, and the deadline would be lost.
        let mut sleep = tokio::task::unconstrained(alarm.sleep.as_mut());
        if Pin::new(&mut sleep).poll(&mut Context::from_waker(&bell)).is_ready() {
            // Its moment came while it was being registered.
            bell.wake();
        }
        alarm
    }

    /// Whether it rang, and whoever waited then is gone.
    fn rang_for_nobody(&self, now: Instant) -> bool {
        let ring = *self.bell.ring();
        ring.is_some_and(|ring| ring.had_turn && now.saturating_duration_since(ring.at) > ABANDONED)
    }
}

/// The waker that the sleep wakes: it notes when, and passes the call on.
#[derive(Debug)]
struct TimerWaker {
    link: Arc<Link>,
    side: Side,
    /// Only read and set under this lock.
    ring: Mutex<Option<Ring>>,
}

/// The last time it rang.
#[derive(Debug, Clone, Copy)]
struct Ring {
    at: Instant,
    /// Whether the task that was woken has had its turn since.
    had_turn: bool,
}

impl TimerWaker {
    fn ring(&self) -> crate::sync::MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves behind the task that was woken before it. In a runtime of several threads another one
    /// may overtake that task; a stall as well, at that very moment, would give it its time again.
    async fn turn(self: Arc<Self>, at: Instant) {
        // A task that was just spawned may be preferred to one that was woken before; one that yields
        // goes to the end.
        tokio::task::yield_now().await;
        if let Some(ring) = self.ring().as_mut().filter(|ring| ring.at == at) {
            ring.had_turn = true;
        }
    }
}

impl Wake for TimerWaker {
    fn wake(self: Arc<Self>) {
        let at = Instant::now();
        let runtime = Handle::try_current();
        // Where nobody can tell, the time has to.
        *self.ring() = Some(Ring { at, had_turn: runtime.is_err() });
        self.link.task(self.side).wake();
        if let Ok(runtime) = runtime {
            runtime.spawn(self.turn(at));
        }
    }
}

fn begin(
    now: &mut Now,
    limit: Option<Duration>,
    cap: Option<Instant>,
) -> Option<(Instant, Instant)> {
    if limit.is_none() && cap.is_none() {
        return None;
    }
    let now = now.get();
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
    use super::*;

    /// A clock with the link that knows the task, as a stream has it.
    struct Timed {
        clock: Clock,
        link: Arc<Link>,
    }

    impl Timed {
        fn new() -> Self {
            Self { clock: Clock::default(), link: Link::new() }
        }

        fn poll(
            &mut self,
            cx: &mut Context<'_>,
            limit: Option<Duration>,
            cap: Option<Instant>,
        ) -> Poll<Duration> {
            self.link.reader().register(cx.waker());
            self.clock.poll(&self.link, Side::Reading, &mut Now::default(), limit, cap)
        }
    }

    async fn expires(timed: &mut Timed, limit: Duration) -> Duration {
        std::future::poll_fn(|cx| timed.poll(cx, Some(limit), None)).await
    }

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_pending_operation_ends_at_its_limit() {
        let start = Instant::now();
        let mut clock = Timed::new();
        assert_eq!(expires(&mut clock, TEN).await, TEN);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_operation_has_its_full_time_although_the_timer_was_armed_by_an_earlier_one() {
        let mut clock = Timed::new();
        std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        })
        .await;
        clock.clock.stop();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let start = Instant::now();
        expires(&mut clock, TEN).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_than_the_armed_one_is_kept() {
        let mut clock = Timed::new();
        std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        })
        .await;
        clock.clock.stop();
        let start = Instant::now();
        expires(&mut clock, Duration::from_secs(2)).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_while_nobody_waited_does_not_hit_the_next_operation() {
        let mut clock = Timed::new();
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
        let mut clock = Timed::new();
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
        let mut clock = Timed::new();
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
    async fn the_exchange_deadline_cuts_an_operation_that_has_time_left() {
        let start = Instant::now();
        let cap = start + Duration::from_secs(4);
        let mut clock = Timed::new();
        let given = std::future::poll_fn(|cx| clock.poll(cx, Some(TEN), Some(cap))).await;
        assert_eq!(given.as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_past_the_deadline_of_a_waiting_operation_ends_it() {
        let waiting = tokio::spawn(async {
            let mut clock = Timed::new();
            expires(&mut clock, TEN).await
        });
        tokio::task::yield_now().await;
        tokio::time::advance(6 * TEN).await;
        assert_eq!(waiting.await.unwrap(), TEN);
    }

    /// Keeps its only thread busy from the moment in which the clock has rung until long after that.
    /// Returns how long the operation waits then.
    fn stalled_at_the_deadline(runtime: &tokio::runtime::Runtime, limit: Duration) -> Duration {
        runtime.block_on(async {
            let waits = tokio::spawn(async move {
                let mut clock = Timed::new();
                expires(&mut clock, limit).await
            });
            // Its timer comes before that of the clock, and both are looked at in one turn, which
            // comes late: so this is woken first.
            let blocks = tokio::spawn(async move {
                tokio::time::sleep(limit / 2).await;
                std::thread::sleep(ABANDONED + limit);
            });
            let makes_late = tokio::spawn(async move {
                tokio::time::sleep(limit / 4).await;
                std::thread::sleep(limit);
            });
            blocks.await.unwrap();
            // It comes last, where the machine stood still until after both sleeps.
            makes_late.await.unwrap();
            let stalled = std::time::Instant::now();
            assert_eq!(waits.await.unwrap(), limit);
            stalled.elapsed()
        })
    }

    #[test]
    fn a_runtime_that_stalls_at_the_deadline_does_not_give_a_waiting_operation_its_time_again() {
        let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let many = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let limit = Duration::from_secs(1);
        for runtime in [one, many] {
            let took = stalled_at_the_deadline(&runtime, limit);
            assert!(took < limit * 9 / 10, "it waits for its limit again: {took:?}");
        }
    }

    #[test]
    fn a_clock_outlives_the_runtime_it_was_armed_in() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut clock = Timed::new();
        let first = runtime();
        let begin = std::future::poll_fn(|cx| {
            assert!(clock.poll(cx, Some(TEN), None).is_pending());
            Poll::Ready(())
        });
        first.block_on(begin);
        drop(first);
        clock.clock.stop();
        let soon = Duration::from_millis(5);
        runtime().block_on(expires(&mut clock, soon));
    }
}
