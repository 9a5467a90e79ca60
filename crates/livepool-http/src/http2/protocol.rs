//! [`Http2`]: the [`Protocol`] of HTTP/2.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use h2::client::Builder;
use http::uri::Authority;

use super::client::{Client, DriverTask};
use super::frames::{self, FrameScanner, Said};
use super::send::Http2Share;
use crate::Error;
use crate::http1::upload::DEFAULT_LONGEST_PAUSE;
use livepool::Config;
use livepool::protocol::{Multiplex, Protocol, Share, Spread, Verdict, Wire, is_connection_error};

/// So much of one response is received before somebody reads it: 1 MiB.
const STREAM_WINDOW: u32 = 1 << 20;
/// So much of all responses on a connection: 4 MiB.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The head of a response: 16 KiB, as hyper has it.
const MAX_HEAD_SIZE: u32 = 16 << 10;

/// HTTP/2, as the [`Protocol`] of a pool. [`pool`](super::pool) makes a pool of it from a URL; with
/// [`Builder::protocol`](livepool::Builder::protocol) it has any configuration.
///
/// ```
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use livepool::protocol::Spread;
/// use livepool::{Config, Pool};
/// use livepool_http::http2::Http2;
///
/// // Several servers that do the same: callers are spread over them.
/// let config = Config::new("").with_upstream(["10.0.0.1:50051", "10.0.0.2:50051"]);
/// let http2 = Http2::new().with_spread(Spread::Even(8));
/// let pool = Pool::builder(config).protocol(http2).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone)]
pub struct Http2 {
    /// The configuration of its pool.
    config: Config,
    authority: Option<Authority>,
    h2: Builder,
    spread: Spread,
    pub(super) longest_pause: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<livepool_tls::Tls>,
}

impl Default for Http2 {
    fn default() -> Self {
        let mut h2 = Builder::new();
        h2.enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD_SIZE);
        Self {
            config: Config::default(),
            authority: None,
            h2,
            spread: Spread::Even(DEPTH),
            longest_pause: Some(DEFAULT_LONGEST_PAUSE),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// So many callers share a connection before there is another one: as many as most servers take on one. To
/// a server of one thread 256 callers make 10 % more requests over three connections than over eight.
const DEPTH: usize = 100;

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2")
            .field("authority", &self.authority)
            .field("spread", &self.spread)
            .field("is_secure", &self.is_secure())
            .finish_non_exhaustive()
    }
}

impl Http2 {
    /// HTTP/2 without encryption. The `:authority` of requests that name none is what stands in the pool's
    /// `upstream`.
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

    /// The same with this `:authority` for requests that name none.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`](crate::Failure::Setup), if this cannot be one.
    pub fn with_host(mut self, host: &str) -> Result<Self, Error> {
        self.authority = Some(Authority::try_from(host).map_err(Error::setup)?);
        Ok(self)
    }

    /// The same with callers spread over connections in this way. By default 100 share a connection before
    /// there is another one, and each goes to the one with the fewest.
    #[must_use]
    pub fn with_spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// The same with so many bytes that are received before somebody reads them, of one response, and of
    /// all responses on a connection: what a connection may hold in memory. Default 1 MiB and 4 MiB. A
    /// response comes no faster than one of these per round trip.
    #[must_use]
    pub fn with_windows(mut self, of_stream: u32, of_connection: u32) -> Self {
        const MOST: u32 = (1 << 31) - 1;
        self.h2.initial_window_size(of_stream.min(MOST));
        self.h2.initial_connection_window_size(of_connection.min(MOST));
        self
    }

    /// The same with so many bytes of a response's head at most, as RFC 9113 section 6.5.2 counts them.
    /// Default 16 KiB. What is longer is [malformed](crate::Failure::Malformed).
    #[must_use]
    pub fn with_max_head_size(mut self, bytes: u32) -> Self {
        self.h2.max_header_list_size(bytes);
        self
    }

    /// The same with this as the longest time for which the source of a request body may pause when
    /// its response is over and nobody waits any more; `None` for any time. Default 5 minutes. The
    /// stream is ended then.
    #[must_use]
    pub fn with_longest_pause(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.longest_pause = limit.into();
        self
    }

