//! Without the feature `tls` nothing is encrypted: what requires it is refused before.

use std::io;

use tokio_postgres::config::SslMode;

use super::error::Error;
use livepool::net::PeerAddr;
use livepool::protocol::Wire;

/// What is done about TLS: nothing.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) mode: SslMode,
}

/// A wire on which client and server have agreed.
pub(super) struct Agreed {
    pub(super) wire: Wire,
    pub(super) encryption: Option<Encryption>,
    pub(super) end_point: Option<Vec<u8>>,
}

/// There is none.
#[derive(Debug, Clone)]
pub(super) enum Encryption {}

impl Wanted {
    pub(super) async fn begin(&self, wire: Wire) -> Result<Agreed, Error> {
        match self.mode {
            SslMode::Disable => {}
            SslMode::Prefer if matches!(wire.peer_addr(), PeerAddr::Unix(_)) => {}
            SslMode::Prefer => wire.report_unencrypted(false),
            // Whatever the library adds demands as much.
            _ => return Err(Error::NoTls),
        }
        Ok(Agreed { wire, encryption: None, end_point: None })
    }
}

impl Encryption {
    pub(super) async fn encrypt<S>(&self, _: &PeerAddr, _: S) -> io::Result<S> {
        match *self {}
    }
}
