//! [`unread`]: what bytes mean that wait on a connection nobody uses. Pure.

use super::replies::{Escaped, Replies};
use livepool::protocol::Unread;

/// Judges bytes that begin with something whole and may end within something.
pub(crate) fn unread(mut bytes: &[u8]) -> Unread {
    let mut replies = Replies::new();
    loop {
        match replies.next(&mut bytes) {
            Some(Escaped::Push) => {}
            Some(Escaped::Reply(..)) => return Unread::Dirty,
            None if replies.is_broken() || replies.is_within_reply() => return Unread::Dirty,
            None => return Unread::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Unread::{Dirty, Keep};

    #[test]
    fn only_what_a_server_says_unasked_is_harmless() {
        let table: [(&[u8], Unread); 8] = [
            (b"", Keep),
            (b">", Keep),
            (b">2\r\n$10\r\ninval", Keep),
            (b">1\r\n+a\r\n>1\r\n+b\r\n", Keep),
            (b">1\r\n+a\r\n+OK", Dirty),
            (b">x\r\n", Dirty),
            (b"-ERR\r\n", Dirty),
            (b"*1\r\n", Dirty),
        ];
        for (bytes, expected) in table {
            assert_eq!(unread(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
