//! Putting socket options on a socket, and what becomes of those that cannot be set.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;

use crate::config::{SocketOption, SocketSettings};
use crate::sys::sockopt::{self, Outcome, Refusal};

/// Options that are not set, with the system's word for it: the system does not have them, or they
/// are best-effort and were refused.
pub(crate) type Unavailable = Vec<(&'static str, String)>;

/// For a TCP socket about to connect to `target`: every option, and the local address.
///
/// # Errors
///
/// The first option that was refused and is not best-effort; the message names it.
pub(crate) fn apply_connecting(
    socket: &SockRef<'_>,
    target: SocketAddr,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    options.stream(target)?;
    options.inherited()?;
    // After the device, which decides what the address may be.
    if let Some(local) = settings.local_addr {
        options.note(SocketOption::LocalAddr, bind(socket, local, target))?;
    }
    Ok(options.unavailable)
}

/// For a TCP socket about to listen: what the accepted sockets inherit. The receive buffer has to
/// be known before the handshake, which happens before accept (tcp(7)).
pub(crate) fn apply_listening(
    socket: &SockRef<'_>,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    options.inherited()?;
    Ok(options.unavailable)
}

/// For a TCP socket that a listener accepted from `peer`: the rest.
pub(crate) fn apply_accepted(
    socket: &SockRef<'_>,
    peer: SocketAddr,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    options.stream(peer)?;
    Ok(options.unavailable)
}

/// For a Unix socket: it has buffers, and none of the other options.
pub(crate) fn apply_unix(
    socket: &SockRef<'_>,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    options.buffers()?;
    Ok(options.unavailable)
}

struct Options<'a> {
    socket: &'a SockRef<'a>,
    settings: &'a SocketSettings,
    unavailable: Unavailable,
}

impl<'a> Options<'a> {
    fn new(socket: &'a SockRef<'a>, settings: &'a SocketSettings) -> Self {
        Self { socket, settings, unavailable: Vec::new() }
    }

    /// What belongs to one connection.
    fn stream(&mut self, peer: SocketAddr) -> io::Result<()> {
        let Self { socket, settings, .. } = *self;
        if let Some(keepalive) = &settings.keepalive {
            let set = sockopt::set_keepalive(
                socket,
                keepalive.idle,
                keepalive.interval,
                keepalive.retries,
            );
            self.note(SocketOption::Keepalive, set)?;
        }
        if let Some(limit) = settings.user_timeout {
            self.note(SocketOption::UserTimeout, sockopt::set_user_timeout(socket, limit))?;
        }
        let nodelay = socket.set_tcp_nodelay(settings.nodelay).map_err(Refusal::from);
        self.note(SocketOption::Nodelay, nodelay)?;
        if let Some(tos) = settings.tos {
            let set = match is_ipv6(peer) {
                true => sockopt::set_traffic_class(socket, tos),
                false => sockopt::set_tos(socket, tos),
            };
            self.note(SocketOption::Tos, set)?;
        }
        Ok(())
    }

    /// What an accepted socket has from its listener.
    fn inherited(&mut self) -> io::Result<()> {
        let Self { socket, settings, .. } = *self;
        self.buffers()?;
        if let Some(name) = &settings.congestion {
            self.note(SocketOption::Congestion, sockopt::set_congestion(socket, name))?;
        }
        if let Some(mark) = settings.mark {
            self.note(SocketOption::Mark, sockopt::set_mark(socket, mark))?;
        }
        if let Some(name) = &settings.device {
            self.note(SocketOption::Device, sockopt::set_device(socket, name))?;
        }
        Ok(())
    }

    fn buffers(&mut self) -> io::Result<()> {
        let Self { socket, settings, .. } = *self;
        if let Some(bytes) = settings.send_buffer {
            let set = socket.set_send_buffer_size(bytes).map_err(Refusal::from);
            self.note(SocketOption::SendBuffer, set)?;
        }
        if let Some(bytes) = settings.recv_buffer {
            let set = socket.set_recv_buffer_size(bytes).map_err(Refusal::from);
            self.note(SocketOption::RecvBuffer, set)?;
        }
        Ok(())
    }

    /// Unsupported and best-effort are noted; anything else that failed is the socket's error.
    fn note(&mut self, option: SocketOption, outcome: Outcome) -> io::Result<()> {
        match outcome {
            Ok(()) => {}
            Err(Refusal::Unsupported(missing)) => {
                self.unavailable.push((option.as_str(), missing.to_owned()));
            }
            Err(Refusal::Failed(error)) if self.settings.best_effort.contains(&option) => {
                self.unavailable.push((option.as_str(), error.to_string()));
            }
            Err(Refusal::Failed(error)) => {
                let text = format!("cannot set socket option {option}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
        }
        Ok(())
    }
}

/// Binds to the local address, any port.
fn bind(socket: &SockRef<'_>, local: IpAddr, target: SocketAddr) -> Outcome {
    if local.is_ipv4() != target.is_ipv4() {
        let text = format!("{local} is not of the same family as {}", target.ip());
        return Err(Refusal::Failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    // So that local ports in TIME_WAIT, and those of connections to other places, can be used.
    socket.set_reuse_address(true)?;
    match sockopt::set_bind_address_no_port(socket) {
        Err(Refusal::Failed(error)) => return Err(Refusal::Failed(error)),
        // Without it, fewer connections fit; nothing else changes.
        Ok(()) | Err(Refusal::Unsupported(_)) => {}
    }
    Ok(socket.bind(&SocketAddr::new(local, 0).into())?)
}

/// Whether packets to this address are IPv6 packets; a mapped address (`::ffff:192.0.2.1`) is how
/// an IPv6 socket speaks IPv4.
pub(super) fn is_ipv6(addr: SocketAddr) -> bool {
    match addr.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
    }
}
