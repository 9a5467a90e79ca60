//! Binding an address, and saying why it failed.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::TcpListener;

use super::Socket;
use crate::config::{ConfigError, ListenerSettings};
use crate::deadline::{Deadline, Elapsed};
use crate::net::{self, Endpoint, PeerAddr, Unavailable};
use crate::sys::reuse_port::set_reuse_port;
use crate::sys::sockopt::OptionError;

/// The reason why a listener could not be made.
///
/// ```
/// use livepool::error::BindError;
/// use livepool::{Listener, ListenerConfig};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = Listener::bind("no port", &ListenerConfig::default()).await.unwrap_err();
/// assert!(matches!(error, BindError::Address { .. }), "{error}");
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The configuration is not valid.
    Config(ConfigError),
    /// The address is not one that can be listened on.
    #[non_exhaustive]
    Address {
        /// The address as it was given, unless it may hold a password.
        address: String,
        /// The rule that the address breaks.
        problem: String,
    },
    /// The name could not be resolved.
    #[non_exhaustive]
    Resolve {
        /// The address as it was given.
        address: String,
        /// The resolver's error.
        error: io::Error,
    },
    /// The system refused.
    #[non_exhaustive]
    Bind {
        /// The address that was tried.
        address: PeerAddr,
        /// The system's error.
        error: io::Error,
        /// The reason, where more can be said, and what to change.
        advice: &'static str,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "cannot listen: {error}"),
            Self::Address { address, problem } => {
                write!(f, "cannot listen on {address}: {problem}")
            }
            Self::Resolve { address, error } => {
                write!(f, "cannot listen on {address}: the name does not resolve: {error}")
            }
            Self::Bind { address, error, advice: "" } => {
                write!(f, "cannot listen on {address}: {error}")
            }
            Self::Bind { address, error, advice } => {
                write!(f, "cannot listen on {address}: {error}: {advice}")
            }
        }
    }
}

/// The text carries the cause, and so there is no source.
impl std::error::Error for BindError {}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        let kind = match &error {
            BindError::Config(_) | BindError::Address { .. } => io::ErrorKind::InvalidInput,
            BindError::Resolve { error, .. } | BindError::Bind { error, .. } => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Binds the first address that can be bound.
pub(super) async fn bind(
    address: &str,
    settings: &ListenerSettings,
) -> Result<(Socket, PeerAddr, Unavailable), BindError> {
    let endpoint = Endpoint::to_listen_on(address).map_err(|problem| BindError::Address {
        address: crate::text::redacted_unquoted(address),
        problem,
    })?;
    let addrs = match endpoint {
        Endpoint::Addr(addr) => vec![addr],
        Endpoint::Host { host, port } => {
            let lookup = tokio::net::lookup_host((host.as_str(), port));
            let found = match Deadline::after(settings.timeouts.connect).run(lookup).await {
                Ok(found) => found,
                Err(Elapsed) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "timeouts.connect passed"))
                }
            };
            let resolve = |error| BindError::Resolve { address: address.to_owned(), error };
            found.map_err(resolve)?.collect()
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => return unix::bind(path, settings).await,
        #[cfg(not(unix))]
        Endpoint::Unix(_) => {
            return Err(BindError::Address {
                address: address.to_owned(),
                problem: "this system has no Unix sockets".to_owned(),
            });
        }
    };
    let mut last = None;
    for addr in addrs {
        match listen_tcp(addr, settings) {
            Ok((listener, unavailable)) => {
                // Not `addr`: port 0 stood for a free one.
                let local = listener.local_addr().unwrap_or(addr);
                return Ok((Socket::Tcp(listener), PeerAddr::Tcp(local), unavailable));
            }
            Err(error) => last = Some((addr, error)),
        }
    }
    Err(match last {
        Some((addr, error)) => BindError::Bind {
            address: PeerAddr::Tcp(addr),
            advice: advice(addr, &error, settings),
            error,
        },
        None => BindError::Resolve {
            address: address.to_owned(),
            error: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
        },
    })
}

fn listen_tcp(
    addr: SocketAddr,
    settings: &ListenerSettings,
) -> io::Result<(TcpListener, Unavailable)> {
    let (socket, unavailable) = bind_socket(addr, settings, settings.reuse_address)?;
    // Two sockets with SO_REUSEADDR may both bind; it is listen that refuses the second.
    socket.listen(settings.backlog)?;
    Ok((TcpListener::from_std(socket.into())?, unavailable))
}

fn bind_socket(
    addr: SocketAddr,
    settings: &ListenerSettings,
    reuse: bool,
) -> io::Result<(socket2::Socket, Unavailable)> {
    let socket =
        socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // Set either way: systems differ in their default.
        socket.set_only_v6(!settings.dual_stack)?;
    }
    // On Windows this option means something else: it lets a second listener take the port over.
    #[cfg(not(windows))]
    socket.set_reuse_address(reuse)?;
    #[cfg(windows)]
    let _ = reuse;
    if settings.reuse_port {
        match set_reuse_port(&socket) {
            Ok(()) => {}
            Err(OptionError::Failed(error)) => return Err(error),
            Err(OptionError::Unsupported(missing)) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, missing));
            }
        }
    }
    let unavailable = net::apply_listening(&SockRef::from(&socket), &settings.socket)?;
    socket.bind(&addr.into())?;
    Ok((socket, unavailable))
}

