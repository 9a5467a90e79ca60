//! [`Http1`]: the [`Protocol`] of HTTP/1.1.

use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::Client;
use super::driver::{HyperDriver, HyperIo};
use super::upload::{DEFAULT_LONGEST_PAUSE, Upload};
use crate::prepare::{host_of, prepare};
use crate::{Error, Failure};
use livepool::Config;
use livepool::protocol::Wire;
use livepool::protocol::{Protocol, Verdict};
use std::sync::Arc;

/// HTTP/1.1, as the [`Protocol`] of a pool. [`pool`](crate::pool) makes a pool of it from a
/// URL; with [`Builder::protocol`](livepool::Builder::protocol) it has any configuration.
///
/// ```
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use livepool_http::Http1;
/// use livepool::{Config, Pool};
///
/// let http1 = Http1::new().with_ping("/health")?.with_max_headers(500)?;
/// let pool = Pool::builder(Config::new("127.0.0.1:8080")).protocol(http1).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone)]
pub struct Http1 {
    /// The configuration of its pool.
    config: Config,
    host: Option<HeaderValue>,
    ping: Option<PathAndQuery>,
    /// hyper's own settings.
    pub(super) hyper: Builder,
    pub(super) longest_pause: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<livepool_tls::Tls>,
}

impl Default for Http1 {
    fn default() -> Self {
        Self {
            config: Config::default(),
            host: None,
            ping: None,
            hyper: Builder::new(),
            longest_pause: Some(DEFAULT_LONGEST_PAUSE),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// The query of a path may hold what no log should.
impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1")
            .field("host", &self.host)
            .field("ping", &self.ping.as_ref().map(PathAndQuery::path))
            .field("is_secure", &self.is_secure())
            .finish_non_exhaustive()
    }
}

impl Http1 {
    /// HTTP/1.1 without encryption. `Host` is what stands in the pool's `upstream`.
    pub fn new() -> Self {
        Self::default()
    }

    /// The configuration of its pool: the URL's address, if it was made from a URL, and what was changed.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn pool_config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The same with this `Host` for requests that have none.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`], if this cannot be one.
    pub fn with_host(mut self, host: &str) -> Result<Self, Error> {
        self.host = Some(HeaderValue::from_str(host).map_err(Error::setup)?);
        Ok(self)
    }

    /// The same with a ping, `HEAD` of this path, for pools whose
    /// [`validation`](livepool::Config::validation) asks for one. The ping succeeds with every
    /// answer but a server error (5xx).
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`], if this is not a path.
    pub fn with_ping(mut self, path: &str) -> Result<Self, Error> {
        self.ping = Some(path.parse().map_err(Error::setup)?);
        Ok(self)
    }

    /// The same over TLS: `https`. Of the protocols that `tls` offers (ALPN) those of HTTP/1 are: a
    /// server that is offered another one speaks it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: livepool_tls::Tls) -> Self {
        self.tls = Some(tls.offering(|protocol| protocol.starts_with(b"http/1.")));
        self
    }

    #[cfg(feature = "tls")]
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn is_secure(&self) -> bool {
        false
    }

    #[cfg(feature = "tls")]
    async fn encrypted(&self, wire: Wire) -> Result<Wire, Error> {
        match &self.tls {
            Some(tls) => tls.connect(wire).await.map_err(Error::setup),
            None => Ok(wire),
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypted(&self, wire: Wire) -> Result<Wire, Error> {
        Ok(wire)
    }

    /// The `Host` of requests on this connection that have none.
    fn host_of(&self, wire: &Wire) -> Result<HeaderValue, Error> {
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        let text = host_of(wire.host(), wire.peer_addr(), self.is_secure());
        HeaderValue::from_str(&text).map_err(Error::setup)
    }
}

impl Protocol for Http1 {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        let host = self.host_of(&wire)?;
        let wire = self.encrypted(wire).await?;
        // Before the first byte: from here on hyper's requests say when an answer is owed.
        let ledger = wire.count_debt();
        let upload = Upload::new(ledger.clone());
        let open = HyperIo { wire, upload: Arc::clone(&upload) };
        let connection = self.hyper.handshake(TokioIo::new(open)).await;
        let (sender, connection) = connection.map_err(Error::setup)?;
        let driver = HyperDriver::new(connection);
        Ok(Client::new(self, sender, driver, upload, ledger, host))
    }

    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        let Some(path) = &self.ping else { return Ok(()) };
        let mut request = Request::new(().into());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = Uri::from(path.clone());
        // A ping is no caller's request, so `check` has nothing to refuse.
        prepare(&mut request, &client.host)?;
        let response = client
            .ask(request)
            .await
            .map_err(|error| Error::new(Failure::Unanswered).because_of(error.into_error()))?;
        if response.status().is_server_error() || !client.is_free() {
            return Err(Error::new(Failure::Answer));
        }
        Ok(())
    }

    fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    fn reuse(&self, client: &Client) -> Verdict {
        // Whether an answer is still owed is counted.
        if client.has_unread_rest() { Verdict::NeedsReset } else { Verdict::Keep }
    }

    fn idle_limit(&self, client: &Client) -> Option<Duration> {
        client.idle_limit()
    }

    async fn reset(&self, client: &mut Client) -> Result<(), Error> {
        client.drain().await
    }

    fn speaks(&self) -> &'static str {
        if self.is_secure() { "HTTPS" } else { "HTTP" }
    }

    fn is_gibberish(&self, error: &Error) -> bool {
        error.cause().is_some_and(livepool::protocol::is_connection_error)
    }

    #[cfg(feature = "tls")]
    fn is_permanent(&self, error: &Error) -> bool {
        error.is_distrusted()
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        // What a server says that has waited in vain for a request, before it closes.
        let is_408 = bytes.starts_with(b"HTTP/1.1 408") || bytes.starts_with(b"HTTP/1.0 408");
        if is_408 { Verdict::PeerCloses } else { Verdict::Close }
    }
}
