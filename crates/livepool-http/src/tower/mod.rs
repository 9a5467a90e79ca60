//! Pools as services of requests: [`PoolService`], and [`Grpc`] for gRPC clients, tonic's say.
//!
//! And managed sockets under other pools: a connector for hyper-util's client, tonic, and every other
//! client that takes a [`tower_service::Service`] from a URI to a connection.
//!
//! ```no_run
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use livepool::Config;
//! use livepool_http::tower::Connect;
//!
//! # fn f() -> Result<(), livepool::ConfigError> {
//! let connect = Connect::new(&Config::default().with_name("outgoing"))?;
//! let client: Client<_, http_body_util::Empty<bytes::Bytes>> =
//!     Client::builder(TokioExecutor::new()).build(connect);
//! # Ok(()) }
//! ```
//!
//! Every connection has the keepalive, user timeout and other socket options of the configuration,
//! its connect deadline and its timeouts, and is counted by reason when it ends. The other pool
//! decides which connection is used, and how many there are. A pool of `livepool` would be told of
//! changes on idle connections, and that one cannot be; but a peer that vanishes ends its
//! connection within the keepalive's time, or sooner where an answer is waited for: it has to give
//! signs of life meanwhile.
//!
//! # The read timeout
//!
//! A read timeout runs only if [`timeouts.read`](livepool::config::Timeouts::read) is set. The
//! other pool reads its connections all the time, also while no request is on them. So the
//! connection reads along with what is written. The read timeout runs where that is HTTP/1 in the
//! clear: from the last byte of a request until the first bytes that follow. While an upload's
//! source pauses the server waits for us, and nothing times out; where it takes no bytes
//! `timeouts.write` is the bound. An answer that stops half-way is not seen: give the request a
//! timeout of its own for that.
//!
//! Other traffic has no read timeout, since the debt cannot be seen: HTTP/2; a WebSocket or another
//! protocol behind an upgrade; a tunnel; and what runs under TLS, except that a server has to
//! answer the first message of its handshake in time. Give such requests timeouts of their own, and
//! have HTTP/2 send pings (`http2_keep_alive_interval`).
//!
//! # `https`
//!
//! The connection is a bare one, whatever the scheme. Wrap the connector for TLS:
//! `hyper_rustls::HttpsConnectorBuilder` takes it, and tonic adds its own. Without that, a connection
//! for a URI of `https` or `wss` refuses the first write with an error of kind `PermissionDenied`:
//! nothing that is not TLS is sent there.
//!
//! # Addresses
//!
//! Responses carry hyper-util's `HttpInfo` in their extensions, as those of its own connector do: the
//! addresses of both ends, for TCP.

mod connect;
mod connection;
#[cfg(any(test, feature = "__properties"))]
#[doc(hidden)]
pub mod fuzzed;
#[cfg(feature = "http2")]
mod grpc;
mod request_tracker;
mod service;

pub use connect::{Connect, Connecting, Error};
pub use connection::Connection;
#[cfg(feature = "http2")]
pub use grpc::{Grpc, GrpcBody};
pub use service::PoolService;

/// The trait of services: [`Connect`], [`PoolService`].
pub use ::tower_service;
