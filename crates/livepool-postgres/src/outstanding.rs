//! [`OutstandingReplies`]: how often the server has still to say ReadyForQuery. Pure.
//!
//! Counting alone would not do. A client may send Sync behind an Execute before it knows that the
//! statement is a COPY; the server ignores it then, and answers the one after the data. So what was
//! sent is remembered until it is answered, one byte for a message.

use std::collections::VecDeque;

/// What the client sent and the server has not dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// A startup, a Query or a FunctionCall: one ReadyForQuery.
    Request,
    /// Messages of the extended protocol: none, until a Sync.
    Extended,
    /// One ReadyForQuery, unless it comes while the server wants data.
    Sync,
    /// The end of the data of a COPY, sent before the server asked for data.
    CopyEnd,
}

/// Where a COPY from the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyState {
    None,
    /// The server wants data.
    AwaitsData,
    /// The client sent all of it, the server has not said that it is content.
    Ended,
}

/// A client with more in flight is not followed.
const MAX_SENT: usize = 1 << 18;

#[derive(Debug)]
pub(super) struct OutstandingReplies {
    sent: VecDeque<Sent>,
    /// How many of them are answered by a ReadyForQuery.
    replies: usize,
    /// There is work that no Sync follows.
    is_unsynced: bool,
    copy: CopyState,
    /// How many Syncs were taken for ignored in this COPY.
    ignored: usize,
    /// So many of those of a COPY that failed: the server answers what it had not read before that.
    unsure: usize,
    /// Nothing has answered a Sync since then.
    is_failing: bool,
    is_lost: bool,
}

impl OutstandingReplies {
    pub(super) fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            replies: 0,
            is_unsynced: false,
            copy: CopyState::None,
            ignored: 0,
            unsure: 0,
            is_failing: false,
            is_lost: false,
        }
    }

    pub(super) fn owed(&self) -> usize {
        self.replies + usize::from(self.is_unsynced)
    }

    /// How often the server has still to say that it is ready.
    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    /// What the server deals with now are messages of the extended protocol.
    pub(super) fn is_extended(&self) -> bool {
        self.sent.front() == Some(&Sent::Extended)
    }

    /// The server waits for data, and owes nothing until it has it.
    pub(super) fn awaits_client(&self) -> bool {
        self.copy == CopyState::AwaitsData
    }

    /// What is owed cannot be told any more.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// How many ReadyForQuery come for a COPY that failed is known within one: one more may come than
    /// are counted. The beginning of the next answer shows that none does.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure > 0 && !self.is_failing
    }

    /// An answer begins, or goes on: all Syncs before what it answers have been answered.
    pub(super) fn reply_begins(&mut self) {
        if !self.is_failing {
            self.unsure = 0;
        }
    }

    /// The client sent a startup, a Query or a FunctionCall. Behind work without a Sync it is
    /// answered if the work succeeds, and ignored if not: no client does that.
    pub(super) fn request_sent(&mut self) {
        self.is_lost |= self.is_unsynced || self.copy == CopyState::AwaitsData;
        self.replies += 1;
        self.push(Sent::Request);
    }

    /// The client sent a message of the extended protocol. In the middle of a COPY, before the Sync
    /// that ends it, it makes that fail, or is ignored, or neither: no client does that.
    pub(super) fn extended_sent(&mut self) {
        let in_copy = self.copy != CopyState::None || self.is_failing;
        let is_copys = in_copy && self.is_unsynced && self.replies == 0;
        self.is_lost |= self.copy == CopyState::AwaitsData || is_copys;
        self.is_unsynced = true;
        if self.sent.back() != Some(&Sent::Extended) {
            self.push(Sent::Extended);
        }
    }

    pub(super) fn sync_sent(&mut self) {
        if self.copy == CopyState::AwaitsData {
            self.ignored += 1;
        } else {
            self.is_unsynced = false;
            self.replies += 1;
            self.push(Sent::Sync);
        }
    }

    /// The client sent CopyDone or CopyFail. Without a COPY it means nothing: the server drops it.
    pub(super) fn copy_end_sent(&mut self) {
        if self.copy == CopyState::AwaitsData {
            self.copy = CopyState::Ended;
        } else if !self.sent.is_empty() {
            self.push(Sent::CopyEnd);
        }
    }

    /// The server wants data. What was sent behind the statement it has ignored, or is the data.
    pub(super) fn copy_in_response(&mut self) {
        let mut at = match self.sent.front() {
            Some(Sent::Request) => 1,
            Some(Sent::Extended) => {
                self.sent.iter().take_while(|sent| **sent == Sent::Extended).count()
            }
            _ => 0,
        };
        self.is_lost |= at == 0 || self.copy == CopyState::AwaitsData;
        self.copy = CopyState::AwaitsData;
        while self.copy == CopyState::AwaitsData && at < self.sent.len() {
            match self.sent.remove(at) {
                Some(Sent::Sync) => {
                    self.replies -= 1;
                    self.ignored += 1;
                }
                Some(Sent::CopyEnd) => self.copy = CopyState::Ended,
                // A request in the middle of a COPY makes it fail.
                _ => {
                    self.is_lost = true;
                    at = self.sent.len();
                }
            }
        }
        // Nor does anybody ask for more behind the data and before the Sync that ends it.
        let mut behind = self.sent.iter().skip(at).filter(|sent| **sent != Sent::CopyEnd);
        let asks = matches!(behind.next(), Some(Sent::Extended | Sent::Request));
        self.is_lost |= asks && self.sent.front() == Some(&Sent::Extended);
        let last = self.sent.iter().rfind(|sent| **sent != Sent::CopyEnd);
        self.is_unsynced = last == Some(&Sent::Extended);
    }

    /// A statement is complete.
    pub(super) fn command_complete(&mut self) {
        self.copy = CopyState::None;
        self.ignored = 0;
    }

    /// A statement failed.
    pub(super) fn error_response(&mut self) {
        if self.copy != CopyState::None && self.ignored > 0 {
            // Behind another failure nobody could tell whose it is.
            self.is_lost |= self.unsure > 0;
            self.unsure = self.ignored;
            self.is_failing = true;
        }
        self.command_complete();
    }

    /// The server is ready for a query.
    pub(super) fn ready_for_query(&mut self) {
        let is_first = std::mem::take(&mut self.is_failing);
        self.command_complete();
        // Every request is answered but a bare Sync: this one is not its.
        self.is_lost |= self.unsure > 0 && !is_first && self.next_is_answered();
        if self.unsure > 0 && self.replies == 0 {
            // It was for a Sync that seemed ignored: it was read behind the failure, after all.
            self.unsure -= 1;
            self.sent.clear();
            self.is_unsynced = false;
            return;
        }
        while let Some(sent) = self.sent.pop_front() {
            if matches!(sent, Sent::Request | Sent::Sync) {
                self.replies -= 1;
                while self.sent.front() == Some(&Sent::CopyEnd) {
                    self.sent.pop_front();
                }
                return;
            }
        }
        self.is_unsynced = false;
        self.is_lost = true;
    }

    /// Something comes before the next ReadyForQuery that is owed.
    fn next_is_answered(&self) -> bool {
        matches!(self.sent.front(), Some(Sent::Request | Sent::Extended))
    }

    fn push(&mut self, sent: Sent) {
        if self.sent.len() < MAX_SENT {
            self.sent.push_back(sent);
        } else {
            self.is_lost = true;
        }
    }
}
