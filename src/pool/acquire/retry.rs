//! [`Tries`]: the checkouts of one exchange, a second one where the first connection had died before
//! anybody was served.

use std::panic::Location;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::CheckoutError;
use crate::event::CloseReason;
use crate::pool::acquire::checkout::{self, Fitness, Until};
use crate::pool::{Guard, Pool};
use crate::protocol::Protocol;
use crate::sync::OnceLock;

/// The checkouts of one exchange. All of them together take at most `timeouts.checkout`.
pub(crate) struct Tries<'a, P: Protocol> {
    pool: &'a Pool<P>,
    began: Instant,
    deadline: Deadline,
    taken_at: &'static Location<'static>,
    /// What the next connection has to show, once one was stale.
    fitness: OnceLock<Fitness>,
}

impl<'a, P: Protocol> Tries<'a, P> {
    /// Until `deadline` at the latest, if there is one.
    pub(crate) fn new(
        pool: &'a Pool<P>,
        deadline: Option<Instant>,
        taken_at: &'static Location<'static>,
    ) -> Self {
        let own = Deadline::after(pool.handle.0.settings().timeouts.checkout);
        let deadline = own.min(deadline.map_or(Deadline::NEVER, Deadline::at));
        Self { pool, began: Instant::now(), deadline, taken_at, fitness: OnceLock::new() }
    }

    pub(crate) async fn get(&self) -> Result<Guard<P>, CheckoutError> {
        let (inner, until) = (&self.pool.handle.0, Until::By(self.deadline));
        let lease = match self.fitness.get() {
            None => checkout::checkout(inner, until, self.taken_at).await?,
            Some(fitness) => checkout::checkout_fit(inner, until, *fitness, self.taken_at).await?,
        };
        Ok(Guard::new(lease))
    }

    /// Whether this connection had ended before any byte of an answer came: the exchange may be made
    /// on another one, if repeating it does no harm. Not if it was made for this exchange: another
    /// new one would fare no better.
    ///
    /// The next one is not as stale. Where a peer closed this one, it is one whose peer was heard
    /// since. Where it was reset, its peer may know none of those from before, though its kernel
    /// answers: it is one that is made now.
    pub(crate) fn met_stale(&self, guard: &Guard<P>) -> bool {
        let is_stale = self.met_old(guard) && guard.lease().stream().died() && !guard.was_heard();
        if is_stale {
            let now = Instant::now();
            let _ = self.fitness.set(match guard.tainted() {
                Some(CloseReason::Reset) => Fitness::MadeSince(now),
                _ => Fitness::ProvedSince(now),
            });
        }
        is_stale
    }

    /// Whether this connection was there before.
    pub(crate) fn met_old(&self, guard: &Guard<P>) -> bool {
        guard.lease().is_older_than(self.began)
    }
}
