//! The TCP connections the network has seen.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use super::packet::Segment;

/// Both ends, the smaller address first.
type Ends = (SocketAddrV4, SocketAddrV4);

#[derive(Default)]
pub(super) struct Flows {
    known: HashMap<Ends, Flow>,
    count: u64,
}

#[derive(Default)]
struct Flow {
    number: u64,
    /// What comes after the last byte sent, by the smaller address and by the other.
    sent: [Option<u32>; 2],
}

impl Flows {
    /// How many there have been.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes a segment. Gives the number of its connection, and what its sender had sent before.
    pub(super) fn see(
        &mut self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        segment: &Segment,
    ) -> (u64, Option<u32>) {
        let flow = self.known.entry((from.min(to), from.max(to))).or_default();
        let side = usize::from(from > to);
        // A SYN sent again is not a new connection.
        if segment.opens() && flow.sent[side] != Some(segment.end()) {
            self.count += 1;
            *flow = Flow { number: self.count, sent: [None; 2] };
        }
        let before = flow.sent[side];
        let newer = |before: u32| (segment.end().wrapping_sub(before) as i32) > 0;
        if before.is_none_or(newer) && !segment.is_reset() {
            flow.sent[side] = Some(segment.end());
        }
        (flow.number, before)
    }
}
