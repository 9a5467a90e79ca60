//! [`Handshake`]: what turns a stream into a connection, as part of its dial.

use std::io;

use futures_util::future::BoxFuture;

use super::Stream;
use crate::config::Limits;
use crate::deadline::Deadline;
use crate::pool::HookError;
use crate::protocol::Conn;

/// A protocol's work on a stream that was just connected.
pub(crate) trait Handshake: Send + Sync {
    /// Drop it, and the stream is closed. `limits`: how much the client may hold. `deadline`: when the
    /// dial is over.
    fn shake_hands<'a>(
        &'a self,
        stream: Box<Stream>,
        limits: Limits,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Conn, Refused>>;

    /// The protocol's name; may be empty.
    fn speaks(&self) -> &'static str;
}

/// The work of the pool's user on a connection that was just made.
pub(crate) trait AfterConnect: Send + Sync {
    fn after_connect<'a>(
        &'a self,
        conn: &'a mut Conn,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), HookError>>;
}

/// The program at the other end wants no connection, or cannot have one now.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: io::Error,
    /// A later dial will be refused in the same way, until somebody changes something.
    pub(crate) is_permanent: bool,
    /// No answer shows that the peer speaks the protocol.
    pub(crate) is_doubtful: bool,
}