/// The advice about an address that cannot be bound.
fn advice(addr: SocketAddr, error: &io::Error, settings: &ListenerSettings) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse if settings.reuse_address => {
            "a live listener holds it, or connections of one that was bound without reuse_address; \
             stop it or choose another port"
        }
        // Without reuse_address two causes look the same. A bind with it tells them apart:
        // TIME_WAIT allows that, a live listener does not.
        io::ErrorKind::AddrInUse => match bind_socket(addr, settings, true).map(drop) {
            Ok(()) => {
                "connections of an earlier listener still hold it (TIME_WAIT or open); \
                 set reuse_address = true"
            }
            Err(_) => {
                "a live listener holds it, or connections of one that was bound without \
                 reuse_address; stop it or choose another port"
            }
        },
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE on Linux); choose a higher one"
        }
        _ => "",
    }
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use socket2::{Domain, SockAddr, Type};
    use tokio::net::UnixListener;

    use super::{BindError, Socket};
    use crate::config::ListenerSettings;
    use crate::deadline::{Deadline, Elapsed};
    use crate::net::{PeerAddr, Unavailable};
    use crate::sys::lock::try_lock;

    /// The longest wait for another program that replaces a socket file, which takes it
    /// microseconds.
    const LONGEST_WAIT: Duration = Duration::from_secs(5);
    /// The pause between two tries to get the lock.
    const PAUSE: Duration = Duration::from_millis(2);

    const NOT_STALE: &str = "a live listener holds it, or it is not a socket";
    const LOCKED: &str =
        "the file was left by an earlier listener, and another program has locked its directory";
    const NO_LOCK: &str = "the file was left by an earlier listener, and its directory cannot be \
                           locked to replace it; remove the file";

    /// Binds a path. A socket file that nobody has any more is the TIME_WAIT of Unix sockets: with
    /// `reuse_address` it is replaced.
    pub(super) async fn bind(
        path: PathBuf,
        settings: &ListenerSettings,
    ) -> Result<(Socket, PeerAddr, Unavailable), BindError> {
        let result = match listen(&path, settings.backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !is_stale(&path) {
                    Err((error, NOT_STALE))
                } else if settings.reuse_address {
                    replace(&path, settings, error).await
                } else {
                    let advice = "the file was left by an earlier listener; remove it or set \
                                  reuse_address = true";
                    Err((error, advice))
                }
            }
            result => result.map_err(advise),
        };
        match result {
            Ok(listener) => Ok((Socket::Unix(listener), PeerAddr::Unix(path), Vec::new())),
            Err((error, advice)) => {
                Err(BindError::Bind { address: PeerAddr::Unix(path), error, advice })
            }
        }
    }

    /// Puts a new socket where a stale one is, under a lock on the directory. Of several programs
    /// that do this at the same time only one may remove the file: the next would remove what the
    /// first has just made. So the file is looked at again when the lock is held.
    ///
    /// A path without a file needs no lock: the system itself lets only one program bind it.
    async fn replace(
        path: &Path,
        settings: &ListenerSettings,
        in_use: io::Error,
    ) -> Result<UnixListener, (io::Error, &'static str)> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) else {
            return Err((in_use, NO_LOCK));
        };
        let locked = async {
            loop {
                match try_lock(&directory) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        };
        let limit = settings.timeouts.connect.map_or(LONGEST_WAIT, |limit| limit.min(LONGEST_WAIT));
        match Deadline::after(Some(limit)).run(locked).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err((in_use, NO_LOCK)),
            Err(Elapsed) => return Err((in_use, LOCKED)),
        }
        // No await from here on: the lock is held for a moment. It ends with `directory`.
        match listen(path, settings.backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !is_stale(path) {
                    return Err((error, NOT_STALE));
                }
                std::fs::remove_file(path)
                    .and_then(|()| listen(path, settings.backlog))
                    .map_err(advise)
            }
            result => result.map_err(advise),
        }
    }

    fn advise(error: io::Error) -> (io::Error, &'static str) {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => NOT_STALE,
            io::ErrorKind::NotFound => "its directory does not exist",
            _ => "",
        };
        (error, advice)
    }

    fn listen(path: &Path, backlog: i32) -> io::Result<UnixListener> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(backlog)?;
        UnixListener::from_std(socket.into())
    }

    /// Whether the path is a socket file that no socket is bound to any more.
    fn is_stale(path: &Path) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let is_socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        is_socket && probe_socket_file(path).err().is_some_and(refused)
    }

    /// Connects a datagram socket, which is of another kind than a listener's, to see whether a
    /// socket is bound to the path.
    fn probe_socket_file(path: &Path) -> io::Result<()> {
        // A listener is not disturbed, however full its backlog is, and answers that it is of the
        // wrong kind (`EPROTOTYPE`). So does a socket that is bound and does not listen yet, which
        // refuses a stream as a stale file does.
        let socket = socket2::Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    }
}
