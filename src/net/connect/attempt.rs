//! An attempt to connect to an address.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, Fuse, FutureExt, select};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::Dialed;
use crate::config::SocketSettings;
use crate::deadline::{Deadline, Elapsed};
use crate::net::error::AttemptStage;
use crate::net::options::{self, Unavailable};
use crate::net::race::ATTEMPT_DELAY;
use crate::net::{Io, PeerAddr};

/// Connects to an address. An error has the stage of the attempt with it.
pub(super) async fn connect(
    addr: PeerAddr,
    settings: &SocketSettings,
) -> Result<Dialed, (AttemptStage, io::Error)> {
    let (io, unavailable) = match &addr {
        PeerAddr::Tcp(addr) => tcp(*addr, settings).await?,
        #[cfg(unix)]
        PeerAddr::Unix(path) => unix(path, settings).await?,
        #[cfg(not(unix))]
        PeerAddr::Unix(_) => return Err((AttemptStage::Setup, io::ErrorKind::Unsupported.into())),
    };
    let local = io.local_addr().map_err(|error| (AttemptStage::Connect, error))?;
    Ok(Dialed { io, peer: addr, local, host: None, unavailable })
}

/// The time after which a connect without an answer is tried again beside the first one, over and
/// over.
///
/// The kernel repeats its SYN after 1, 3 and 7 s: an upstream that is back is heard of up to 4 s
/// late. A second SYN on a socket of its own is answered at once. The first socket stays for peers
/// that are further away than this. The time is that of RFC 8305, section 8, for an answer before
/// another address is tried.
const RETRY_DELAY: Duration = ATTEMPT_DELAY;

type Connected = Result<(Io, Unavailable), (AttemptStage, io::Error)>;

async fn tcp(addr: SocketAddr, settings: &SocketSettings) -> Connected {
    let mut first = pin!(tcp_once(addr, settings));
    // Terminated: `select` waits for the first one alone until there is a second.
    let mut again = pin!(Fuse::terminated());
    loop {
        let either = select(first.as_mut(), again.as_mut());
        match Deadline::after(Some(RETRY_DELAY)).run(either).await {
            // For want of a descriptor, say: the first one has one, and a later one may find one.
            Ok(Either::Right((Err((stage, error)), _))) if !is_of_peer(stage, &error) => {
                again.set(Fuse::terminated());
            }
            // Whatever else the second one says was said by the peer: the first would hear the same.
            Ok(either) => return either.factor_first().0,
            // The last one that was tried again is closed: there are never more than two.
            Err(Elapsed) => again.set(tcp_once(addr, settings).fuse()),
        }
    }
}

/// Whether an attempt failed by what the peer or the network said, and not before it asked.
fn is_of_peer(stage: AttemptStage, error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let said = [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut];
    stage == AttemptStage::Connect && said.contains(&error.kind())
}

async fn tcp_once(addr: SocketAddr, settings: &SocketSettings) -> Connected {
    let socket = socket(addr).map_err(|error| (AttemptStage::Connect, error))?;
    // Before connect: the buffers decide the window that the handshake announces, and the local
    // address cannot be bound afterwards.
    let unavailable = options::apply_connecting(&SockRef::from(&socket), addr, settings)
        .map_err(|error| (AttemptStage::Setup, error))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(addr).await;
    let stream = stream
        .and_then(|stream| refuse_self_connect(stream, addr))
        .map_err(|error| (AttemptStage::Connect, error))?;
    Ok((Io::Tcp(stream), unavailable))
}

/// A new non-blocking socket for this family of addresses.
fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A local port that nobody listens on may be given to the connecting socket itself, and TCP's
/// simultaneous open (RFC 9293 section 3.5) then connects it to itself: it echoes every request, and
/// keeps the real server from starting.
pub(super) fn refuse_self_connect(stream: TcpStream, target: SocketAddr) -> io::Result<TcpStream> {
    // A peer that has reset the connection by now has no address any more; that is for the first
    // read to find.
    let peer = stream.peer_addr().unwrap_or(target);
    // Both ends have one address only if the socket is connected to itself.
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
) -> Result<(Io, Unavailable), (AttemptStage, io::Error)> {
    /// The pause between two tries on a full backlog.
    const PAUSE: Duration = Duration::from_millis(10);
    let stream = loop {
        match tokio::net::UnixStream::connect(path).await {
            // The listener's backlog is full (unix(7)). A blocking connect would wait here, but
            // nothing tells a non-blocking one when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = Deadline::after(Some(PAUSE)).run(std::future::pending::<()>()).await;
            }
            result => break result.map_err(|error| (AttemptStage::Connect, error))?,
        }
    };
    let set = options::apply_unix(&SockRef::from(&stream), settings);
    let unavailable = set.map_err(|error| (AttemptStage::Setup, error))?;
    Ok((Io::Unix(stream), unavailable))
}
