//! Our sockets under the pools of others: a connector for hyper-util's client, tonic, and whatever
//! else takes a [`tower_service::Service`] from a URI to a connection.
//!
//! ```no_run
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use livepool::Config;
//! use livepool::tower::Connect;
//!
//! # fn f() -> Result<(), livepool::ConfigError> {
//! let connect = Connect::new(&Config::default().with_name("outgoing"))?;
//! let client: Client<_, http_body_util::Empty<bytes::Bytes>> =
//!     Client::builder(TokioExecutor::new()).build(connect);
//! # Ok(()) }
//! ```
//!
//! Every connection has the keepalive, user timeout and other socket options of the configuration,
//! its connect deadline and its timeouts, and is counted by reason when it ends. Which connection is
//! used, and how many there are, is the other pool's business. It cannot be told of what our pool
//! would have noticed; but a peer that vanishes ends its connection within the keepalive's time, or
//! sooner where an answer is waited for: it has to give signs of life meanwhile.
//!
//! # The read timeout
//!
//! There is none unless [`timeouts.read`](crate::config::Timeouts::read) is set. Such a pool reads its connections all the time, also while nothing is asked. So the read timeout
//! runs from a write until the first bytes that follow, and starts anew with every write. It does not
//! see an answer that stops half-way: give the request a timeout of its own for that.
//!
//! That is right for HTTP/1, in the clear and under TLS. HTTP/2 sends acknowledgements that nobody
//! answers. In the clear it is recognised by its first bytes, and the read timeout is off; under TLS
//! it cannot be: leave `timeouts.read` alone there, and have HTTP/2 send pings of its own
//! (`http2_keep_alive_interval`).
//!
//! # `https`
//!
//! The connection is a bare one, whatever the scheme; that only chooses the port where the URI has
//! none. Wrap the connector for TLS: `hyper_rustls::HttpsConnectorBuilder` takes it, and tonic adds
//! its own.

mod connect;
mod connection;

pub use connect::{Connect, Connecting, Error};
pub use connection::Connection;

/// The trait that [`Connect`] is for.
pub use ::tower_service;
