//! From an endpoint to addresses. Names are looked up for every dial, so that a changed record is
//! noticed with the next connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Endpoint, PeerAddr};
use crate::foreign::{self, Held};

/// Finds the addresses of a name. The system's resolver is used unless another is given to
/// [`Builder::resolver`](crate::Builder::resolver): one that asks a service registry, say.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, each with `port`, the most wanted first.
    ///
    /// The future may be dropped at any await; the deadline of the dial is kept by its caller.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of a pool or connector.
#[derive(Clone, Default)]
pub(crate) struct Resolver(Option<Held<Arc<dyn Resolve>>>);

impl Resolver {
    pub(crate) fn custom(resolver: impl Resolve) -> Self {
        Self(Some(Held::new(Arc::new(resolver))))
    }

    /// The addresses of one endpoint, in the resolver's order (for the system's: RFC 6724).
    ///
    /// The system's resolver runs on one of the runtime's blocking threads. Dropping this future
    /// stops the waiting, not the lookup, which ends by its own limits.
    pub(crate) async fn resolve(&self, endpoint: &Endpoint) -> io::Result<Vec<PeerAddr>> {
        let Endpoint::Host { host, port } = endpoint else {
            return Ok(known(endpoint).into_iter().collect());
        };
        let addrs: Vec<SocketAddr> = match &self.0 {
            // One that panics has found nothing.
            Some(custom) => foreign::future(async { custom.resolve(host, *port).await }).await??,
            None => tokio::net::lookup_host((host.as_str(), *port)).await?.collect(),
        };
        if addrs.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no addresses"));
        }
        Ok(addrs.into_iter().map(PeerAddr::Tcp).collect())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(custom)" } else { "Resolver(system)" })
    }
}

/// The address of an endpoint that needs no lookup.
pub(crate) fn known(endpoint: &Endpoint) -> Option<PeerAddr> {
    match endpoint {
        Endpoint::Host { .. } => None,
        Endpoint::Addr(addr) => Some(PeerAddr::Tcp(*addr)),
        Endpoint::Unix(path) => Some(PeerAddr::Unix(path.clone())),
    }
}
