//! HTTP/1.1 (hyper), one request at a time on each connection. HTTP/2, with many at a time, is in
#![cfg_attr(feature = "http2", doc = "[`http2`].")]
#![cfg_attr(not(feature = "http2"), doc = "`http2`, with the feature of that name.")]
//!
//! ```no_run
//! # async fn f() -> Result<(), livepool_http::Error> {
//! use livepool_http::{PoolExt, Request};
//!
//! let pool = livepool_http::pool("http://127.0.0.1:8080")?;
//! let request = Request::get("/status").body(()).unwrap();
//! let response = pool.send(request).await?;
//! println!("{} {:?}", response.status(), response.into_body().bytes(1 << 20).await?);
//! # Ok(()) }
//! ```
//!
//! # When a connection is used again
//!
//! The [`Body`] of a response holds its connection, and gives it back as soon as both sides are
//! done: the request was sent completely, and the response was received to its end. The caller need
//! not have read it for that; data that was received is kept in the body. The connection is closed
//! instead if either side said `Connection: close`, if an HTTP/1.0 server did not say `keep-alive`,
//! if the response has both `Transfer-Encoding` and `Content-Length` (RFC 9112 section 6.1), or if
//! the body was dropped half-way. Of a body that was dropped at most 64 KiB are read in the
//! background, within `timeouts.reset`: if its length is known and not more than that, or if it
//! comes in chunks and its end is there, or comes within 50 ms. Bytes that a server sends while
//! nothing is asked close the connection: as `peer_closed` if they are a late `408 Request
//! Timeout`, as `dirty` otherwise, or where they come between a checkout and its request.
//!
//! A server may say how long it keeps an idle connection and how many requests it will still take
//! (`Keep-Alive: timeout=5, max=100`). The pool believes it, and stops a little earlier.
//!
//! # When the answer comes before the request is over
//!
//! A server may answer `200` at once and read an upload then. The pool sends such a request to its
//! end: while the [`Body`] of the response is polled, and by a task of the pool when that was read
//! to its end, has none to be read, or was dropped. Until then the connection is in use, and it is
//! used again afterwards. The bounds are the deadline of the request, `timeouts.write` where the
//! server takes no bytes, and [`Http1::with_longest_pause`] where the source gives none. A rest
//! that could not be sent is logged at debug, and the connection closes as `unfinished`,
//! `cancelled` or `op_timeout`. Closing the pool, or dropping the last of its handles, cuts what is
//! still being sent.
//!
//! A request is cut, and its connection closed, if the response has a status of 400 or more or says
//! `Connection: close` (RFC 9112 section 9.6), once it was read or dropped; if the body of the response
//! is dropped and its rest is not one that is read in the background; and if the future of the request
//! is dropped before there was a response.
//!
//! # When a request is made again
//!
//! A server may close an idle connection in the moment in which a request is on its way. A request
//! of which nothing was sent is made on another connection, and once more if it was a new one that
//! the server let go of at once, as one that ends does. A request that was sent, and had no byte of
//! an answer, is made once more if its method is idempotent (RFC 9110 section 9.2.2) and its body
//! can be repeated. Every other request gets the error [`Failure::Unanswered`]: the server may have
//! seen it, or not.
//!
//! # Time
//!
//! An answer is owed from the first byte of a request to the last of its response. By default it
//! may take its time, as long as its server's host lives. `timeouts.operation` bounds every
//! request, its response included, and [`Limits`] gives one a deadline of its own. A read timeout,
//! where one is set, runs only while an answer is owed, and starts anew with every byte that moves.
//! The read timeout does not run while the source of an upload has nothing to send: the server
//! cannot answer what it does not have. While there are bytes that it does not take,
//! `timeouts.write` is the bound.
//!
//! # What is understood
//!
//! The parser is hyper's. The number and size of header fields and what is tolerated in them are
//! settings of [`Http1`]. An answer that hyper cannot parse is [`Failure::Malformed`].
//!
//! # What it does not do
//!
//! Requests for another protocol (`Upgrade`, `CONNECT`), with a URI for another scheme or in another
//! version are refused at once, before a connection is taken for them. Interim responses (1xx) are
//! skipped. No redirects, no cookies, no decompression.

mod body;
mod error;
#[cfg(any(test, feature = "__properties"))]
#[doc(hidden)]
pub mod fuzzed;
mod http1;
#[cfg(feature = "http2")]
pub mod http2;
mod limits;
mod prepare;
mod request_body;
mod send;
#[cfg(feature = "tower")]
pub mod tower;
mod url;

pub use body::Body;
pub use error::{Error, Failure};
pub use http1::{Client, Http1};
pub use limits::Limits;
pub use request_body::RequestBody;
pub use send::{GuardExt, PoolExt};
pub use url::pool;

/// The types of requests and responses.
pub use ::http::{self, Request, Response};
/// The pool.
pub use livepool;
/// Settings of the pool, for [`Http1::with_config`], and why no pool could be made.
pub use livepool::{Config, SetupError};

/// The trait of bodies that arrive in pieces: of [`Body`], and of what
/// [`RequestBody::stream`] takes.
pub use ::http_body;

/// A pool of HTTP/1.1.
///
/// ```
/// use livepool_http::{Error, Pool, PoolExt as _, Request};
///
/// async fn is_up(pool: &Pool) -> Result<bool, Error> {
///     let request = Request::get("/health").body(()).unwrap();
///     Ok(pool.send(request).await?.status().is_success())
/// }
/// ```
pub type Pool = livepool::Pool<Http1>;

/// A connection that was taken out of a [`Pool`].
///
/// ```
/// use livepool_http::{Error, Guard, GuardExt as _, Request};
///
/// async fn is_up(guard: Guard) -> Result<bool, Error> {
///     let request = Request::get("/health").body(()).unwrap();
///     Ok(guard.send(request).await?.status().is_success())
/// }
/// ```
pub type Guard = livepool::Guard<Http1>;

/// `url` and `pool`, as a configuration file says them.
///
/// ```
/// use livepool_http::{Http1, Pool, Settings};
///
/// fn billing(settings: &Settings) -> Result<Pool, livepool_http::Error> {
///     Ok(Http1::from_settings(settings)?.with_ping("/health")?.pool()?)
/// }
/// ```
pub type Settings = livepool::Settings<Http1>;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
