//! [`PeerAddr`]: the address that a connection goes to.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address of an upstream, which a connection goes to.
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
