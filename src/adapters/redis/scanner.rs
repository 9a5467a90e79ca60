//! Reads along with a Redis client: what is owed, and what state the next user would inherit.

use std::collections::VecDeque;

use super::resp::{Commands, Lost, Replies, Reply, Words};
use crate::stream::{Consequence, Scanner};

/// How the next user would find a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// Between MULTI and EXEC or DISCARD.
    pub(super) in_transaction: bool,
    pub(super) is_watching: bool,
    /// It subscribes or monitors, or its user, database or replies are not those it began with, or
    /// something was said that is not understood: nothing cheap makes it as it was.
    pub(super) is_spoilt: bool,
}

/// Counts replies against commands. See <https://redis.io/docs/latest/commands/>.
#[derive(Debug, Default)]
pub(super) struct RedisScanner {
    commands: Commands,
    replies: Replies,
    /// For every reply that is owed, whether its command waits for something.
    owed: VecDeque<bool>,
    /// Replies come in numbers that nobody can foretell.
    is_subscribed: bool,
    /// The pool's own commands at the beginning are over.
    is_begun: bool,
    session: Session,
    consequence: Option<Consequence>,
}

impl RedisScanner {
    /// What has been said so far made the connection what it is to be.
    pub(super) fn begin(&mut self) {
        self.is_begun = true;
        self.session = Session::default();
    }

    pub(super) fn session(&self) -> Session {
        self.session
    }

    /// Whether a command that waits for something is not answered yet.
    pub(super) fn waits(&self) -> bool {
        self.owed.contains(&true)
    }

    fn command(&mut self, words: &Words) {
        let session = &mut self.session;
        let mut waits = false;
        match words.get(0) {
            b"MULTI" => session.in_transaction = true,
            b"EXEC" | b"DISCARD" => {
                session.in_transaction = false;
                session.is_watching = false;
            }
            b"WATCH" => session.is_watching = true,
            b"UNWATCH" => session.is_watching = false,
            b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE"
            | b"SUNSUBSCRIBE" | b"MONITOR" | b"PSYNC" | b"SYNC" => {
                session.is_spoilt = true;
                self.is_subscribed = true;
            }
            b"SELECT" | b"AUTH" | b"HELLO" | b"RESET" | b"QUIT" | b"READONLY" | b"READWRITE"
            | b"ASKING" => session.is_spoilt = true,
            b"CLIENT" => match words.get(1) {
                b"REPLY" => {
                    session.is_spoilt = true;
                    self.is_subscribed = true;
                }
                b"TRACKING" | b"CACHING" | b"NO-EVICT" | b"NO-TOUCH" | b"SETNAME" => {
                    session.is_spoilt = true;
                }
                _ => {}
            },
            b"BLPOP" | b"BRPOP" | b"BRPOPLPUSH" | b"BLMOVE" | b"BLMPOP" | b"BZPOPMIN"
            | b"BZPOPMAX" | b"BZMPOP" | b"WAIT" | b"WAITAOF" => waits = true,
            b"XREAD" | b"XREADGROUP" => waits = words.has(b"BLOCK"),
            _ => {}
        }
        self.owed.push_back(waits);
    }

    fn reply(&mut self, reply: Reply<'_>) {
        if reply == Reply::Push {
            return;
        }
        if self.owed.pop_front().is_none() && !self.is_subscribed {
            self.session.is_spoilt = true;
        }
        let Reply::Error(word) = reply else { return };
        let consequence = consequence_of(word);
        if consequence != Consequence::Keep && self.is_begun {
            self.consequence = Some(consequence);
        }
    }

    fn is_lost(&mut self, result: Result<(), Lost>) {
        if result.is_err() {
            self.session.is_spoilt = true;
            self.is_subscribed = true;
        }
    }
}

/// What an error of the server says about its connections, by its first word.
pub(super) fn consequence_of(word: &[u8]) -> Consequence {
    match word {
        // A replica now: the primary is elsewhere.
        b"READONLY" => Consequence::Invalidate,
        // It has restarted, or lost its primary: others may be better.
        b"LOADING" | b"MASTERDOWN" | b"NOAUTH" => Consequence::Evict,
        _ => Consequence::Keep,
    }
}

impl Scanner for RedisScanner {
    fn sent(&mut self, bytes: &[u8]) {
        let mut commands = std::mem::take(&mut self.commands);
        let result = commands.read(bytes, |words| self.command(words));
        self.commands = commands;
        self.is_lost(result);
    }

    fn received(&mut self, bytes: &[u8]) {
        let mut replies = std::mem::take(&mut self.replies);
        let result = replies.read(bytes, |reply| self.reply(reply));
        self.replies = replies;
        self.is_lost(result);
    }

    fn owed(&self) -> usize {
        if self.is_subscribed { 0 } else { self.owed.len() }
    }

    fn is_patient(&self) -> bool {
        self.owed.front() == Some(&true)
    }

    fn consequence(&mut self) -> Consequence {
        self.consequence.take().unwrap_or(Consequence::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
        }
        bytes
    }

    /// Feeds the same bytes whole, byte by byte, and in pieces of every size up to 9.
    fn each_way(sent: &[u8], received: &[u8], check: impl Fn(&RedisScanner)) {
        for size in (1..10).chain([usize::MAX]) {
            let mut scanner = RedisScanner::default();
            scanner.begin();
            sent.chunks(size.min(sent.len().max(1))).for_each(|piece| scanner.sent(piece));
            received
                .chunks(size.min(received.len().max(1)))
                .for_each(|piece| scanner.received(piece));
            check(&scanner);
        }
    }

