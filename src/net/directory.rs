//! [`Directory`]: what a dial asks about addresses, and tells what became of them.

use std::io;

use super::PeerAddr;

/// Whoever knows the peers of an upstream. A dial asks in which order to try them, and reports.
pub(crate) trait Directory: Send + Sync {
    /// The addresses of one endpoint were looked up.
    fn resolved(&self, endpoint: usize, addrs: &[PeerAddr]);

    /// Puts the addresses that a dial is about to try, which come in the order of RFC 8305, in the
    /// order it is to try them.
    fn order(&self, addrs: &mut Vec<PeerAddr>);

    /// An attempt to connect to this address begins.
    fn began(&self, addr: &PeerAddr) -> Box<dyn PendingAttempt + '_>;
}

/// An attempt to connect to one address.
pub(crate) trait PendingAttempt: Send {
    /// It ended, once. `None`: it was given up, because another address answered first or the caller
    /// went away.
    fn ended(&mut self, result: Option<Result<(), &io::Error>>);
}

/// For connections that belong to no pool.
pub(crate) struct NoDirectory;

impl Directory for NoDirectory {
    fn resolved(&self, _: usize, _: &[PeerAddr]) {}
    fn order(&self, _: &mut Vec<PeerAddr>) {}

    fn began(&self, _: &PeerAddr) -> Box<dyn PendingAttempt> {
        Box::new(NoDirectory)
    }
}

impl PendingAttempt for NoDirectory {
    fn ended(&mut self, _: Option<Result<(), &io::Error>>) {}
}
