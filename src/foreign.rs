//! Foreign code in a cage.
//!
//! Recorders, log subscribers, observers, resolvers, pings, protocols, scanners and layers are written
//! by others and called in the middle of everything: in drops, in background tasks, between a
//! connection's owner and the connection. None of their panics, not even one in a drop while another
//! panic unwinds, leaves the call it happened in. What a panic means is for the caller to say.
//!
//! Whoever calls through here holds no lock, but where the value itself lives under one of its own.

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

/// Foreign code panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

impl Panicked {
    /// Whether that is what this error is.
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

/// Calls foreign code.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(forget)
}

/// In a model check a panic is a finding, and nothing is to hide it.
#[cfg(shuttle)]
pub(crate) fn call<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    Ok(call())
}

/// What a panic carries is a foreign value as well.
#[cfg_attr(shuttle, allow(dead_code, reason = "nothing is caught there"))]
#[cold]
fn forget(carried: Box<dyn Any + Send>) -> Panicked {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(carried))) {
        mem::forget(second);
    }
    Panicked
}

/// Drops a foreign value.
pub(crate) fn dispose<T>(value: T) {
    let _ = call(|| drop(value));
}

/// A foreign value, which is disposed of when its owner drops it.
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
    /// A foreign future: see [`future`].
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

/// Polls and drops a foreign future in the cage. It is over with its first panic.
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
