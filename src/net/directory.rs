//! [`Directory`]: a dial asks it about addresses, and reports what became of them.

use super::PeerAddr;
use crate::event::DialOutcome;

/// The knowledge of an upstream's peers. A dial asks in which order to try them, and reports.
pub(crate) trait Directory: Send + Sync {
    /// Reports the addresses of an endpoint, which were looked up.
    fn resolved(&self, endpoint: usize, addrs: &[PeerAddr]);

    /// The endpoint that leads to this address, if it is known.
    fn endpoint_of(&self, addr: &PeerAddr) -> Option<usize>;

    /// Puts the addresses that a dial is about to try, which come in the order of RFC 8305, in the
    /// order it is to try them.
    fn order(&self, addrs: &mut Vec<PeerAddr>);

    /// Reports that an attempt to connect to this address begins.
    fn began(&self, addr: &PeerAddr) -> Box<dyn PendingAttempt + '_>;
}

/// An attempt to connect to an address, known to the directory.
pub(crate) trait PendingAttempt: Send {
    /// Reports the end of the attempt; called once. [`Cancelled`](DialOutcome::Cancelled) means that it was
    /// given up, because another address answered first or the caller went away.
    fn ended(&mut self, outcome: DialOutcome);
}

/// The directory of connections that belong to no pool: it knows of no peer.
pub(crate) struct NoDirectory;

impl Directory for NoDirectory {
    fn resolved(&self, _: usize, _: &[PeerAddr]) {}
    fn order(&self, _: &mut Vec<PeerAddr>) {}

    fn endpoint_of(&self, _: &PeerAddr) -> Option<usize> {
        None
    }

    fn began(&self, _: &PeerAddr) -> Box<dyn PendingAttempt> {
        Box::new(NoDirectory)
    }
}

impl PendingAttempt for NoDirectory {
    fn ended(&mut self, _: DialOutcome) {}
}
