//! HTTP/1.1 (hyper), one request at a time on each connection.
//!
//! ```no_run
//! # async fn f() -> Result<(), livepool::http1::Error> {
//! use livepool::http1;
//!
//! let pool = http1::pool("http://127.0.0.1:8080")?;
//! let request = http1::Request::get("/status").body(()).unwrap();
//! let response = pool.send(request).await?;
//! println!("{} {:?}", response.status(), response.into_body().bytes(1 << 20).await?);
//! # Ok(()) }
//! ```
//!
//! # When a connection is used again
//!
//! The [`Body`] of a response holds its connection, and gives it back as soon as both sides are done:
//! the request was sent completely, and the response was received to its end. Nobody has to read it
//! for that; what was received is kept in the body. It is closed instead if either side said
//! `Connection: close`, if an HTTP/1.0 server did not say `keep-alive`, or if the body was dropped
//! half-way, unless its rest is known to be at most 64 KiB: that is read in the background, within
//! `timeouts.reset`. Whatever a server sends while nothing is asked closes the connection: a late
//! `408 Request Timeout` is a goodbye, everything else is dirt.
//!
//! A server may say how long it keeps an idle connection and how many requests it will still take
//! (`Keep-Alive: timeout=5, max=100`). The pool believes it, and stops a little earlier.
//!
//! # When a request is made again
//!
//! A server may close an idle connection in the moment in which a request is on its way. A request of
//! which nothing was sent is made on another connection. One that was sent, and had no byte of an
//! answer, is made once more if its method is idempotent (RFC 9110 section 9.2.2) and its body can be
//! repeated. Any other gets one error, [`Failure::Unanswered`]: the server may have seen it, or not.
//!
//! # Time
//!
//! An answer is owed from the first byte of a request to the last of its response. By default it may
//! take its time, as long as its server's host lives. `timeouts.operation` bounds every request, its
//! response included, and [`Limits`] gives one a deadline of its own. A read timeout, where one is set,
//! runs only while an answer is owed, and starts anew with every byte that moves.
//!
//! # What it does not do
//!
//! Requests for another protocol (`Upgrade`, `CONNECT`) are refused. Interim responses (1xx) are
//! skipped. No redirects, no cookies, no decompression.

mod body;
mod client;
mod driver;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod hints;
mod limits;
mod prepare;
mod protocol;
mod request_body;
mod send;
mod url;

pub use body::Body;
pub use client::Client;
pub use error::{Error, Failure};
pub use limits::Limits;
pub use protocol::Http1;
pub use request_body::RequestBody;
pub use url::{at, pool};

/// The types of requests and responses.
pub use ::http::{self, Request, Response};

/// The trait of bodies that arrive in pieces: of [`Body`], and of what
/// [`RequestBody::stream`] takes.
pub use ::http_body;