    #[test]
    fn every_kind_of_reply_answers_one_command() {
        let replies: [&[u8]; 21] = [
            b"+OK\r\n",
            b"-ERR no such thing\r\n",
            b":-42\r\n",
            b"$5\r\nhe\r\nl\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n+a\r\n*2\r\n$1\r\nb\r\n:1\r\n",
            b"_\r\n",
            b",3.14\r\n",
            b"#t\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!5\r\nERR x\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b"%0\r\n",
            b"|1\r\n+ttl\r\n:7\r\n*1\r\n+a\r\n",
            b"*3\r\n*0\r\n*1\r\n*0\r\n$-1\r\n",
            b"+a line that is much longer than what is kept of a line, and then some more of it\r\n",
        ];
        for reply in replies {
            let text = String::from_utf8_lossy(reply).into_owned();
            let (sent, twice) = (command(&["GET", "k"]), command(&["GET", "k"]).repeat(2));
            each_way(&twice, reply, |scanner| assert_eq!(scanner.owed(), 1, "{text:?}"));
            each_way(&sent, reply, |scanner| {
                assert_eq!(
                    (scanner.owed(), scanner.session()),
                    (0, Session::default()),
                    "{text:?}"
                );
            });
            each_way(b"", reply, |scanner| assert!(scanner.session().is_spoilt, "{text:?}"));
            let cut = &reply[..reply.len() - 1];
            each_way(&sent, cut, |scanner| assert_eq!(scanner.owed(), 1, "{text:?}"));
        }
    }

    #[test]
    fn what_is_pushed_answers_nothing() {
        let push = b">3\r\n+message\r\n+news\r\n$5\r\nhello\r\n";
        each_way(&command(&["GET", "k"]), push, |scanner| {
            assert_eq!((scanner.owed(), scanner.session()), (1, Session::default()));
        });
    }

    #[test]
    fn a_command_is_owed_from_its_last_byte_on() {
        let whole = command(&["SET", "key", &"v".repeat(1000)]);
        each_way(&whole, b"", |scanner| assert_eq!(scanner.owed(), 1));
        each_way(&whole[..whole.len() - 1], b"", |scanner| assert_eq!(scanner.owed(), 0));
    }

    #[test]
    fn what_the_next_user_would_inherit_is_known() {
        let after = |sessions: &[&[&str]]| {
            let mut scanner = RedisScanner::default();
            scanner.begin();
            for words in sessions {
                scanner.sent(&command(words));
                scanner.received(b"+OK\r\n");
            }
            scanner.session()
        };
        let clean = Session::default();
        assert!(after(&[&["multi"]]).in_transaction);
        assert_eq!(after(&[&["MULTI"], &["SET", "a", "b"], &["EXEC"]]), clean);
        assert_eq!(after(&[&["WATCH", "a"], &["MULTI"], &["DISCARD"]]), clean);
        assert!(after(&[&["WATCH", "a"]]).is_watching);
        assert_eq!(after(&[&["WATCH", "a"], &["UNWATCH"]]), clean);
        for spoils in [
            &["SELECT", "3"][..],
            &["subscribe", "news"],
            &["MONITOR"],
            &["CLIENT", "REPLY", "OFF"],
            &["CLIENT", "TRACKING", "ON"],
            &["AUTH", "x"],
        ] {
            assert!(after(&[spoils]).is_spoilt, "{spoils:?}");
        }
        assert_eq!(after(&[&["CLIENT", "ID"], &["GET", "SELECT"]]), clean);
    }

    #[test]
    fn only_a_command_that_waits_may_take_its_time() {
        let mut scanner = RedisScanner::default();
        for (words, waits) in [
            (&["BLPOP", "list", "0"][..], true),
            (&["XREAD", "COUNT", "2", "BLOCK", "0", "STREAMS", "s", "$"], true),
            (&["XREAD", "STREAMS", "s", "0"], false),
            (&["GET", "BLPOP"], false),
        ] {
            scanner.sent(&command(words));
            assert_eq!(scanner.is_patient(), waits, "{words:?}");
            scanner.received(b"+x\r\n");
        }
        // The one that comes first is the one that is waited for.
        scanner.sent(&command(&["GET", "a"]));
        scanner.sent(&command(&["BLPOP", "list", "0"]));
        assert!(!scanner.is_patient() && scanner.waits());
    }

    #[test]
    fn errors_that_concern_the_connection_are_told_once() {
        let mut scanner = RedisScanner::default();
        scanner.begin();
        let mut after = |reply: &[u8]| {
            scanner.sent(&command(&["SET", "a", "b"]));
            scanner.received(reply);
            (scanner.consequence(), scanner.consequence())
        };
        let keep = Consequence::Keep;
        assert_eq!(after(b"-ERR x\r\n"), (keep, keep));
        let readonly = b"-READONLY You can't write against a read only replica.\r\n";
        assert_eq!(after(readonly), (Consequence::Invalidate, keep));
        assert_eq!(after(b"-LOADING Redis is loading\r\n"), (Consequence::Evict, keep));
        // Inside a reply it is the reply's business.
        assert_eq!(after(b"*1\r\n-READONLY x\r\n"), (keep, keep));
    }

    #[test]
    fn garbage_spoils_the_connection_and_nothing_else() {
        fastrand::seed(7);
        for _ in 0..2_000 {
            let mut scanner = RedisScanner::default();
            let bytes: Vec<u8> = (0..fastrand::usize(1..200))
                .map(|_| b"*$+-:%>|_\r\n0123456789-ab\xff"[fastrand::usize(0..25)])
                .collect();
            scanner.sent(&bytes);
            scanner.received(&bytes);
            assert!(scanner.owed() <= bytes.len());
        }
        for deep in [b"*1\r\n".repeat(100_000), b"$99999999999999999999\r\n".to_vec()] {
            let mut scanner = RedisScanner::default();
            scanner.received(&deep);
            assert!(scanner.session().is_spoilt);
        }
    }
}
