//! Without the feature `tls` nothing is encrypted: what requires it is refused before.

use std::io;

use super::error::Error;
use crate::net::PeerAddr;
use crate::stream::Wire;

/// What is done about TLS: nothing.
#[derive(Debug, Clone)]
pub(super) struct Wanted;

/// There is none.
#[derive(Debug, Clone)]
pub(super) enum Encryption {}

impl Wanted {
    pub(super) async fn begin(&self, wire: Wire) -> Result<(Wire, Option<Encryption>), Error> {
        Ok((wire, None))
    }
}

impl Encryption {
    pub(super) async fn encrypt<S>(&self, _: &PeerAddr, _: S) -> io::Result<S> {
        match *self {}
    }
}
