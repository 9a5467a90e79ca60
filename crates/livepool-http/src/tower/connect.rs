//! [`Connect`]: from a URI to a connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use tower_service::Service;

use super::Connection;
use livepool::Connector;
use livepool::config::{Config, ConfigError};
use livepool::event::Observer;
use livepool::net::{ConnectError, Resolve};

/// Makes connections to whatever host and port a URI names. Cloning is cheap.
///
/// ```
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use livepool_http::livepool::Config;
/// use livepool_http::tower::Connect;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// // Only what concerns sockets counts; `upstream` comes from each request.
/// let connect = Connect::new(&Config::default())?;
/// let client: Client<_, String> = Client::builder(TokioExecutor::new()).build(connect);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Connect {
    connector: Connector,
    /// The silence after which a peer is asked for a sign of life.
    max_silence: Option<Duration>,
}

/// Stands where a configuration has no upstream: every URI names its own.
const PLACEHOLDER_UPSTREAM: &str = "localhost:80";

impl Connect {
    /// Of this configuration its name, timeouts and socket options count. `upstream` does not: it
    /// may be empty.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let max_silence = config.max_silence;
        Connector::new(&template(config)).map(|connector| Self { connector, max_silence })
    }

    /// As [`new`](Self::new), and sends every event to `observer`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_observer(config: &Config, observer: impl Observer) -> Result<Self, ConfigError> {
        let max_silence = config.max_silence;
        let connector = Connector::with_observer(&template(config), observer)?;
        Ok(Self { connector, max_silence })
    }

    /// The same with names looked up by this resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        Self { connector: self.connector.with_resolver(resolver), ..self }
    }
}

fn template(config: &Config) -> Config {
    let mut config = config.clone();
    if config.upstream.is_empty() {
        config.upstream.push(PLACEHOLDER_UPSTREAM.to_owned());
        if config.name.is_empty() {
            // Else the name would be made of the placeholder.
            "tower".clone_into(&mut config.name);
        }
    }
    config
}

/// Whether the URI's scheme is one of these, in whatever case (RFC 3986 section 3.1).
fn names(uri: &Uri, schemes: [&str; 2]) -> bool {
    uri.scheme_str()
        .is_some_and(|own| schemes.iter().any(|scheme| own.eq_ignore_ascii_case(scheme)))
}

/// Whether the URI is to be spoken to under TLS only.
fn is_secure(uri: &Uri) -> bool {
    names(uri, ["https", "wss"])
}

/// The `host:port` of a URI. An error repeats nothing of the URI.
fn upstream(uri: &Uri) -> Result<String, Error> {
    let host = uri.host().ok_or_else(|| Error::Uri("it names no host".to_owned()))?;
    let port = match uri.port_u16() {
        Some(port) => port,
        None if is_secure(uri) => 443,
        None if names(uri, ["http", "ws"]) => 80,
        None => {
            return Err(Error::Uri("it names no port, and its scheme has none".to_owned()));
        }
    };
    Ok(format!("{host}:{port}"))
}

impl Service<Uri> for Connect {
    type Response = Connection;
    type Error = Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// Makes a connection, within `timeouts.connect`. Dropping the future closes every socket it had
    /// opened.
    fn call(&mut self, uri: Uri) -> Connecting {
        let (is_for_tls, max_silence) = (is_secure(&uri), self.max_silence);
        let connector = upstream(&uri).and_then(|upstream| {
            self.connector.to(&upstream).map_err(|error| Error::Uri(error.to_string()))
        });
        Connecting(Box::pin(async move {
            let mut stream = connector?.connect().await.map_err(Error::Connect)?;
            // The other pool reads all the time, so a read timeout alone would never see a silent
            // peer.
            stream.watch_peer(max_silence);
            Ok(Connection::new(stream, is_for_tls))
        }))
    }
}

/// A connection that is being made.
///
/// ```
/// use livepool_http::http::Uri;
/// use livepool_http::tower::{Connect, Connecting};
/// use tower_service::Service;
///
/// fn connect(connect: &mut Connect) -> Connecting {
///     connect.call(Uri::from_static("http://api.internal:8080"))
/// }
/// ```
#[must_use = "nothing is connected until this is polled"]
pub struct Connecting(BoxFuture<'static, Result<Connection, Error>>);

impl Future for Connecting {
    type Output = Result<Connection, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connecting")
    }
}

/// Why there is no connection.
///
/// ```
/// use livepool_http::tower::Error;
///
/// fn is_of_the_network(error: &Error) -> bool {
///     matches!(error, Error::Connect(_))
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The URI does not say where to go. The text does not repeat the URI, since it may hold a
    /// password.
    Uri(String),
    /// The connection could not be made.
    Connect(ConnectError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(why) => write!(f, "the URI leads nowhere: {why}"),
            Self::Connect(error) => error.fmt(f),
        }
    }
}

/// The text carries the cause, and so there is no source.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_leads_to_its_host_and_the_port_of_its_scheme() {
        let table = [
            ("http://example.org/a", "example.org:80"),
            ("https://example.org", "example.org:443"),
            ("HTTPS://example.org", "example.org:443"),
            ("wss://example.org", "example.org:443"),
            ("http://[::1]:81", "[::1]:81"),
            ("example.org:82", "example.org:82"),
        ];
        for (uri, expected) in table {
            assert_eq!(upstream(&uri.parse().unwrap()).unwrap(), expected);
        }
        for nowhere in ["/a", "ftp://example.org"] {
            assert!(upstream(&nowhere.parse().unwrap()).is_err(), "{nowhere}");
        }
    }
}
