//! [`GuardExt`]: what a protocol may do with the guard of its client.

use std::future::Future;

use tokio::time::Instant;

use super::Protocol;
use crate::event::CloseReason;
use crate::pool::Guard;

/// Rights of a protocol over a [`Guard`] of its client, beside those of its callers: for one whose
/// exchanges take guards, as those of HTTP do.
///
/// ```
/// use livepool::event::CloseReason;
/// use livepool::protocol::{GuardExt, Protocol};
/// use livepool::Guard;
///
/// /// The peer has said that it closes the connection after this answer.
/// fn note_last_answer<P: Protocol>(guard: &mut Guard<P>) {
///     guard.taint_as(CloseReason::PeerClosed);
/// }
/// ```
pub trait GuardExt: sealed::Sealed + Sized {
    /// As [`Guard::taint`], for this reason. The first one stays.
    fn taint_as(&mut self, reason: CloseReason);

    /// Whether any byte came since the connection was taken.
    fn was_heard(&self) -> bool;

    /// The moment by which the exchange has to be over, if there is one:
    /// [`timeouts.operation`](crate::config::Timeouts::operation), or what was set since.
    fn due(&self) -> Option<Instant>;

    /// Leaves the guard to a task of the pool, which works with it though its caller has gone, and
    /// gives it back by dropping it. Work that is not done when the pool is closed is dropped.
    fn work_on<F>(self, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static;
}

impl<P: Protocol> GuardExt for Guard<P> {
    fn taint_as(&mut self, reason: CloseReason) {
        Guard::taint_as(self, reason);
    }

    fn was_heard(&self) -> bool {
        Guard::was_heard(self)
    }

    fn due(&self) -> Option<Instant> {
        Guard::due(self)
    }

    fn work_on<F>(self, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Guard::work_on(self, work);
    }
}

/// Nobody else has guards, and so methods may be added.
mod sealed {
    use crate::pool::Guard;
    use crate::protocol::Protocol;

    pub trait Sealed {}

    impl<P: Protocol> Sealed for Guard<P> {}
}
