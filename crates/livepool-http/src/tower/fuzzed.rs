//! A property of what is understood of the bytes that were written.

use super::request_tracker::RequestTracker;
use livepool::fuzzed::{Property, cut, pieces, ways};

/// All of this crate.
pub fn all() -> Vec<Property> {
    vec![Property {
        name: "tower-asked",
        holds: what_was_written_is_understood_the_same_in_pieces_of_any_size,
        seeds: &[
            b"\x92GET / HTTP/1.1\r\n\r\n",
            b"\xb0POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nfour\x01xGET /",
            b"\xd0PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"\x83\x16\x03\x01\x01x\x83\x16\x03\x03",
            b"\x98PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    }]
}

fn what_was_written_is_understood_the_same_in_pieces_of_any_size(input: &[u8]) {
    let understood = ways(input).map(|mut size| {
        let mut requests = RequestTracker::default();
        let turn = |(is_ours, piece): (bool, &[u8])| {
            match is_ours {
                true => cut(piece, &mut size, |part| requests.note_write(part)),
                false => requests.note_read(),
            }
            requests.is_reply_owed()
        };
        pieces(input).into_iter().map(turn).collect::<Vec<_>>()
    });
    assert!(understood.iter().all(|turns| *turns == understood[0]), "{understood:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_parses_bytes_holds_its_properties_for_some_thousand_inputs() {
        livepool::fuzzed::check(&super::all());
    }
}
