//! [`PendingReplies`]: the commands that have not been answered. Pure.

use std::collections::VecDeque;

use super::command::CommandKind;

/// In the order of their answers, equal ones that follow each other as one entry.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    runs: VecDeque<(CommandKind, usize)>,
    owed: usize,
}

/// A client with more in flight is not followed.
const MAX_RUNS: usize = 1 << 16;

impl PendingReplies {
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// The one that is answered next.
    pub(super) fn first(&self) -> Option<CommandKind> {
        self.runs.front().map(|(kind, _)| *kind)
    }

    /// `false` if there is no room.
    #[must_use]
    pub(super) fn push(&mut self, kind: CommandKind) -> bool {
        let is_full = self.runs.len() == MAX_RUNS;
        match self.runs.back_mut() {
            Some((last, count)) if *last == kind => *count += 1,
            _ if is_full => return false,
            _ => self.runs.push_back((kind, 1)),
        }
        self.owed += 1;
        true
    }

    pub(super) fn pop(&mut self) -> Option<CommandKind> {
        let (kind, count) = self.runs.front_mut()?;
        let kind = *kind;
        *count -= 1;
        self.owed -= 1;
        if *count == 0 {
            self.runs.pop_front();
        }
        Some(kind)
    }

    /// Nothing that was sent is answered in a way that can be counted.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
