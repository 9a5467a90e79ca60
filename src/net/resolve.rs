//! The lookup of names, made for every dial, so that a changed record is noticed with the next
//! connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Endpoint, PeerAddr};
use crate::foreign::{self, Held};
use crate::text::Escaped;

/// A resolver, which finds the addresses of a name. The system's resolver is used unless another is
/// given to [`Builder::resolver`](crate::Builder::resolver): one that asks a service registry, say.
///
/// ```
/// use std::io;
/// use std::net::SocketAddr;
/// use livepool::{BoxFuture, Config, Pool, Resolve};
///
/// /// Finds every name at one address, as a test may want it.
/// struct Fixed(SocketAddr);
///
/// impl Resolve for Fixed {
///     fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
///         Box::pin(async { Ok(vec![self.0]) })
///     }
/// }
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let fixed = Fixed("127.0.0.1:5432".parse()?);
/// let pool = Pool::builder(Config::new("db.internal:5432")).resolver(fixed).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, each with `port`, the most wanted first. An error of kind
    /// [`NotFound`](io::ErrorKind::NotFound) says that there is no such name: see
    /// [`FirstConnect`](crate::config::FirstConnect). Other errors may pass.
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

    /// The addresses of an endpoint, in the resolver's order (for the system's: RFC 6724).
    ///
    /// The system's resolver runs on one of the runtime's blocking threads. Dropping this future
    /// stops the waiting, not the lookup, which ends by its own limits.
    pub(crate) async fn resolve(&self, endpoint: &Endpoint) -> io::Result<Vec<PeerAddr>> {
        let Endpoint::Host { host, port } = endpoint else {
            return Ok(literal_addr(endpoint).into_iter().collect());
        };
        let addrs: Vec<SocketAddr> = match &self.0 {
            // A resolver that panics has found nothing.
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

/// Whether a lookup found that there is no such name, rather than no server that knows.
pub(super) fn is_no_such_name(error: &io::Error) -> bool {
    // The standard library keeps the code of `getaddrinfo` to itself, so these are the words for
    // `EAI_NONAME` and `EAI_NODATA` (`gai_strerror(3)`, never translated in a program that sets no
    // locale) on glibc, musl, and BSD and macOS.
    const WORDS: [&str; 6] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
        "nodename nor servname provided, or not known",
        "hostname nor servname provided, or not known",
    ];
    match error.raw_os_error() {
        // WSAHOST_NOT_FOUND, WSANO_DATA.
        Some(code) => cfg!(windows) && matches!(code, 11_001 | 11_004),
        None if error.kind() == io::ErrorKind::NotFound => true,
        None => {
            let text = Escaped(error).to_string();
            WORDS.iter().any(|words| text.ends_with(words))
        }
    }
}

/// The address of an endpoint that needs no lookup.
pub(crate) fn literal_addr(endpoint: &Endpoint) -> Option<PeerAddr> {
    match endpoint {
        Endpoint::Host { .. } => None,
        Endpoint::Addr(addr) => Some(PeerAddr::Tcp(*addr)),
        Endpoint::Unix(path) => Some(PeerAddr::Unix(path.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_knows_is_not_a_name_server_in_trouble() {
        let of_system =
            |detail| io::Error::other(format!("failed to lookup address information: {detail}"));
        assert!(is_no_such_name(&of_system("Name or service not known")));
        assert!(is_no_such_name(&of_system("No address associated with hostname")));
        assert!(is_no_such_name(&io::ErrorKind::NotFound.into()));
        assert!(!is_no_such_name(&of_system("Temporary failure in name resolution")));
        assert!(!is_no_such_name(&of_system("Try again")));
        assert!(!is_no_such_name(&io::Error::other("the registry is down")));
        assert!(
            !is_no_such_name(&io::Error::from_raw_os_error(2)),
            "no file, and no word of the name"
        );
    }
}
