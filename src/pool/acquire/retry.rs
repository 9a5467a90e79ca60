//! [`Retry`]: the checkouts of one exchange, a second one where the first connection had died before
//! anybody was served.

use std::fmt;
use std::panic::Location;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::CheckoutError;
use crate::event::CloseReason;
use crate::pool::acquire::checkout::{self, Fitness, Until};
use crate::pool::{Guard, Multiplex, Pool};
use crate::protocol::Protocol;
use crate::sync::OnceLock;

/// The checkouts of one exchange, which is made again on another connection where the first one had
/// died before anybody was served. Together the checkouts take at most `timeouts.checkout`.
///
/// [`Pool::run_retry`] is one with the simplest rule. This is for a protocol that knows more: which
/// request may be repeated, say, or that nothing of it was sent.
///
/// ```
/// use std::panic::Location;
/// use livepool::protocol::{Protocol, Retry};
/// use livepool::{CheckoutError, Guard, Pool};
///
/// # trait Exchange: Protocol { async fn ask(g: &mut Guard<Self>) -> Result<u8, std::io::Error> where Self: Sized; }
/// async fn ask<P: Exchange>(pool: &Pool<P>) -> Result<u8, Box<dyn std::error::Error>> {
///     let retry = Retry::new(pool, None, Location::caller());
///     loop {
///         let mut guard = retry.get().await?;
///         match P::ask(&mut guard).await {
///             // Its connection was idle, and had ended meanwhile.
///             Err(_) if retry.retry_after(&guard) => {}
///             answer => return Ok(answer?),
///         }
///     }
/// }
/// ```
pub struct Retry<'a, P: Protocol> {
    pool: &'a Pool<P>,
    began: Instant,
    deadline: Deadline,
    taken_at: &'static Location<'static>,
    /// The demand on the next connection, once one was stale.
    fitness: OnceLock<Fitness>,
}

impl<'a, P: Protocol> Retry<'a, P> {
    /// An exchange that begins now. Its checkouts wait until `deadline` at the latest, if there is one;
    /// `taken_at` is who is told of in [`Event::HeldTooLong`](crate::Event::HeldTooLong).
    pub fn new(
        pool: &'a Pool<P>,
        deadline: impl Into<Deadline>,
        taken_at: &'static Location<'static>,
    ) -> Self {
        // Counted from here, not from each checkout: both together have one `timeouts.checkout`.
        let own = Deadline::after(pool.handle.0.settings().timeouts.checkout);
        let deadline = own.min(deadline.into());
        Self { pool, began: Instant::now(), deadline, taken_at, fitness: OnceLock::new() }
    }

    /// Takes a connection.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`Pool::get`].
    pub async fn get(&self) -> Result<Guard<P>, CheckoutError> {
        let (inner, until) = (&self.pool.handle.0, Until::By(self.deadline));
        let lease = match self.fitness.get() {
            None => checkout::checkout(inner, until, self.taken_at).await?,
            Some(fitness) => checkout::checkout_fit(inner, until, *fitness, self.taken_at).await?,
        };
        Ok(Guard::new(lease))
    }

    /// Takes a part of a connection that others use at the same time.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`Pool::share`].
    pub async fn share(&self) -> Result<P::Shared, CheckoutError>
    where
        P: Multiplex,
    {
        self.pool.share_at(Until::By(self.deadline), self.taken_at).await
    }

    /// Whether the exchange may be made again on another connection, if repeating it does no harm: this
    /// one had ended before any byte of an answer came. Not if it was made for this exchange: another
    /// new one would fare no better.
    ///
    /// The next one is not as stale then. Where a peer closed this one, it is one whose peer was heard
    /// since. Where it was reset, its peer may know none of those from before, though its kernel
    /// answers: it is one that is made now.
    pub fn retry_after(&self, guard: &Guard<P>) -> bool {
        let is_stale = self.predates(guard) && guard.lease().stream().died() && !guard.was_heard();
        if is_stale {
            let now = Instant::now();
            let _ = self.fitness.set(match guard.tainted() {
                Some(CloseReason::Reset) => Fitness::MadeSince(now),
                _ => Fitness::ProvedSince(now),
            });
        }
        is_stale
    }

    /// Whether this connection was made before the exchange began: it may have ended unnoticed.
    pub fn predates(&self, guard: &Guard<P>) -> bool {
        guard.lease().is_older_than(self.began)
    }
}

impl<P: Protocol> fmt::Debug for Retry<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
