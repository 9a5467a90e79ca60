//! [`AbandonedCommands`]: commands whose callers went away before the answer came.
//!
//! The driver task may be about to send such a command, or may not have looked at it yet: nobody can
//! tell from the bytes. So whoever drops the future of a command leaves a note here, and the
//! connection is not given to anybody before an answer has come back through the same queue.

use std::sync::atomic::{AtomicU8, Ordering};

use ::redis::{Arg, Cmd, Pipeline};

use super::command::is_blocking;

/// A caller went away before the answer came.
const ABANDONED: u8 = 1;
/// An abandoned command waits for something to happen, perhaps for ever.
const BLOCKING: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct AbandonedCommands(AtomicU8);

impl AbandonedCommands {
    /// Records the command as abandoned, unless the returned value is told that the answer came.
    pub(super) fn track<'a>(&'a self, command: &'a dyn MayBlock) -> AwaitedReply<'a> {
        AwaitedReply { commands: self, command: Some(command) }
    }

    pub(super) fn has_any(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    pub(super) fn has_blocking(&self) -> bool {
        self.0.load(Ordering::Acquire) & BLOCKING != 0
    }

    /// Forgets them all, once a later command was answered.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn record(&self, command: &dyn MayBlock) {
        let waiting = if command.may_block() { BLOCKING } else { 0 };
        self.0.fetch_or(ABANDONED | waiting, Ordering::AcqRel);
    }
}

/// A command whose answer is waited for.
pub(super) struct AwaitedReply<'a> {
    commands: &'a AbandonedCommands,
    command: Option<&'a dyn MayBlock>,
}

impl AwaitedReply<'_> {
    /// Ends the wait: the answer came, or none ever will.
    pub(super) fn mark_answered(mut self) {
        self.command = None;
    }
}

impl Drop for AwaitedReply<'_> {
    fn drop(&mut self) {
        if let Some(command) = self.command {
            self.commands.record(command);
        }
    }
}

/// A command, or a pipeline of them.
pub(super) trait MayBlock: Sync {
    /// Whether an answer may wait for something to happen.
    fn may_block(&self) -> bool;
}

impl MayBlock for Cmd {
    fn may_block(&self) -> bool {
        let words = self.args_iter().map(|arg| match arg {
            Arg::Simple(word) => word,
            _ => &[],
        });
        is_blocking(words)
    }
}

impl MayBlock for Pipeline {
    fn may_block(&self) -> bool {
        self.cmd_iter().any(MayBlock::may_block)
    }
}
