//! Locks and atomics: std's, and in a model check (`scripts/models`) those whose schedule is chosen.

#[cfg(shuttle)]
pub(crate) use livepool::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic};

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic};
