//! [`OutstandingReplies`]: the number of ReadyForQuery that the server still owes. Pure.
//!
//! A counter alone would not do. A client may send Sync behind an Execute before it knows that the
//! statement is a COPY; the server ignores that Sync, and answers the one after the data. So
//! messages are remembered until they are answered, one byte for each. The rules are those of
//! PostgreSQL's documentation, "Message Flow", sections "Extended Query", "COPY Operations" and
//! "Pipelining".

use std::collections::VecDeque;

/// A message that the client sent and the server has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// A StartupMessage, a Query or a FunctionCall: one ReadyForQuery.
    Request,
    /// Messages of the extended protocol in a row: no ReadyForQuery, until a Sync.
    Extended,
    /// A Sync: one ReadyForQuery, unless it arrives while the server wants data.
    Sync,
    /// A CopyDone or a CopyFail, sent before the server asked for data.
    CopyEnd,
}

/// The state of a COPY from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyState {
    None,
    /// The server has sent CopyInResponse, and wants data.
    AwaitsData,
    /// The client has sent all data, and the server has not sent CommandComplete.
    Ended,
}

/// The number of messages that are remembered. A client with more of them unanswered is not
/// followed.
const MAX_SENT: usize = 1 << 18;

#[derive(Debug)]
pub(super) struct OutstandingReplies {
    sent: VecDeque<Sent>,
    /// The number of ReadyForQuery that `sent` is answered with.
    replies: usize,
    /// Whether the last messages of the extended protocol have no Sync behind them.
    is_unsynced: bool,
    copy: CopyState,
    /// The number of Syncs that were taken for ignored in this COPY.
    ignored: usize,
    /// The number of them in a COPY that failed: those that the server had not read before it
    /// failed are answered after all.
    unsure: usize,
    /// Whether no ReadyForQuery has come since that failure.
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

    /// The number of ReadyForQuery that are owed for certain.
    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    /// Whether the server deals with messages of the extended protocol now.
    pub(super) fn is_extended(&self) -> bool {
        self.sent.front() == Some(&Sent::Extended)
    }

    /// Whether the server waits for the data of a COPY, and owes nothing until then.
    pub(super) fn awaits_client(&self) -> bool {
        self.copy == CopyState::AwaitsData
    }

    /// Whether the number that is owed cannot be told any more.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether one ReadyForQuery more may come than is counted, for a COPY that failed. The
    /// beginning of the next reply shows that none does.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure > 0 && !self.is_failing
    }

    /// Notes that a reply begins, or goes on: all Syncs before its request have been answered.
    pub(super) fn reply_begins(&mut self) {
        if !self.is_failing {
            self.unsure = 0;
        }
    }

    /// Notes a StartupMessage, a Query or a FunctionCall of the client.
    pub(super) fn request_sent(&mut self) {
        // Behind messages without a Sync a Query is answered if they succeed, and skipped if not ("Extended
        // Query": the server reads and discards until a Sync). In a COPY it makes the COPY fail. No
        // client does either.
        self.is_lost |= self.is_unsynced || self.copy == CopyState::AwaitsData;
        self.replies += 1;
        self.push(Sent::Request);
    }

    /// Notes a message of the extended protocol.
    pub(super) fn extended_sent(&mut self) {
        // In the middle of a COPY, before the Sync that ends it, the message makes the COPY fail, or is
        // skipped, or neither: it depends on how far the server has read. No client does that.
        let in_copy = self.copy != CopyState::None || self.is_failing;
        let is_copys = in_copy && self.is_unsynced && self.replies == 0;
        self.is_lost |= self.copy == CopyState::AwaitsData || is_copys;
        self.is_unsynced = true;
        // One entry for all in a row: only their Sync is answered with ReadyForQuery.
        if self.sent.back() != Some(&Sent::Extended) {
            self.push(Sent::Extended);
        }
    }

    pub(super) fn sync_sent(&mut self) {
        if self.copy == CopyState::AwaitsData {
            // "COPY Operations": in copy-in mode the backend ignores Flush and Sync.
            self.ignored += 1;
        } else {
            self.is_unsynced = false;
            self.replies += 1;
            self.push(Sent::Sync);
        }
    }

    /// Notes a CopyDone or a CopyFail of the client.
    pub(super) fn copy_end_sent(&mut self) {
        if self.copy == CopyState::AwaitsData {
            self.copy = CopyState::Ended;
        } else if !self.sent.is_empty() {
            // A client that knows its statement sends the data without waiting for CopyInResponse. Where
            // nothing is unanswered there can be no COPY, and the server drops the message.
            self.push(Sent::CopyEnd);
        }
    }

    /// Notes a CopyInResponse. The server has ignored the Syncs that were sent behind the
    /// statement.
    pub(super) fn copy_in_response(&mut self) {
        // The statement that copies stands in front; `at` is where the messages behind it begin.
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
                // Counted when it was sent, when nobody knew of the COPY.
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

    /// Notes a CommandComplete, or another end of a statement.
    pub(super) fn command_complete(&mut self) {
        self.copy = CopyState::None;
        self.ignored = 0;
    }

    /// Notes an ErrorResponse.
    pub(super) fn error_response(&mut self) {
        // A Sync that the server read before the COPY failed was ignored, and one that it reads afterwards is
        // answered ("COPY Operations": it is back to normal then, or discards until a Sync). Nothing on the
        // wire tells which: so many of them may be answered after all.
        if self.copy != CopyState::None && self.ignored > 0 {
            // Behind another failure nobody could tell whose it is.
            self.is_lost |= self.unsure > 0;
            self.unsure = self.ignored;
            self.is_failing = true;
        }
        self.command_complete();
    }

    /// Notes a ReadyForQuery.
    pub(super) fn ready_for_query(&mut self) {
        let is_first = std::mem::take(&mut self.is_failing);
        self.command_complete();
        // Every request is answered but a bare Sync: this one is not its.
        self.is_lost |= self.unsure > 0 && !is_first && self.next_is_answered();
        // A ReadyForQuery more than is owed.
        if self.unsure > 0 && self.replies == 0 {
            // It was for a Sync that seemed ignored: it was read behind the failure, after all.
            self.unsure -= 1;
            self.sent.clear();
            self.is_unsynced = false;
            return;
        }
        while let Some(sent) = self.sent.pop_front() {
            // Messages of the extended protocol in front are answered with their Sync.
            if matches!(sent, Sent::Request | Sent::Sync) {
                self.replies -= 1;
                // A CopyDone of a statement that did not copy: the server has dropped it.
                while self.sent.front() == Some(&Sent::CopyEnd) {
                    self.sent.pop_front();
                }
                return;
            }
        }
        // Nobody has asked for this one.
        self.is_unsynced = false;
        self.is_lost = true;
    }

    /// Whether other messages come before the next ReadyForQuery that is owed.
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
