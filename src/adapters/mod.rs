//! Protocols of the field, each on the client library its users know, each a feature of its own.
//! Nothing outside this room names one.

#[cfg(feature = "http1")]
pub mod http1;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod seen;
#[cfg(all(test, any(feature = "postgres", feature = "redis")))]
mod splits;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tower")]
pub mod tower;
