//! Addresses, socket options and connecting.
mod addr;
pub use addr::PeerAddr;
