//! One attempt: one socket, one address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::Dialed;
use crate::config::SocketSettings;
use crate::net::error::Phase;
use crate::net::options::{self, Unavailable};
use crate::net::{Io, PeerAddr};

/// Connects to one address. The error says how far it came.
pub(super) async fn connect(
    addr: PeerAddr,
    settings: &SocketSettings,
) -> Result<Dialed, (Phase, io::Error)> {
    let (io, unavailable) = match &addr {
        PeerAddr::Tcp(addr) => tcp(*addr, settings).await?,
        #[cfg(unix)]
        PeerAddr::Unix(path) => unix(path, settings).await?,
        #[cfg(not(unix))]
        PeerAddr::Unix(_) => return Err((Phase::Setup, io::ErrorKind::Unsupported.into())),
    };
    let local = io.local_addr().map_err(|error| (Phase::Connect, error))?;
    Ok(Dialed { io, peer: addr, local, host: None, unavailable })
}

async fn tcp(
    addr: SocketAddr,
    settings: &SocketSettings,
) -> Result<(Io, Unavailable), (Phase, io::Error)> {
    let socket = socket(addr).map_err(|error| (Phase::Connect, error))?;
    let unavailable = options::apply_connecting(&SockRef::from(&socket), addr, settings)
        .map_err(|error| (Phase::Setup, error))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(addr).await;
    let stream = stream
        .and_then(|stream| refuse_oneself(stream, addr))
        .map_err(|error| (Phase::Connect, error))?;
    Ok((Io::Tcp(stream), unavailable))
}

/// A non-blocking socket.
fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A local port that nobody listens on may be given to the connecting socket itself, and TCP's
/// simultaneous open (RFC 9293 section 3.5) then connects it to itself: it echoes every request, and
/// keeps the real server from starting.
pub(super) fn refuse_oneself(stream: TcpStream, target: SocketAddr) -> io::Result<TcpStream> {
    // A peer that has reset the connection by now has no address any more; that is for the first
    // read to find.
    let peer = stream.peer_addr().unwrap_or(target);
    if stream.local_addr()? != peer {
        return Ok(stream);
    }
    // Close by reset, so that the port is free at once and not in TIME_WAIT.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    Err(io::Error::new(
        io::ErrorKind::ConnectionRefused,
        "nobody listens there (the socket had connected to itself)",
    ))
}

#[cfg(unix)]
async fn unix(
    path: &std::path::Path,
    settings: &SocketSettings,
) -> Result<(Io, Unavailable), (Phase, io::Error)> {
    use crate::deadline::Deadline;

    /// Between two tries on a full backlog.
    const PAUSE: Duration = Duration::from_millis(10);
    let stream = loop {
        match tokio::net::UnixStream::connect(path).await {
            // The listener's backlog is full (unix(7)). A blocking connect would wait here, but
            // nothing tells a non-blocking one when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = Deadline::after(Some(PAUSE)).run(std::future::pending::<()>()).await;
            }
            result => break result.map_err(|error| (Phase::Connect, error))?,
        }
    };
    let set = options::apply_unix(&SockRef::from(&stream), settings);
    let unavailable = set.map_err(|error| (Phase::Setup, error))?;
    Ok((Io::Unix(stream), unavailable))
}
