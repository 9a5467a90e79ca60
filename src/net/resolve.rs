//! From an endpoint to addresses. Names are looked up for every dial, so that a changed record is
//! noticed with the next connection.

use std::io;

use super::{Endpoint, PeerAddr};

/// The addresses of one endpoint, in the resolver's order (RFC 6724).
///
/// The system's resolver runs on one of the runtime's blocking threads. Dropping this future stops
/// the waiting, not the lookup, which ends by its own limits.
pub(super) async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<PeerAddr>> {
    let Endpoint::Host { host, port } = endpoint else {
        return Ok(known(endpoint).into_iter().collect());
    };
    let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
    let addrs: Vec<_> = found.map(PeerAddr::Tcp).collect();
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no addresses"));
    }
    Ok(addrs)
}

/// The address of an endpoint that needs no lookup.
pub(super) fn known(endpoint: &Endpoint) -> Option<PeerAddr> {
    match endpoint {
        Endpoint::Host { .. } => None,
        Endpoint::Addr(addr) => Some(PeerAddr::Tcp(*addr)),
        Endpoint::Unix(path) => Some(PeerAddr::Unix(path.clone())),
    }
}
