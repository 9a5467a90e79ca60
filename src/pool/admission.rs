//! Admission: the one gate every caller passes, in order of arrival.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// As many callers as the pool may have connections are inside at a time; the rest wait in line.
///
/// tokio's semaphore is fair: a freed permit belongs to the caller who has waited longest before a
/// newcomer can see it, so that [`try_enter`](Self::try_enter) overtakes nobody.
#[derive(Debug)]
pub(super) struct Admission {
    gate: Semaphore,
    waiting: AtomicUsize,
    max_waiting: Option<usize>,
}

/// Why a caller was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The line is as long as it may be.
    Full,
    /// The pool was closed.
    Closed,
}

impl Admission {
    pub(super) fn new(size: usize, max_waiting: Option<usize>) -> Self {
        Self { gate: Semaphore::new(size), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// Lets the caller in if nobody is before it.
    pub(super) fn try_enter(&self) -> Option<Ticket<'_>> {
        let permit = self.gate.try_acquire().ok()?;
        permit.forget();
        Some(Ticket(self))
    }

    /// Waits in line.
    ///
    /// Cancel safety: a dropped caller leaves the line; a permit it had just been given goes to the
    /// next one.
    pub(super) async fn enter(&self) -> Result<Ticket<'_>, Refused> {
        if self.gate.is_closed() {
            return Err(Refused::Closed);
        }
        let place = Place::take(self).ok_or(Refused::Full)?;
        let permit = self.gate.acquire().await.map_err(|_| Refused::Closed)?;
        permit.forget();
        drop(place);
        Ok(Ticket(self))
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Lets one more caller in. Called once for every ticket that was [kept](Ticket::keep).
    pub(super) fn leave(&self) {
        self.gate.add_permits(1);
    }

    /// Refuses everybody from now on, those in line at once.
    pub(super) fn close(&self) {
        self.gate.close();
    }
}

/// The right to a connection. Dropping it lets the next caller in.
#[derive(Debug)]
pub(super) struct Ticket<'a>(&'a Admission);

impl Ticket<'_> {
    /// The right passes to a guard, which gives it back with [`Admission::leave`].
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A place in line; counted as long as it is held.
struct Place<'a>(&'a Admission);

impl<'a> Place<'a> {
    fn take(admission: &'a Admission) -> Option<Self> {
        let max = admission.max_waiting.unwrap_or(usize::MAX);
        let more = |waiting| (waiting < max).then_some(waiting + 1);
        admission.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(admission))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn callers_enter_in_order_of_arrival_and_a_newcomer_never_overtakes() {
        let admission = Admission::new(1, None);
        let inside = admission.try_enter().unwrap();
        let mut first = Box::pin(admission.enter());
        let mut second = Box::pin(admission.enter());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(admission.waiting(), 2);
        drop(inside);
        assert!(admission.try_enter().is_none(), "the permit belongs to the one who waits");
        assert!(second.as_mut().now_or_never().is_none());
        let first = first.now_or_never().unwrap().unwrap();
        drop(first);
        assert!(second.now_or_never().unwrap().is_ok());
        assert_eq!(admission.waiting(), 0);
    }

    #[test]
    fn a_caller_who_leaves_after_being_called_passes_its_turn_on() {
        let admission = Admission::new(1, None);
        let inside = admission.try_enter().unwrap();
        let mut first = Box::pin(admission.enter());
        let mut second = Box::pin(admission.enter());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(inside);
        drop(first);
        assert!(second.now_or_never().unwrap().is_ok());
    }

    #[test]
    fn a_full_line_refuses_at_once_and_closing_refuses_those_in_line() {
        let admission = Admission::new(1, Some(1));
        let _inside = admission.try_enter().unwrap();
        let mut first = Box::pin(admission.enter());
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(admission.enter().now_or_never().unwrap().err(), Some(Refused::Full));
        admission.close();
        assert_eq!(first.now_or_never().unwrap().err(), Some(Refused::Closed));
        assert_eq!(admission.waiting(), 0);
    }
}
