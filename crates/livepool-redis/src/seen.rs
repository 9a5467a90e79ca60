//! [`PendingErrors`]: errors that came in one piece of bytes, until somebody asks for them.

use std::collections::VecDeque;

/// One piece may bring several errors, and the one that matters to the whole pool may stand between
/// others: each kind is kept once, and no more kinds than a peer can mean.
#[derive(Debug)]
pub(super) struct PendingErrors<T>(VecDeque<T>);

const MAX_ERRORS: usize = 16;

impl<T: PartialEq> PendingErrors<T> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn record(&mut self, error: T) {
        if self.0.len() < MAX_ERRORS && !self.0.contains(&error) {
            self.0.push_back(error);
        }
    }

    /// The oldest.
    pub(super) fn take(&mut self) -> Option<T> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_a_peer_cannot_fill_the_memory() {
        let mut errors = PendingErrors::new();
        for n in (0..1000).flat_map(|n| [n, n]) {
            errors.record(n);
        }
        let kept: Vec<_> = std::iter::from_fn(|| errors.take()).collect();
        assert_eq!(kept, (0..MAX_ERRORS).collect::<Vec<_>>());
    }
}
