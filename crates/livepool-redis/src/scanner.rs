//! [`RedisScanner`]: reads along with a Redis client, RESP2 or RESP3. Pure.

use std::collections::VecDeque;

use livepool::protocol::Verdict;

use super::command::CommandKind;
use super::command_parser::CommandParser;
use super::line::Word;
use super::reply_parser::{ReplyParser, ServerMessage};

/// Follows both directions of one connection, from its first byte.
///
/// An effect on the session counts from the moment a command is sent, and until the server has
/// confirmed that it is undone.
#[derive(Debug)]
pub(crate) struct RedisScanner {
    commands: CommandParser,
    replies: ReplyParser,
    pending: PendingReplies,
    is_subscribed: bool,
    is_streaming: bool,
    /// Whether a command that is not counted may be answered as RESET is.
    is_reset_unclear: bool,
    in_transaction: bool,
    is_watching: bool,
    /// Whether ASKING was sent, and not yet what it is about.
    is_asking: bool,
    /// The database; `None` if it cannot be told.
    database: Option<u32>,
    /// The database that the handshake chose.
    first_database: Option<u32>,
    is_handshake_over: bool,
    /// Whether the handshake set the user or the protocol.
    had_identity: bool,
    is_identity_changed: bool,
    is_lost: bool,
}

impl RedisScanner {
    pub(crate) fn new() -> Self {
        Self {
            commands: CommandParser::new(),
            replies: ReplyParser::new(),
            pending: PendingReplies::default(),
            is_subscribed: false,
            is_streaming: false,
            is_reset_unclear: false,
            in_transaction: false,
            is_watching: false,
            is_asking: false,
            database: Some(0),
            first_database: Some(0),
            is_handshake_over: false,
            had_identity: false,
            is_identity_changed: false,
            is_lost: false,
        }
    }

    /// Ends the handshake: the session as it is now is the one that every user has to find.
    pub(crate) fn handshake_done(&mut self) {
        self.is_handshake_over = true;
        self.first_database = self.database;
        self.had_identity = std::mem::take(&mut self.is_identity_changed);
    }

    /// The user, the name and the protocol are what every user has to find.
    pub(crate) fn settle_identity(&mut self) {
        self.had_identity |= std::mem::take(&mut self.is_identity_changed);
    }

    /// The number of answers that are owed. A command half sent counts as one.
    pub(crate) fn owed(&self) -> usize {
        self.pending.owed() + usize::from(self.commands.is_within_command())
    }

    /// Whether the next answer may take as long as the client said in its command.
    pub(crate) fn is_blocking_owed(&self) -> bool {
        self.pending.first() == Some(CommandKind::Blocking)
    }

    /// Whether the client has subscribed or unsubscribed: answers are not counted until RESET.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    /// Whether the client monitors the server: answers are not counted until RESET.
    pub(crate) fn is_streaming(&self) -> bool {
        self.is_streaming
    }

    /// Whether MULTI was sent, and neither EXEC nor DISCARD has ended it.
    pub(crate) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    pub(crate) fn is_watching(&self) -> bool {
        self.is_watching
    }

    /// Whether the database is, or may be, another one than the handshake chose.
    pub(crate) fn is_database_changed(&self) -> bool {
        self.database.is_none() || self.database != self.first_database
    }

    /// Whether the user or the protocol is, or may be, another one than the handshake chose.
    pub(crate) fn is_identity_changed(&self) -> bool {
        self.is_handshake_over && (self.is_identity_changed || self.is_asking)
    }

