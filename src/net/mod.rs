//! Addresses, socket options and connecting.

mod addr;
mod connect;
mod directory;
mod endpoint;
mod error;
#[cfg(any(test, feature = "__properties"))]
pub(crate) mod fuzzed;
mod io;
mod options;
mod race;
mod report;
mod resolve;

pub use addr::PeerAddr;
pub(crate) use connect::{AttemptGuard, DialTarget, Dialed, dial};
pub(crate) use directory::{Directory, NoDirectory, PendingAttempt};
pub(crate) use endpoint::{Endpoint, upstream_text};
pub use error::{ConnectAttempt, ConnectError};
pub(crate) use io::Io;
pub(crate) use options::{Unavailable, apply_accepted, apply_listening, apply_unix};
pub(crate) use race::MAX_ATTEMPTS;
pub use report::SocketReport;
pub use resolve::Resolve;
pub(crate) use resolve::{Resolver, literal_addr};
