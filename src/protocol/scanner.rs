//! [`Scanner`]: reads along with a client library, and knows what it is owed.

use std::fmt;

use crate::event::CloseReason;
use crate::sync::{Arc, Mutex, PoisonError};

/// Reads along with a client: every byte that it sent and every byte it received passes here, in
/// order, in pieces of any size, before encryption and after decryption.
///
/// A client library with a driver task does not say when an answer is complete, and a caller who
/// went away does not wait for it. Whoever knows the framing of the protocol can tell from the bytes:
/// how many answers are owed, so that the read timeout runs only while one is, and a connection that
/// owes one to its last user is never given to the next. Given to [`Wire::scan`](crate::protocol::Wire::scan).
///
/// It is called on every read and write: no waiting, no blocking, and as little copying as can be.
pub trait Scanner: Send + 'static {
    /// The client sent these bytes.
    fn sent(&mut self, bytes: &[u8]);

    /// The client received these bytes.
    fn received(&mut self, bytes: &[u8]);

    /// How many answers the client is owed now.
    fn owed(&self) -> usize;

    /// Whether the next answer may take as long as it likes: the server was asked to wait, or waits
    /// for the client. The read timeout does not run then; deadlines do, and the peer is watched.
    fn is_patient(&self) -> bool {
        false
    }

    /// What follows from the bytes so far; asked after every piece that was received.
    /// A server that says that it became read-only, say, makes all others of no use, too.
    fn consequence(&mut self) -> Consequence {
        Consequence::Keep
    }

    /// The peer's own word for what the consequence followed from: an SQLSTATE, say. Asked after each
    /// one but [`Consequence::Keep`], and shown in [`Event::Closed`](crate::Event::Closed) and the
    /// log, escaped and cut after 40 characters.
    fn code(&self) -> Option<String> {
        None
    }

    /// How long the longest message of the peer was since this was asked last, the one under way
    /// included: what the client has to hold at once, as it is announced, or as far as it has come
    /// where nothing announces it. What the client hands out in pieces is no message.
    ///
    /// Asked after every piece that was received, and compared with
    /// [`Limits`](crate::config::Limits): a peer that announces more than `limits.message` has lost
    /// its connection before it has sent it. 0, as by default: nothing to compare.
    fn longest(&mut self) -> u64 {
        0
    }
}

/// A scanner that its client looks at, too.
impl<S: Scanner> Scanner for Arc<Mutex<S>> {
    fn sent(&mut self, bytes: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).sent(bytes);
    }

    fn received(&mut self, bytes: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).received(bytes);
    }

    fn owed(&self) -> usize {
        self.lock().unwrap_or_else(PoisonError::into_inner).owed()
    }

    fn is_patient(&self) -> bool {
        self.lock().unwrap_or_else(PoisonError::into_inner).is_patient()
    }

    fn consequence(&mut self) -> Consequence {
        self.lock().unwrap_or_else(PoisonError::into_inner).consequence()
    }

    fn code(&self) -> Option<String> {
        self.lock().unwrap_or_else(PoisonError::into_inner).code()
    }

    fn longest(&mut self) -> u64 {
        self.lock().unwrap_or_else(PoisonError::into_inner).longest()
    }
}

/// What follows from an error for the connection it came over, and for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Consequence {
    /// Nothing: the request was wrong, the connection is fine.
    Keep,
    /// The connection must not be reused: the peer said that its session is not what the client takes
    /// it for. It closes as `protocol_error`.
    Evict,
    /// The same, because the peer has said that it ends it. It closes as `peer_closed`.
    Goodbye,
    /// Nor must any other that was made before: the upstream has changed its role, or is going away.
    /// They close as `invalidated`.
    Invalidate,
}

impl Consequence {
    /// What the connection that it came over ends with.
    pub(crate) fn reason(self) -> Option<CloseReason> {
        match self {
            Self::Keep => None,
            Self::Evict => Some(CloseReason::ProtocolError),
            Self::Goodbye => Some(CloseReason::PeerClosed),
            Self::Invalidate => Some(CloseReason::Invalidated),
        }
    }
}

/// What bytes mean that came while nobody used the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unread {
    /// Nothing bad: a notification, say. They stay where they are, for the client to read.
    Keep,
    /// Nobody asked for them: the connection must not be reused.
    Dirty,
    /// The peer said goodbye: the connection is as good as closed.
    Goodbye,
}

impl fmt::Debug for dyn Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scanner")
    }
}
