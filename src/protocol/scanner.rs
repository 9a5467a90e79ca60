//! [`Scanner`]: reads along with a client library, and knows what it is owed.

use std::fmt;

use super::Verdict;
use crate::sync::{Arc, Mutex, PoisonError};

/// Reads along with a client: every byte that it sent and every byte it received passes here, in
/// order, in pieces of any size, before encryption and after decryption.
///
/// A client library with a driver task does not say when an answer is complete, and a caller who
/// went away does not wait for it. The framing of the protocol tells from the bytes how many
/// answers are owed, so that the read timeout runs only while one is, and a connection that owes
/// one to its last user is never given to the next. Given to
/// [`Wire::scan`](crate::protocol::Wire::scan).
///
/// A scanner is called on every read and write: no waiting, no blocking, and as little copying as
/// can be.
///
/// ```
/// use livepool::protocol::{Scanner, Verdict};
///
/// /// Every line that is sent is answered with a line.
/// #[derive(Default)]
/// struct Lines {
///     owed: usize,
/// }
///
/// fn lines(bytes: &[u8]) -> usize {
///     bytes.iter().filter(|byte| **byte == b'\n').count()
/// }
///
/// impl Scanner for Lines {
///     fn sent(&mut self, bytes: &[u8]) {
///         self.owed += lines(bytes);
///     }
///
///     fn received(&mut self, bytes: &[u8]) {
///         self.owed = self.owed.saturating_sub(lines(bytes));
///     }
///
///     fn owed(&self) -> usize {
///         self.owed
///     }
/// }
/// # let mut scanner = Lines::default();
/// # scanner.sent(b"a\nb\n");
/// # scanner.received(b"a\n");
/// # assert_eq!(scanner.owed(), 1);
/// # let _ = Verdict::Keep;
/// ```
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

    /// Whether the peer may speak while nothing is owed: bytes that come then are no answer to anybody,
    /// and the [verdict](Self::verdict) is all that is said of those that the client reads. `false`, as
    /// by default: [`Protocol::unread`](super::Protocol::unread) is asked of them.
    fn peer_may_speak(&self) -> bool {
        false
    }

    /// Says what follows from the bytes so far; asked after every piece that was received. A server
    /// that says that it became read-only, say, makes all others of no use, too.
    fn verdict(&mut self) -> Verdict {
        Verdict::Keep
    }

    /// The peer's own word for what the verdict followed from: an SQLSTATE, say. Asked after each
    /// one that closes the connection, and shown in [`Event::Closed`](crate::Event::Closed) and the
    /// log, escaped and cut after 40 characters.
    fn code(&self) -> Option<String> {
        None
    }

    /// How long the longest message of the peer was since this was asked last, the one under way
    /// included: what the client has to hold at once, as it is announced, or as far as it has come
    /// where nothing announces it. Data that the client hands out in pieces is no message.
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

    fn peer_may_speak(&self) -> bool {
        self.lock().unwrap_or_else(PoisonError::into_inner).peer_may_speak()
    }

    fn verdict(&mut self) -> Verdict {
        self.lock().unwrap_or_else(PoisonError::into_inner).verdict()
    }

    fn code(&self) -> Option<String> {
        self.lock().unwrap_or_else(PoisonError::into_inner).code()
    }

    fn longest(&mut self) -> u64 {
        self.lock().unwrap_or_else(PoisonError::into_inner).longest()
    }
}

impl fmt::Debug for dyn Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scanner")
    }
}
