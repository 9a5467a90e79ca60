//! Handles that wait for a recorder.
//!
//! A handle that is resolved before a recorder is installed stays a no-op for ever. But programs
//! build their pools and install their exporter in any order, so the handles are resolved at the
//! first use at which a recorder exists.

use std::sync::OnceLock;

use metrics::Recorder;

/// Handles, once there is a recorder to get them from.
// Boxed: a program without metrics pays a pointer for each pool.
pub(super) struct Lazy<H>(OnceLock<Box<H>>);

impl<H> Lazy<H> {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The handles, if they were resolved.
    pub(super) fn get(&self) -> Option<&H> {
        self.0.get().map(Box::as_ref)
    }

    /// The handles, resolved now when that is possible.
    ///
    /// Without a recorder a call costs a look at a thread-local, at an atomic and at a vtable, and
    /// the next call tries again.
    #[inline(always)]
    pub(super) fn get_or_resolve(&self, resolve: impl FnOnce(&dyn Recorder) -> H) -> Option<&H> {
        if let Some(handles) = self.get() {
            return Some(handles);
        }
        let handles = with_installed(|recorder| resolved(recorder, resolve))?;
        // Resolved before the cell is locked: a recorder is foreign code. Two threads may both get
        // here; registering is idempotent, so the second one's handles are the same series.
        Some(self.0.get_or_init(|| handles))
    }
}

/// Calls the recorder, if somebody installed one.
#[inline(always)]
pub(super) fn with_installed<T>(call: impl FnOnce(&dyn Recorder) -> T) -> Option<T> {
    metrics::with_recorder(|recorder| is_installed(recorder).then(|| call(recorder)))
}

/// The handles, resolved and boxed.
// Once in a pool's life: kept out of the code that asks for the handles at every checkout.
#[cold]
#[inline(never)]
fn resolved<H>(recorder: &dyn Recorder, resolve: impl FnOnce(&dyn Recorder) -> H) -> Box<H> {
    Box::new(resolve(recorder))
}

/// Whether this is a recorder that somebody installed, and not the one that stands for "none".
///
/// `metrics` hands out its `NoopRecorder` when none is installed, and has no method to ask for
/// that. But the type is of size zero, and a recorder that keeps anything, or points to anything,
/// is not. A recorder of size zero that keeps its state in statics is therefore not seen; a field
/// makes it visible.
fn is_installed(recorder: &dyn Recorder) -> bool {
    std::mem::size_of_val(recorder) != 0
}
