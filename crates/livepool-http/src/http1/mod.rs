//! HTTP/1.1: one request at a time on each connection.

mod background;
mod body;
mod client;
mod driver;
mod exchange;
pub(crate) mod persistence;
mod protocol;
mod send;
mod syntax;
pub(crate) mod upload;

pub(crate) use body::Http1Body;
pub use client::Client;
pub use protocol::Http1;