    /// The same over TLS: `https`. Of the protocols that `tls` offers (ALPN) `h2` alone is.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: &livepool_tls::Tls) -> Self {
        self.tls = Some(tls.for_protocol(b"h2"));
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
        let Some(tls) = &self.tls else { return Ok(wire) };
        let (wire, alpn) = tls.connect_with_alpn(wire).await.map_err(Error::setup)?;
        match alpn.as_deref() {
            Some(b"h2") => Ok(wire),
            // RFC 9113 section 3.2: over TLS it is chosen, or it is not spoken.
            _ => Err(Error::setup(NotChosen(alpn))),
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypted(&self, wire: Wire) -> Result<Wire, Error> {
        Ok(wire)
    }

    /// The `:authority` of requests on this connection that name none.
    fn authority_of(&self, wire: &Wire) -> Result<Authority, Error> {
        if let Some(authority) = &self.authority {
            return Ok(authority.clone());
        }
        crate::prepare::host_of(wire.host(), wire.peer_addr(), self.is_secure())
            .parse()
            .map_err(Error::setup)
    }
}

/// Over TLS the server has to choose HTTP/2.
#[cfg(feature = "tls")]
#[derive(Debug)]
struct NotChosen(Option<Vec<u8>>);

#[cfg(feature = "tls")]
impl fmt::Display for NotChosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                let other = livepool::protocol::Escaped(&other);
                write!(f, "the server chose {other}, not h2 (ALPN)")
            }
            None => f.write_str("the server did not choose h2 (ALPN): does it speak HTTP/2?"),
        }
    }
}

#[cfg(feature = "tls")]
impl std::error::Error for NotChosen {}

impl Protocol for Http2 {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        let authority = self.authority_of(&wire)?;
        let wire = self.encrypted(wire).await?;
        let said = Arc::<Said>::default();
        // Before the first byte: it reads all of them.
        let ledger = wire.scan(FrameScanner::new(&said));
        let driver = wire.driver();
        let (sender, mut connection) = self.h2.handshake(wire).await.map_err(Error::setup)?;
        let ping = connection.ping_pong();
        let mut driver = Box::pin(driver.run(connection));
        // A server that speaks HTTP/2 says so before it is asked anything (RFC 9113 section 3.4).
        let greeted = poll_fn(|cx| match driver.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended.err())),
            Poll::Pending if said.is_greeted() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        greeted.await.map_err(|error| match error {
            _ if said.is_http1() => {
                let what = "the server answered in HTTP/1.1";
                Error::setup(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            Some(error) => Error::setup(error),
            None => Error::setup(io::Error::from(io::ErrorKind::UnexpectedEof)),
        })?;
        let driver = DriverTask::start(driver);
        Ok(Client { sender, ping, said, ledger, authority, http2: self.clone(), _driver: driver })
    }

    /// With the PING frame of RFC 9113 section 6.7, which the server's library answers.
    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        client.ping().await
    }

    fn reuse(&self, client: &Client) -> Verdict {
        // One that takes none may take some again, but who knows when.
        match client.said.max_streams() == 0 || client.said.was_late() {
            true => Verdict::Close,
            false => Verdict::Keep,
        }
    }

    fn speaks(&self) -> &'static str {
        if self.is_secure() { "HTTP/2 over TLS" } else { "HTTP/2" }
    }

    fn is_gibberish(&self, error: &Error) -> bool {
        let is_broken = error.find::<h2::Error>().is_some();
        is_broken || error.cause().is_some_and(is_connection_error)
    }

    #[cfg(feature = "tls")]
    fn is_permanent(&self, error: &Error) -> bool {
        error.is_distrusted() || error.find::<NotChosen>().is_some()
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        frames::unread(bytes)
    }
}

impl Multiplex for Http2 {
    type Shared = Http2Share;

    fn shared(&self, share: Share<Self>) -> Http2Share {
        Http2Share(share)
    }

    fn spread(&self) -> Spread {
        self.spread
    }

    fn most_shares(&self, client: &Client) -> usize {
        client.said.max_streams()
    }
}
