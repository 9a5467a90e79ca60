//! Locks and atomics of the modules in which a connection passes from thread to thread.
//!
//! The library is built with std's. The model checks (`models/`, built with `cfg(shuttle)`) have
//! shuttle's, which runs the same files through thousands of schedules.

#[cfg(not(shuttle))]
pub(crate) use futures_util::task::AtomicWaker;
#[cfg(not(shuttle))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError, Weak, atomic,
};

#[cfg(shuttle)]
pub use scheduled::AtomicWaker;
/// shuttle has no `OnceLock`, `Weak` or error types of its own; an `Arc` schedules nothing.
#[cfg(shuttle)]
pub use {
    shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    std::sync::{Arc, OnceLock, PoisonError, TryLockError, Weak},
};

#[cfg(shuttle)]
mod scheduled {
    use std::task::Waker;

    use super::atomic::{AtomicBool, Ordering::SeqCst};

    /// An [`AtomicWaker`](futures_util::task::AtomicWaker) before each of whose steps another
    /// thread may go on: between the reason for a wake and the wake, and while the waking thread
    /// has the waker.
    #[derive(Debug, Default)]
    pub struct AtomicWaker {
        turn: AtomicBool,
        waker: futures_util::task::AtomicWaker,
    }

    impl AtomicWaker {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn register(&self, waker: &Waker) {
            self.turn.load(SeqCst);
            self.waker.register(waker);
        }

        pub fn take(&self) -> Option<Waker> {
            self.turn.load(SeqCst);
            self.waker.take()
        }

        pub fn wake(&self) {
            if let Some(waker) = self.take() {
                self.turn.load(SeqCst);
                waker.wake();
            }
        }
    }
}
