//! [`unread`]: what bytes mean that wait on a connection nobody uses. Pure.

use super::frames::{Frames, Piece};
use livepool::protocol::Verdict;

/// Judges bytes that begin with a message and may end within one.
pub(crate) fn unread(mut bytes: &[u8]) -> Verdict {
    // A type alone already tells.
    let mut frames = Frames::typed();
    while let Some(tag) = bytes.first() {
        match tag {
            // ParameterStatus and NoticeResponse come at any time. So does NotificationResponse, but
            // only to who has subscribed: an idle session has not, as far as anybody knows.
            b'S' | b'N' => {}
            b'E' => return Verdict::PeerCloses,
            _ => return Verdict::Close,
        }
        loop {
            match frames.next(&mut bytes) {
                None | Some(Piece::End) => break,
                Some(Piece::Broken) => return Verdict::Close,
                Some(Piece::Start { .. } | Piece::Body(_)) => {}
            }
        }
    }
    Verdict::Keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Close, Keep, PeerCloses};

    #[test]
    fn only_what_a_server_may_say_unasked_is_harmless() {
        let table: [(&[u8], Verdict); 10] = [
            (b"", Keep),
            (b"A", Close),
            (b"N\0\0\0\x05\0", Keep),
            (b"N\0\0\x10\0rest is cut", Keep),
            (b"S\0\0\0\x08a\0b\0N\0\0\0\x05\0N\0\0", Keep),
            (b"E\0\0\0\x10", PeerCloses),
            (b"N\0\0\0\x05\0E", PeerCloses),
            (b"Z\0\0\0\x05I", Close),
            (b"N\0\0\0\x05\0D", Close),
            (b"N\0\0\0\x01", Close),
        ];
        for (bytes, expected) in table {
            assert_eq!(unread(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
