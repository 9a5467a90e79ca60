//! [`unread`]: what bytes mean that wait on a connection nobody uses. Pure.

use super::reply_parser::{ReplyParser, ServerMessage};
use livepool::protocol::Verdict;

/// Judges bytes that begin with something whole and may end within something.
pub(crate) fn unread(mut bytes: &[u8]) -> Verdict {
    let mut replies = ReplyParser::new();
    loop {
        match replies.next(&mut bytes) {
            Some(ServerMessage::Push) => {}
            Some(ServerMessage::Reply(..)) => return Verdict::Close,
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
