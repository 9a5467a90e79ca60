//! Properties of what reads frames.

use std::sync::Arc;

use super::frames::{FrameScanner, Said, unread};
use livepool::fuzzed::Property;
use livepool::protocol::{Scanner, Verdict};

pub(crate) const FRAMES: Property = Property {
    name: "http2-frames",
    holds: however_frames_are_cut_the_same_is_known_of_them,
    seeds: &[
        b"\x07\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
        b"\x01\0\0\x08\x07\0\0\0\0\0\0\0\0\x03\0\0\0\x0b",
        b"\x05\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x03\xff\xff\xff\0\0\0\0\0\x01HTTP/1.1 400",
    ],
};

/// The first byte says how the rest is cut.
fn however_frames_are_cut_the_same_is_known_of_them(input: &[u8]) {
    let Some((size, bytes)) = input.split_first() else { return };
    let known = |size: usize| {
        let said = Arc::<Said>::default();
        let mut scanner = FrameScanner::new(&said);
        let mut verdicts = Vec::new();
        for piece in bytes.chunks(size) {
            scanner.sent(piece);
            scanner.received(piece);
            verdicts.extend(Some(scanner.verdict()).filter(|verdict| *verdict != Verdict::Keep));
        }
        verdicts.truncate(1);
        (format!("{said:?}"), scanner.code(), verdicts)
    };
    assert_eq!(known(usize::from(*size).max(1)), known(bytes.len().max(1)));
    assert!(matches!(unread(bytes), Verdict::Keep | Verdict::PeerCloses));
}
