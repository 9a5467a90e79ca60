//! Locks and atomics, as the rooms use them that a connection passes from thread to thread.
//!
//! In a build of the library they are std's. In the model checks (`models/`, built with
//! `cfg(shuttle)`) they are shuttle's, which runs the same files through thousands of schedules.

#[cfg(not(shuttle))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak, atomic,
};

/// shuttle has no `OnceLock`, `Weak` or error types of its own; an `Arc` schedules nothing.
#[cfg(shuttle)]
pub(crate) use {
    shuttle::sync::{Mutex, MutexGuard, atomic},
    std::sync::{Arc, OnceLock, PoisonError, TryLockError, Weak},
};
