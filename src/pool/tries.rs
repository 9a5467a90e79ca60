//! [`Tries`]: the checkouts of one exchange, a second one where the first connection had died before
//! anybody was served.

use std::panic::Location;

use tokio::time::Instant;

use super::checkout::{self, Until};
use super::{Guard, Pool};
use crate::deadline::Deadline;
use crate::error::CheckoutError;
use crate::protocol::Protocol;

/// The checkouts of one exchange. All of them together take at most `timeouts.checkout`.
pub(crate) struct Tries<'a, P: Protocol> {
    pool: &'a Pool<P>,
    began: Instant,
    deadline: Deadline,
    taken_at: &'static Location<'static>,
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
        Self { pool, began: Instant::now(), deadline, taken_at }
    }

    pub(crate) async fn get(&self) -> Result<Guard<P>, CheckoutError> {
        let until = Until::By(self.deadline);
        let lease = checkout::checkout(&self.pool.handle.0, until, self.taken_at).await?;
        Ok(Guard::new(lease))
    }

    /// Whether this connection had ended before any byte of an answer came: the exchange may be made
    /// on another one, if repeating it does no harm. Not if it was made for this exchange: another
    /// new one would fare no better.
    pub(crate) fn met_stale(&self, guard: &Guard<P>) -> bool {
        self.met_old(guard) && guard.lease().stream().died() && !guard.was_heard()
    }

    /// Whether this connection was there before.
    pub(crate) fn met_old(&self, guard: &Guard<P>) -> bool {
        guard.lease().is_older_than(self.began)
    }
}
