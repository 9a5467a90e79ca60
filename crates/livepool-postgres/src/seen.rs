//! [`Seen`]: errors that came in one piece of bytes, until somebody asks for them.

use std::collections::VecDeque;

/// One piece may bring several errors, and the one that matters to the whole pool may stand between
/// others: each kind is kept once, and no more kinds than a peer can mean.
#[derive(Debug)]
pub(super) struct Seen<T>(VecDeque<T>);

const MOST: usize = 16;

impl<T: PartialEq> Seen<T> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn note(&mut self, error: T) {
        if self.0.len() < MOST && !self.0.contains(&error) {
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
        let mut seen = Seen::new();
        for n in (0..1000).flat_map(|n| [n, n]) {
            seen.note(n);
        }
        let kept: Vec<_> = std::iter::from_fn(|| seen.take()).collect();
        assert_eq!(kept, (0..MOST).collect::<Vec<_>>());
    }
}
