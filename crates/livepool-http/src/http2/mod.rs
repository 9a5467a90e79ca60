//! HTTP/2 (the crate `h2`), many requests at a time on each connection.
//!
//! ```no_run
//! # async fn f() -> Result<(), livepool_http::Error> {
//! use livepool_http::{PoolExt, Request, http2};
//!
//! let pool = http2::pool("http://127.0.0.1:8080")?;
//! let request = Request::get("/status").body(()).unwrap();
//! let response = pool.send(request).await?;
//! println!("{} {:?}", response.status(), response.into_body().bytes(1 << 20).await?);
//! # Ok(()) }
//! ```
//!
//! # Connections and requests
//!
//! Each request is a stream of HTTP/2, and takes a share of a connection for as long as it lasts: see
//! [`Pool::share`](livepool::Pool::share). So there are never more on a connection than the server takes
//! (`SETTINGS_MAX_CONCURRENT_STREAMS`, as it is now), than
//! [`max_shares`](livepool::Config::max_shares) says, and than its [`Spread`](livepool::protocol::Spread)
//! wants: see [`Http2::with_spread`]. Who finds no room waits in the pool's queue, within
//! `timeouts.checkout`.
//!
//! The [`Body`](crate::Body) of a response holds its share until its end was received and the request was
//! sent completely. A request or a body that is dropped before ends its stream (`RST_STREAM` with `CANCEL`),
//! and nothing else. If the request goes on after the end of its response, a task sends the rest of it, for as
//! long as its source does not pause for longer than [`Http2::with_longest_pause`].
//!
//! In clear the server is told to speak HTTP/2 at once (prior knowledge, RFC 9113 section 3.3); over TLS it has
//! to choose `h2` (ALPN). A server that does not is an error that says so. Whether a URL is one for HTTP/1.1 or
//! HTTP/2 is the caller's choice: there is no falling back.
//!
//! # When a connection ends
//!
//! A server that goes away (`GOAWAY`) gets no new requests: those that it has taken are finished, and then the
//! connection is closed, as `peer_closed`. A connection is closed as well, as `not_reusable`, when its requests
//! have gone, if one of them did not come in time: others go elsewhere meanwhile. (The deadline of a request's
//! own says nothing of its connection.) What breaks the rules of RFC 9113 ends its
//! connection at once. So does a server that sends more than 1000 frames within a second (pings, settings)
//! without an answer among them. One that takes no requests at all (`MAX_CONCURRENT_STREAMS` is 0) is
//! left at once, and tried three times.
//!
//! The ping of [`Validation::Ping`](livepool::config::Validation) is that of HTTP/2.
//!
//! # When a request is made again
//!
//! A request of which the server has done nothing is made again, whatever its
//! method: it was not written, or the server said that it did not take it (`GOAWAY`), as often as it takes
//! within `timeouts.checkout`; or the server refused it (`REFUSED_STREAM`; RFC 9113 section 8.7), three times at
//! most. Only while all that was sent of its body is at hand: bytes and text always are, of a stream the first
//! 64 KiB are kept until the response begins. A
//! request that was sent, and whose connection ended before the response began, is made once more if its
//! method is idempotent (RFC 9110 section 9.2.2). Every other one fails, with an error that says how far it
//! came.
//!
//! # Time
//!
//! `timeouts.read`, where it is set, is the time between two pieces of a response, and
//! `timeouts.operation` that for all of it, for each request of its own. [`Limits`](crate::Limits) gives one
//! request a deadline of its own; an upload that goes on after its response has only the longest pause. A server whose host is silent is found by the requests that wait, as on any
//! connection of the pool.
//!
//! # What it does not do
//!
//! No server push, no `CONNECT`, no priorities. Interim responses (1xx) are skipped.

mod body;
mod client;
mod exchange;
mod frames;
#[cfg(any(test, feature = "__properties"))]
pub(crate) mod fuzzed;
mod protocol;
mod send;
mod upload;
mod url;

pub(crate) use body::Http2Body;
pub use client::Client;
pub use protocol::Http2;
pub use send::Http2Share;
#[cfg(feature = "tower")]
pub(crate) use send::send;
pub use url::pool;

/// A pool of HTTP/2.
///
/// ```
/// use livepool_http::{Error, PoolExt as _, Request, http2};
///
/// async fn is_up(pool: &http2::Pool) -> Result<bool, Error> {
///     let request = Request::get("/health").body(()).unwrap();
///     Ok(pool.send(request).await?.status().is_success())
/// }
/// ```
pub type Pool = livepool::Pool<Http2>;

/// `url` and `pool`, as a configuration file says them.
///
/// ```
/// use livepool_http::{SetupError, http2};
///
/// fn rpc(settings: &http2::Settings) -> Result<http2::Pool, SetupError> {
///     settings.pool()
/// }
/// ```
pub type Settings = livepool::Settings<Http2>;
