//! How many packets an interface keeps.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

/// Sets the length of an interface's transmit queue, by rtnetlink(7). The ioctl for it asks for more
/// than an ordinary user has in a namespace of its own.
pub(super) fn set_length(interface: &str, packets: u32) -> io::Result<()> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.send(&request(interface, packets))?;
    // A header of 16 bytes, the error number, and what was asked.
    let mut answer = [0; 20];
    (&socket).read_exact(&mut answer)?;
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// A header, a description of the interface (all zero: its name says which), and attributes.
fn request(interface: &str, packets: u32) -> Vec<u8> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let mut message = vec![0; 4];
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8 + size_of::<libc::ifinfomsg>()]);
    attribute(&mut message, libc::IFLA_IFNAME, format!("{interface}\0").as_bytes());
    attribute(&mut message, libc::IFLA_TXQLEN, &packets.to_ne_bytes());
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

fn attribute(message: &mut Vec<u8>, name: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(name.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
