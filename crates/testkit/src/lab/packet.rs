//! An IPv4 packet, as much of it as a fault may depend on.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::flows::Flows;

/// The direction of a packet, as the owner of a link sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Towards the owner of the link.
    In,
    /// From the owner of the link.
    Out,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client's first: may I connect?
    Syn,
    /// The answer to it.
    SynAck,
    /// Carries bytes of the stream, with or without a FIN.
    Data,
    /// Carries nothing and acknowledges: the answer to bytes, or to a probe.
    Ack,
    /// Carries nothing and stands one byte before what was sent last: a keepalive probe, or one for
    /// a closed window, which looks the same.
    Probe,
    /// Says goodbye.
    Fin,
    /// Says that there is no connection.
    Reset,
    /// Not TCP.
    Other,
}

/// One packet on its way over a link.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub way: Way,
    pub kind: Kind,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    /// Bytes of the stream.
    pub payload: usize,
    /// The connection it belongs to: 1 for the first that the network has seen, and so on; 0 for
    /// what is not TCP, or began before the network looked.
    pub connection: u64,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The fields of a TCP header that matter here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: usize,
    flags: u8,
}

impl Segment {
    pub(super) fn acknowledges(&self) -> bool {
        self.flags & ACK != 0
    }

    pub(super) fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// The first of a connection.
    pub(super) fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// The sequence number after this segment. SYN and FIN take one each.
    pub(super) fn end(&self) -> u32 {
        let marks = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.seq.wrapping_add(self.payload as u32).wrapping_add(marks)
    }

    /// `sent_last` is the highest `end` seen from this side before.
    fn kind(&self, sent_last: Option<u32>) -> Kind {
        match self.flags {
            flags if flags & RST != 0 => Kind::Reset,
            flags if flags & (SYN | ACK) == SYN => Kind::Syn,
            flags if flags & SYN != 0 => Kind::SynAck,
            _ if self.payload > 0 => Kind::Data,
            flags if flags & FIN != 0 => Kind::Fin,
            _ if sent_last == Some(self.seq.wrapping_add(1)) => Kind::Probe,
            _ => Kind::Ack,
        }
    }
}

/// An IPv4 packet taken apart; `None` for anything else.
pub(super) struct Parsed {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) segment: Option<Segment>,
}

impl Parsed {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 20 || bytes[0] >> 4 != 4 {
            return None;
        }
        let header = header_length(bytes);
        let body = bytes.get(header..usize::from(word(bytes, 2)))?;
        let first_fragment = word(bytes, 6) & 0x1fff == 0;
        let has_ports = first_fragment && matches!(bytes[9], 6 | 17) && body.len() >= 8;
        let port = |at| if has_ports { word(body, at) } else { 0 };
        Some(Self {
            from: SocketAddrV4::new(address(bytes, 12), port(0)),
            to: SocketAddrV4::new(address(bytes, 16), port(2)),
            segment: (has_ports && bytes[9] == 6).then(|| segment(body)).flatten(),
        })
    }

    /// As the owner of a link sees it. Looks the connection up, and begins a new one.
    pub(super) fn on_its_way(&self, flows: &mut Flows) -> Packet {
        let (from, to) = (self.from, self.to);
        let Some(segment) = self.segment else {
            return Packet {
                way: Way::Out,
                kind: Kind::Other,
                from,
                to,
                payload: 0,
                connection: 0,
            };
        };
        let (connection, sent_last) = flows.see(from, to, &segment);
        let kind = segment.kind(sent_last);
        Packet { way: Way::Out, kind, from, to, payload: segment.payload, connection }
    }
}

/// Of an IPv4 packet.
pub(super) fn header_length(bytes: &[u8]) -> usize {
    usize::from(bytes[0] & 15) * 4
}

fn segment(bytes: &[u8]) -> Option<Segment> {
    let payload = bytes.get(usize::from(bytes.get(12)? >> 4) * 4..)?.len();
    Some(Segment { seq: long(bytes, 4), ack: long(bytes, 8), payload, flags: bytes[13] })
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(long(bytes, at))
}
