//! What a network answers instead of delivering a packet.

use std::net::Ipv4Addr;

use super::packet::{Parsed, header_length};

/// The router that refuses; no host has this address.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);

const ICMP: u8 = 1;
const TCP: u8 = 6;

/// ICMP destination unreachable: the host is.
pub(super) const HOST_UNREACHABLE: u8 = 1;
/// ICMP destination unreachable: a firewall says no.
pub(super) const PROHIBITED: u8 = 13;

/// The RST that a host without this connection sends (RFC 9293, 3.10.7.1). `None` for what is
/// answered with none.
pub(super) fn reset(packet: &Parsed) -> Option<Vec<u8>> {
    let segment = packet.segment.filter(|segment| !segment.is_reset())?;
    let (seq, ack, flags) = match segment.acknowledges() {
        true => (segment.ack, 0, 4),
        false => (0, segment.end(), 4 | 16),
    };
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(packet.to.port().to_be_bytes());
    tcp.extend(packet.from.port().to_be_bytes());
    tcp.extend(u32::to_be_bytes(seq));
    tcp.extend(u32::to_be_bytes(ack));
    tcp.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let mut pseudo = Vec::with_capacity(32);
    pseudo.extend(packet.to.ip().octets());
    pseudo.extend(packet.from.ip().octets());
    pseudo.extend([0, TCP, 0, tcp.len() as u8]);
    pseudo.extend(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&pseudo));
    Some(internet(TCP, *packet.to.ip(), *packet.from.ip(), &tcp))
}

/// ICMP destination unreachable, with this code (RFC 792).
pub(super) fn unreachable(code: u8, packet: &Parsed, bytes: &[u8]) -> Option<Vec<u8>> {
    // Never about ICMP, or two could go on for ever.
    if bytes[9] == ICMP {
        return None;
    }
    let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
    icmp.extend(&bytes[..bytes.len().min(header_length(bytes) + 8)]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    Some(internet(ICMP, ROUTER, *packet.from.ip(), &icmp))
}

fn internet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::to_be_bytes(20 + body.len() as u16));
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(body);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
