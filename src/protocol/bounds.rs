//! [`Bounds`]: how much a peer may have a client hold.
//!
//! A client collects a message before it hands anything out, and keeps the buffer it has grown for
//! that. So the one who reads along compares: with what may be read before the handshake is over,
//! with the longest message there may be, and with the longest after which a connection is kept.

use std::io;

use crate::config::Limits;
use crate::stream::TooLarge;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Of one connection of a client.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: Limits,
    /// Bytes read since the handshake began, or since the layer below was done with its own.
    read: AtomicU64,
    is_greeted: AtomicBool,
    /// What is below the protocol has its own handshake behind it.
    is_based: AtomicBool,
    /// A message went over it after which it is not kept.
    is_outgrown: AtomicBool,
    /// The bound that ended the connection.
    exceeded: OnceLock<TooLarge>,
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            read: AtomicU64::new(0),
            is_greeted: AtomicBool::new(limits.handshake.is_none()),
            is_based: AtomicBool::new(false),
            is_outgrown: AtomicBool::new(false),
            exceeded: OnceLock::new(),
        }
    }

    /// So many bytes were read; counted until the handshake is over.
    #[inline]
    pub(super) fn has_read(&self, bytes: usize) -> io::Result<()> {
        if self.is_greeted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = self.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.compare(bytes, self.limits.handshake, true)
    }

    /// The same below the protocol. Once that is encrypted, say, what counts is what comes out of it.
    pub(super) fn has_read_below(&self, bytes: usize) -> io::Result<()> {
        if self.is_based.load(Ordering::Relaxed) { Ok(()) } else { self.has_read(bytes) }
    }

    /// What is below the protocol is done with its own handshake.
    pub(super) fn begin_above(&self) {
        self.is_based.store(true, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
    }

    /// The handshake is over.
    pub(super) fn greeted(&self) {
        self.is_greeted.store(true, Ordering::Relaxed);
    }

    /// The peer's message is so long.
    #[inline]
    pub(super) fn receives(&self, message: u64) -> io::Result<()> {
        if message == 0 {
            return Ok(());
        }
        self.grows_to(message);
        if !self.is_greeted.load(Ordering::Relaxed) {
            self.compare(message, self.limits.handshake, true)?;
        }
        self.compare(message, self.limits.message, false)
    }

    /// The client has so much in a buffer.
    #[inline]
    pub(super) fn grows_to(&self, bytes: u64) {
        if self.limits.retire_above.is_some_and(|most| bytes > most as u64) {
            self.is_outgrown.store(true, Ordering::Relaxed);
        }
    }

    /// Whether its buffers are larger than an idle connection's may be.
    pub(super) fn is_outgrown(&self) -> bool {
        self.is_outgrown.load(Ordering::Relaxed)
    }

    /// The bound that ended the connection, if one did.
    pub(super) fn exceeded(&self) -> Option<TooLarge> {
        self.exceeded.get().copied()
    }

    fn compare(&self, length: u64, limit: Option<usize>, in_handshake: bool) -> io::Result<()> {
        match limit {
            Some(limit) if length > limit as u64 => {
                let exceeded = TooLarge { length, limit, in_handshake };
                Err((*self.exceeded.get_or_init(|| exceeded)).into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn bounds() -> Bounds {
        Bounds::new(Limits {
            message: Some(100 * KIB),
            handshake: Some(10 * KIB),
            retire_above: Some(50 * KIB),
        })
    }

    #[test]
    fn what_is_read_is_counted_until_the_handshake_is_over_and_below_the_protocol_for_itself() {
        let bounds = bounds();
        bounds.has_read_below(10 * KIB).unwrap();
        bounds.begin_above();
        bounds.has_read_below(10 * KIB).unwrap();
        bounds.has_read(9 * KIB).unwrap();
        let error = bounds.has_read(2 * KIB).unwrap_err();
        let exceeded = TooLarge::of(&error).unwrap();
        assert_eq!((exceeded.length, exceeded.limit), (11 * KIB as u64, 10 * KIB));
        assert!(exceeded.in_handshake);
        assert!(bounds.has_read(1).is_err(), "once too many is too many");

        let later = self::bounds();
        later.greeted();
        later.has_read(1 << 30).unwrap();
    }

    #[test]
    fn a_message_may_be_longer_than_what_is_kept_and_not_longer_than_what_is_allowed() {
        let bounds = bounds();
        bounds.greeted();
        bounds.receives(50 * KIB as u64).unwrap();
        bounds.grows_to(50 * KIB as u64);
        assert!(!bounds.is_outgrown());
        bounds.receives(100 * KIB as u64).unwrap();
        assert!(bounds.is_outgrown());
        assert_eq!(bounds.exceeded(), None);
        assert!(bounds.receives(u64::MAX).is_err());
        assert_eq!(bounds.exceeded().unwrap().length, u64::MAX);
    }

    #[test]
    fn a_message_of_a_handshake_is_held_to_the_bound_of_the_handshake() {
        let error = bounds().receives(11 * KIB as u64).unwrap_err();
        assert!(TooLarge::of(&error).unwrap().in_handshake);
    }

    #[test]
    fn without_limits_nothing_is_too_large() {
        let bounds = Bounds::new(Limits::unlimited());
        bounds.has_read(usize::MAX).unwrap();
        bounds.receives(u64::MAX).unwrap();
        assert!(!bounds.is_outgrown());
    }
}
