//! Calls of foreign code, whose panics are caught.
//!
//! Recorders, log subscribers, observers, resolvers, pings, protocols, scanners and layers are
//! written by others and called in the middle of our own work: in drops, in background tasks,
//! between a connection's owner and the connection. A panic of theirs, even in a drop while another
//! panic unwinds, does not leave the call it happened in. The caller decides what it means.
//!
//! A caller holds no lock, except one that belongs to the foreign value alone.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The result of a call in which foreign code panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

impl Panicked {
    /// Whether this error says that foreign code panicked.
    pub(crate) fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("code that was given to the pool panicked")
    }
}

impl Error for Panicked {}

impl From<Panicked> for io::Error {
    fn from(panicked: Panicked) -> Self {
        Self::other(panicked)
    }
}

/// Calls foreign code and catches its panic.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(drop_payload)
}

/// Calls foreign code; in a model check a panic is a finding and is not caught.
#[cfg(shuttle)]
pub(crate) fn call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    Ok(call())
}

/// Drops the payload of a panic.
#[cfg_attr(shuttle, allow(dead_code, reason = "nothing is caught there"))]
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) -> Panicked {
    // The payload is a foreign value as well: its drop may panic, with a payload whose drop may
    // panic. The second one is leaked.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
    Panicked
}

/// Drops a foreign value and catches its panic.
pub(crate) fn dispose<T>(value: T) {
    let _ = call(|| drop(value));
}

/// A foreign value, which is [disposed of](dispose) when its owner drops it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held<T>(Option<T>);

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        dispose(self.0.take());
    }
}

pin_project! {
    /// A foreign future whose panics are caught: see [`future`].
    pub(crate) struct CatchPanic<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for CatchPanic<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut future = this.project().future;
            let _ = call(|| future.set(None));
        }
    }
}

/// Wraps a foreign future so that panics of its polls and its drop are caught. After its first
/// panic the future is over.
pub(crate) fn future<F: Future>(future: F) -> CatchPanic<F> {
    CatchPanic { future: Some(future) }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().future;
        let polled = call(|| future.as_mut().as_pin_mut().map(|future| future.poll(cx)));
        match polled {
            Ok(Some(Poll::Ready(value))) => Poll::Ready(Ok(value)),
            Ok(Some(Poll::Pending)) => Poll::Pending,
            // Dropped here and not by the owner, who may keep it: what it holds is of no use after
            // a panic.
            Ok(None) | Err(Panicked) => {
                let _ = call(|| future.set(None));
                Poll::Ready(Err(Panicked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Panics when it is dropped, and carries another one along.
    struct Rude(usize);

    impl Drop for Rude {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Rude(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_panic_that_carries_a_value_whose_drop_panics_stays_in_the_cage() {
        assert_eq!(call(|| std::panic::panic_any(Rude(3))), Err(Panicked));
        dispose(Rude(2));
        drop(Held::new(Rude(1)));
        assert_eq!(call(|| 7), Ok(7));
    }

    #[test]
    fn a_foreign_drop_during_another_panic_does_not_end_the_process() {
        let unwound = catch_unwind(|| {
            let _held = Held::new(Rude(1));
            let _future = future(async { Rude(1) });
            panic!("on purpose");
        });
        assert!(unwound.is_err());
    }

    #[test]
    fn a_foreign_future_is_over_with_its_first_panic() {
        let mut caged = Box::pin(future(async { panic!("on purpose") }));
        assert_eq!((&mut caged).now_or_never(), Some(Err::<(), _>(Panicked)));
        assert_eq!((&mut caged).now_or_never(), Some(Err(Panicked)));
        assert_eq!(future(async { 7 }).now_or_never(), Some(Ok(7)));
    }
}
