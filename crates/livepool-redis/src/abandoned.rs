//! [`Left`]: commands whose callers went away before the answer came.
//!
//! The driver task may be about to send such a command, or may not have looked at it yet: nobody can
//! tell from the bytes. So whoever drops the future of a command leaves a note here, and the
//! connection is not given to anybody before an answer has come back through the same queue.

use std::sync::atomic::{AtomicU8, Ordering};

use ::redis::{Arg, Cmd, Pipeline};

use super::command::is_blocking;

/// Somebody left.
const SOME: u8 = 1;
/// What was left waits for something to happen, perhaps for ever.
const WAITING: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Left(AtomicU8);

impl Left {
    /// Notes it unless the returned value is told that the answer came.
    pub(super) fn unless_answered<'a>(&'a self, asked: &'a dyn Asked) -> Asking<'a> {
        Asking { left: self, asked: Some(asked) }
    }

    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    pub(super) fn waiting(&self) -> bool {
        self.0.load(Ordering::Acquire) & WAITING != 0
    }

    /// An answer came to what was asked after them.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn note(&self, asked: &dyn Asked) {
        let waiting = if asked.waits() { WAITING } else { 0 };
        self.0.fetch_or(SOME | waiting, Ordering::AcqRel);
    }
}

/// A command whose answer is waited for.
pub(super) struct Asking<'a> {
    left: &'a Left,
    asked: Option<&'a dyn Asked>,
}

impl Asking<'_> {
    /// The answer came, or none ever will.
    pub(super) fn answered(mut self) {
        self.asked = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked {
            self.left.note(asked);
        }
    }
}

/// What was asked.
pub(super) trait Asked: Sync {
    /// Whether its answer may wait for something to happen.
    fn waits(&self) -> bool;
}

impl Asked for Cmd {
    fn waits(&self) -> bool {
        let words = self.args_iter().map(|arg| match arg {
            Arg::Simple(word) => word,
            _ => &[],
        });
        is_blocking(words)
    }
}

impl Asked for Pipeline {
    fn waits(&self) -> bool {
        self.cmd_iter().any(Asked::waits)
    }
}