    /// Whether the connection must not be reused, because it ended or because something on it was
    /// not understood.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost || self.commands.is_broken() || self.replies.is_broken()
    }

    /// Takes the oldest error code that arrived since the last call, each kind once.
    pub(crate) fn take_error(&mut self) -> Option<Word> {
        self.replies.take_error()
    }

    /// The most bytes that the client had to hold for one answer since the last call. An answer
    /// under way counts as far as it is announced.
    pub(crate) fn longest(&mut self) -> u64 {
        self.replies.longest()
    }

    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(kind) = self.commands.next(&mut bytes) {
            self.on_command(kind);
        }
    }

    fn on_command(&mut self, kind: CommandKind) {
        self.is_asking = match kind {
            CommandKind::Asking => true,
            CommandKind::Exec | CommandKind::Discard => false,
            CommandKind::Multi => self.is_asking,
            _ => self.is_asking && self.in_transaction,
        };
        match kind {
            CommandKind::Subscribe | CommandKind::Monitor => {
                self.is_subscribed |= kind == CommandKind::Subscribe;
                self.is_streaming |= kind == CommandKind::Monitor;
                // An answer to these may look like that of a later RESET.
                self.is_reset_unclear |= self.pending.owed() > 0;
                // Messages come between the answers from here on, so they are not counted.
                self.pending.clear();
                return;
            }
            CommandKind::Multi => self.in_transaction = true,
            CommandKind::Watch => self.is_watching = true,
            CommandKind::Identity => self.is_identity_changed = true,
            CommandKind::Uncountable => self.is_lost = true,
            _ => {}
        }
        let kind = match kind {
            // Within a transaction no command waits.
            CommandKind::Blocking if self.in_transaction => CommandKind::Plain,
            kind => kind,
        };
        // What is sent behind a RESET is counted again, if no other answer can be like that one.
        if !self.is_uncounted() || self.pending.owed() > 0 || kind == CommandKind::Reset {
            // The answer to this RESET could not be told from that of another command.
            self.is_lost |= self.is_uncounted() && self.is_reset_unclear;
            self.is_lost |= !self.pending.push(kind);
        } else {
            self.is_reset_unclear = true;
        }
    }

    fn is_uncounted(&self) -> bool {
        self.is_subscribed || self.is_streaming
    }

    pub(crate) fn received(&mut self, mut bytes: &[u8]) {
        while let Some(said) = self.replies.next(&mut bytes) {
            if let ServerMessage::Reply(kind, word) = said {
                self.on_reply(matches!(kind, b'-' | b'!'), word.as_bytes());
            }
        }
    }

    fn on_reply(&mut self, is_error: bool, word: &[u8]) {
        if self.is_uncounted() && (self.pending.owed() == 0 || is_error || word != b"RESET") {
            return;
        }
        match (self.pending.pop(), is_error) {
            // An answer that nobody asked for: every later one would go to the wrong command.
            (None, _) => self.is_lost = true,
            // Any other error leaves the transaction as it is, if there is one.
            (Some(CommandKind::Exec), true) if word == b"EXECABORT" => self.end_transaction(),
            (Some(_), true) => {}
            (Some(kind), false) => self.apply(kind, word == b"QUEUED"),
        }
    }

    fn apply(&mut self, kind: CommandKind, is_queued: bool) {
        match kind {
            // Again at the answer: an earlier EXEC or RESET may have ended the effect since it was
            // sent.
            CommandKind::Multi => self.in_transaction = true,
            CommandKind::Watch => self.is_watching = true,
            CommandKind::Identity => self.is_identity_changed = true,
            CommandKind::Exec | CommandKind::Discard => self.end_transaction(),
            // A queued UNWATCH has no effect before EXEC, which unwatches by itself.
            CommandKind::Unwatch => self.is_watching &= is_queued,
            // A queued SELECT takes effect with EXEC, or never: the database cannot be told.
            CommandKind::Select(database) => self.database = database.filter(|_| !is_queued),
            CommandKind::Reset => {
                self.is_subscribed = false;
                self.is_streaming = false;
                self.is_reset_unclear = false;
                self.end_transaction();
                self.database = Some(0);
                // The login and the protocol of the handshake are gone, too.
                self.is_identity_changed = self.had_identity;
            }
            CommandKind::Plain | CommandKind::Blocking | CommandKind::Asking => {}
            CommandKind::Subscribe | CommandKind::Monitor | CommandKind::Uncountable => {}
        }
    }

    fn end_transaction(&mut self) {
        self.in_transaction = false;
        self.is_watching = false;
    }
}

/// The commands without an answer, in order; a run of equal ones is one entry.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    runs: VecDeque<(CommandKind, usize)>,
    owed: usize,
}

/// The most runs that are kept: 65 536. A client with more in flight is not followed.
const MAX_RUNS: usize = 1 << 16;

impl PendingReplies {
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// The command that is answered next.
    pub(super) fn first(&self) -> Option<CommandKind> {
        self.runs.front().map(|(kind, _)| *kind)
    }

    /// Adds a command. Returns `false` if there is no room.
    #[must_use]
    pub(super) fn push(&mut self, kind: CommandKind) -> bool {
        // Bounded, since a client that never reads could make it grow without end.
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

    /// Forgets all of them: their answers can no longer be counted.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Judges bytes that wait on an idle connection. They begin with a whole message and may end within
/// one.
pub(crate) fn unread(mut bytes: &[u8]) -> Verdict {
    let mut replies = ReplyParser::new();
    loop {
        match replies.next(&mut bytes) {
            // A push is for the client library, which takes it at its next read.
            Some(ServerMessage::Push) => {}
            Some(ServerMessage::Reply(..)) => return Verdict::Close,
            // The beginning of an answer is enough: no command is waiting for one.
            None if replies.is_broken() || replies.is_within_reply() => return Verdict::Close,
            None => return Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Close, Keep};

    #[test]
    fn only_what_a_server_says_unasked_is_harmless() {
        let table: [(&[u8], Verdict); 8] = [
            (b"", Keep),
            (b">", Keep),
            (b">2\r\n$10\r\ninval", Keep),
            (b">1\r\n+a\r\n>1\r\n+b\r\n", Keep),
            (b">1\r\n+a\r\n+OK", Close),
            (b">x\r\n", Close),
            (b"-ERR\r\n", Close),
            (b"*1\r\n", Close),
        ];
        for (bytes, expected) in table {
            assert_eq!(unread(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
