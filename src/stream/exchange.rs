//! A stream's knowledge of the exchange on it, and whether it may be reused. Pure.

use crate::event::CloseReason;

/// Whether somebody is owed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Debt {
    /// A raw stream: whoever reads is owed, and so is whoever wrote and has not read since.
    ByUse,
    /// A client with a driver task that does not count: the same, but a read that is pending is the
    /// task's, which reads all the time.
    Driven,
    /// A client with a driver task counts for itself; this many answers are owed.
    Counted(usize),
}

/// How the caller says that an exchange is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The answer was read in full.
    Answered,
    /// The protocol is one-way: nothing answers what was written.
    Unanswered,
    /// The guard was dropped without a word.
    Silent,
}

/// The history of one exchange: from checkout to return.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    /// Bytes moved in either direction.
    carried: bool,
    /// Bytes were read: the peer was heard.
    heard: bool,
    /// Bytes were written and none read since.
    unanswered: bool,
    /// A read, or an operation of the writing side, returned Pending and was not completed.
    read_pending: bool,
    write_pending: bool,
    /// The stream must not be reused, for this reason. The first one stays.
    taint: Option<CloseReason>,
    /// The protocol has said that the connection needs a reset before its next user.
    needs_reset: bool,
}

impl Exchange {
    pub(super) fn need_reset(&mut self) {
        self.needs_reset = true;
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    #[inline]
    pub(super) fn read(&mut self, bytes: usize) {
        self.read_pending = false;
        if bytes > 0 {
            self.carried = true;
            self.heard = true;
            self.unanswered = false;
        }
    }

    #[inline]
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.write_pending = false;
        if bytes > 0 {
            self.carried = true;
            self.unanswered = true;
        }
    }

    pub(super) fn read_is_pending(&mut self) {
        self.read_pending = true;
    }

    pub(super) fn write_is_pending(&mut self) {
        self.write_pending = true;
    }

    /// Whether bytes went out and none came back since.
    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    pub(super) fn taint(&mut self, reason: CloseReason) {
        self.taint.get_or_insert(reason);
    }

    /// Why the stream can be used no more, or must not be when its users have gone, whatever is pending.
    pub(super) fn ended(&self) -> Option<CloseReason> {
        self.taint
    }

    /// Why the stream may not be reused, however its exchange ends: something went wrong, or an
    /// operation of the writing side was dropped while it was pending.
    pub(super) fn tainted(&self) -> Option<CloseReason> {
        self.taint.or(self.write_pending.then_some(CloseReason::Cancelled))
    }

    /// Whether an operation of the writing side is pending.
    pub(super) fn is_writing(&self) -> bool {
        self.write_pending
    }

    /// Why the stream may not be reused, as far as its history tells. Bytes that wait unread are
    /// found by the peek, not here.
    pub(super) fn unfit(&self, debt: Debt, ending: Ending) -> Option<CloseReason> {
        if let Some(reason) = self.tainted() {
            return Some(reason);
        }
        match debt {
            Debt::Counted(0) => None,
            Debt::Counted(_) => Some(CloseReason::Unfinished),
            Debt::ByUse if self.read_pending => Some(CloseReason::Cancelled),
            Debt::ByUse | Debt::Driven => match ending {
                Ending::Answered if self.unanswered => Some(CloseReason::Unfinished),
                Ending::Silent if self.carried => Some(CloseReason::Unfinished),
                Ending::Answered | Ending::Unanswered | Ending::Silent => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CloseReason::{Cancelled, OpTimeout, PeerClosed, Unfinished};
    use Ending::{Answered, Silent, Unanswered};

    fn after(steps: impl FnOnce(&mut Exchange)) -> Exchange {
        let mut exchange = Exchange::default();
        steps(&mut exchange);
        exchange
    }

    #[test]
    fn an_untouched_stream_may_be_reused_however_it_ends() {
        for ending in [Answered, Unanswered, Silent] {
            assert_eq!(Exchange::default().unfit(Debt::ByUse, ending), None);
        }
    }

    #[test]
    fn a_raw_stream_that_carried_bytes_is_reusable_only_if_the_caller_says_so() {
        let answered = after(|e| {
            e.wrote(4);
            e.read(2);
        });
        assert_eq!(answered.unfit(Debt::ByUse, Silent), Some(Unfinished));
        assert_eq!(answered.unfit(Debt::ByUse, Answered), None);
    }

    #[test]
    fn a_claim_of_release_is_checked_against_what_the_stream_saw() {
        let unread = after(|e| e.wrote(4));
        assert_eq!(unread.unfit(Debt::ByUse, Answered), Some(Unfinished));
        assert_eq!(unread.unfit(Debt::ByUse, Unanswered), None);

        let half_written = after(|e| {
            e.wrote(4);
            e.write_is_pending();
            e.read(1);
        });
        assert_eq!(half_written.unfit(Debt::ByUse, Unanswered), Some(Cancelled));

        let reading = after(|e| {
            e.wrote(4);
            e.read(1);
            e.read_is_pending();
        });
        assert_eq!(reading.unfit(Debt::ByUse, Answered), Some(Cancelled));
    }

    #[test]
    fn a_counted_stream_is_judged_by_its_debt_and_not_by_a_driver_that_always_reads() {
        let driven = after(|e| {
            e.wrote(4);
            e.read(9);
            e.read_is_pending();
        });
        assert_eq!(driven.unfit(Debt::Counted(0), Silent), None);
        assert_eq!(driven.unfit(Debt::Counted(1), Answered), Some(Unfinished));
    }

    #[test]
    fn the_first_taint_stays_and_beats_everything() {
        let tainted = after(|e| {
            e.taint(OpTimeout);
            e.taint(PeerClosed);
            e.write_is_pending();
        });
        assert_eq!(tainted.unfit(Debt::Counted(3), Answered), Some(OpTimeout));
    }
}
