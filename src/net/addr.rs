//! [`PeerAddr`]: the address that a connection goes to.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address of an upstream, which a connection goes to.
///
/// ```
/// use livepool::PeerAddr;
///
/// let peer = PeerAddr::Tcp("192.0.2.1:5432".parse().unwrap());
/// assert_eq!(peer.to_string(), "192.0.2.1:5432");
/// assert_eq!(PeerAddr::Unix("/run/db.sock".into()).to_string(), "unix:/run/db.sock");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket; empty for an unnamed one (the client's end, as a listener sees it).
    Unix(PathBuf),
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
