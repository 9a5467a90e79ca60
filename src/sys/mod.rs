//! Code that differs between systems, and every line of `unsafe`.
//!
//! "Unsupported" is a value here ([`OptionError::Unsupported`](sockopt::OptionError)), never an `Ok` that
//! did nothing.

pub(crate) mod keepalive;
#[cfg(unix)]
pub(crate) mod lock;
pub(crate) mod peek;
pub(crate) mod place;
pub(crate) mod reuse_port;
pub(crate) mod sockopt;
pub(crate) mod tcp_info;
