//! Setting the options of a socket, and reporting the options that cannot be set.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;

use crate::config::{SocketOption, SocketSettings};
use crate::sys::keepalive;
use crate::sys::sockopt::{self, OptionError, OptionResult};

/// Options that are not set, with the system's reason: the system does not have them, or they are
/// best-effort and were refused.
pub(crate) type Unavailable = Vec<(&'static str, String)>;

/// Sets every option and the local address of a TCP socket that is about to connect to `target`.
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

/// Sets the options of a TCP socket about to listen that accepted sockets inherit.
pub(crate) fn apply_listening(
    socket: &SockRef<'_>,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    // The receive buffer has to be known before the handshake, which happens before accept
    // (tcp(7)).
    options.inherited()?;
    Ok(options.unavailable)
}

/// Sets the options of a TCP socket that a listener accepted from `peer`, but for those it
/// inherited.
pub(crate) fn apply_accepted(
    socket: &SockRef<'_>,
    peer: SocketAddr,
    settings: &SocketSettings,
) -> io::Result<Unavailable> {
    let mut options = Options::new(socket, settings);
    options.stream(peer)?;
    Ok(options.unavailable)
}

/// Sets the buffers of a Unix socket, which has none of the other options.
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

    /// Sets the options that belong to a single connection.
    fn stream(&mut self, peer: SocketAddr) -> io::Result<()> {
        let Self { socket, settings, .. } = *self;
        if let Some(values) = &settings.keepalive {
            let set = keepalive::set(socket, values.idle, values.interval, values.retries);
            self.note(SocketOption::Keepalive, set)?;
        }
        if let Some(limit) = settings.user_timeout {
            self.note(SocketOption::UserTimeout, sockopt::set_user_timeout(socket, limit))?;
        }
        let nodelay = socket.set_tcp_nodelay(settings.nodelay).map_err(OptionError::from);
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

    /// Sets the options that an accepted socket has from its listener.
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
            let set = socket.set_send_buffer_size(bytes).map_err(OptionError::from);
            self.note(SocketOption::SendBuffer, set)?;
        }
        if let Some(bytes) = settings.recv_buffer {
            let set = socket.set_recv_buffer_size(bytes).map_err(OptionError::from);
            self.note(SocketOption::RecvBuffer, set)?;
        }
        Ok(())
    }

    /// Notes an option that is unsupported or best-effort; any other failure is the socket's error.
    fn note(&mut self, option: SocketOption, outcome: OptionResult) -> io::Result<()> {
        match outcome {
            Ok(()) => {}
            Err(OptionError::Unsupported(missing)) => {
                self.unavailable.push((option.as_str(), missing.to_owned()));
            }
            Err(OptionError::Failed(error)) if self.settings.best_effort.contains(&option) => {
                self.unavailable.push((option.as_str(), error.to_string()));
            }
            Err(OptionError::Failed(error)) => {
                let text = format!("cannot set socket option {option}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
        }
        Ok(())
    }
}

/// Binds the socket to the local address and any port.
fn bind(socket: &SockRef<'_>, local: IpAddr, target: SocketAddr) -> OptionResult {
    if local.is_ipv4() != target.is_ipv4() {
        let text = format!("{local} is not of the same family as {}", target.ip());
        return Err(OptionError::Failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    // Local ports in TIME_WAIT, and those of connections to other places, can then be used.
    socket.set_reuse_address(true)?;
    match sockopt::set_bind_address_no_port(socket) {
        Err(OptionError::Failed(error)) => return Err(OptionError::Failed(error)),
        // Without it, fewer connections fit; nothing else changes.
        Ok(()) | Err(OptionError::Unsupported(_)) => {}
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;
    use crate::config::{ListenerConfig, SocketConfig};
    use crate::net::SocketReport;

    #[tokio::test]
    async fn an_accepted_socket_has_its_own_options_and_those_of_its_listener() {
        let config = SocketConfig::default().with_recv_buffer(32_768).with_tos(0x10);
        let settings = ListenerConfig::default().with_socket(config).to_settings().unwrap().socket;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        apply_listening(&SockRef::from(&socket), &settings).unwrap();
        let listener = socket.listen(8).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        apply_accepted(&SockRef::from(&accepted), peer, &settings).unwrap();
        let report = SocketReport::read(&SockRef::from(&accepted)).unwrap();
        assert!(report.keepalive && report.nodelay == Some(true));
        assert!(report.recv_buffer >= 32_768);
        assert_eq!(report.tos, Some(0x10));
        if report.keepalive_idle.is_some() {
            assert_eq!(report.detection_time(), Some(Duration::from_secs(30)));
        }
    }

    #[tokio::test]
    async fn an_ipv4_client_of_an_ipv6_listener_gets_the_ipv4_option() {
        let Ok(listener) = TcpListener::bind("[::]:0").await else {
            eprintln!("NOT TESTED: this machine has no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let Ok(_client) = TcpStream::connect(("127.0.0.1", port)).await else {
            eprintln!("NOT TESTED: [::] does not take IPv4 here");
            return;
        };
        let (accepted, peer) = listener.accept().await.unwrap();
        let config = SocketConfig::default().with_tos(0x10);
        let settings = ListenerConfig::default().with_socket(config).to_settings().unwrap().socket;
        let unavailable = apply_accepted(&SockRef::from(&accepted), peer, &settings).unwrap();
        assert!(unavailable.is_empty(), "{unavailable:?}");
        let report = SocketReport::read(&SockRef::from(&accepted)).unwrap();
        assert_eq!(report.tos, Some(0x10));
    }
}
