//! Reset: what a protocol does to a connection that came back, before the next caller gets it.
//!
//! The guard's drop cannot wait, so the connection is left here, and a task of the pool does it.

use std::io;

use crate::deadline::Deadline;
use crate::event::{CloseReason, Event, Hook, Operation};
use crate::pool::conn::lease::Lease;
use crate::pool::inbox::Inbox;
use crate::pool::inner::PoolInner;
use crate::protocol::{Conn, Verdict};
use crate::stream::Ending;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::telemetry;

/// Connections that are to be reset. Each lease holds the pool, so they end when the pool is
/// closed.
#[derive(Debug, Default)]
pub(in crate::pool) struct Resets {
    arrived: Inbox<Lease>,
    /// Number of connections that wait for a reset or are being reset.
    count: AtomicUsize,
}

impl Resets {
    pub(in crate::pool) fn add(&self, lease: Lease) {
        self.count.fetch_add(1, Ordering::AcqRel);
        if let Err(lease) = self.arrived.push(lease) {
            self.discard(lease);
        }
    }

    pub(in crate::pool) fn take(&self) -> Vec<Lease> {
        self.arrived.take()
    }

    /// How many are likely to be fit soon.
    pub(in crate::pool) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The pool is closed: so are they, and whatever comes.
    pub(in crate::pool) fn close(&self) {
        self.arrived.close().into_iter().for_each(|lease| self.discard(lease));
    }

    fn discard(&self, mut lease: Lease) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        lease.throw_away(CloseReason::PoolClosed);
    }
}

/// Resets one connection and gives it back, or closes it.
pub(in crate::pool) async fn reset(lease: Lease) {
    let pool = Arc::clone(lease.inner());
    let mut lease = ResetInFlight(Some(lease));
    let Some(conn) = lease.0.as_mut().map(|lease| lease.conn_mut()) else { return };
    let outcome = put_right(&pool, conn).await;
    // Uncounted before it goes on: the dialer must not wait for it any longer.
    let Some(mut lease) = lease.take() else { return };
    if outcome.is_condemned {
        lease.condemn();
    }
    match outcome.failed {
        Some(reason) => lease.throw_away(reason),
        None => match lease.begin_anew() {
            Ok(()) => drop(lease.end(Ending::Answered)),
            Err(reason) => lease.throw_away(reason),
        },
    }
}

/// What came of a reset.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Outcome {
    /// Why the connection is of no use now, if so.
    pub(in crate::pool) failed: Option<CloseReason>,
    /// All others are of no use either.
    pub(in crate::pool) is_condemned: bool,
}

/// Has the protocol make a connection fit for its next user, within `timeouts.reset`. Dropped in the
/// middle, nobody knows the connection's state: whoever has it closes it.
pub(in crate::pool) async fn put_right(pool: &PoolInner, conn: &mut Conn) -> Outcome {
    let outcome = match &pool.hooks.after_return {
        // A bare stream has nothing else to be done.
        Some(_) if pool.protocol.is_none() => Outcome { failed: None, is_condemned: false },
        _ => put_right_by_protocol(pool, conn).await,
    };
    if outcome.failed.is_some() || pool.hooks.after_return.is_none() {
        return outcome;
    }
    if let Err((reason, _)) = pool.run_hook(Hook::AfterReturn, conn).await {
        return Outcome { failed: Some(reason), ..outcome };
    }
    match &pool.protocol {
        // What the hook has left behind is nobody's, either.
        Some(_) => {
            let after = put_right_by_protocol(pool, conn).await;
            Outcome { is_condemned: outcome.is_condemned || after.is_condemned, ..after }
        }
        None => outcome,
    }
}

async fn put_right_by_protocol(pool: &PoolInner, conn: &mut Conn) -> Outcome {
    let Some(protocol) = &pool.protocol else {
        return Outcome { failed: Some(CloseReason::ResetFailed), is_condemned: false };
    };
    let id = conn.stream().id();
    let limit = pool.settings().timeouts.reset;
    let (mut is_condemned, mut has_reset) = (false, false);
    let reset = async {
        let mut is_again = false;
        loop {
            // What its user has left behind is sent first; a reset that overtakes it would undo
            // nothing.
            conn.rested().await;
            match protocol.reuse(conn) {
                // The protocol may have said so of an answer or an error.
                Verdict::Keep if !conn.stream().needs_reset() || is_again => {}
                Verdict::Keep | Verdict::NeedsReset => {
                    has_reset = true;
                    protocol.reset(conn).await?;
                }
                Verdict::Close => {
                    return Err(io::Error::other("its protocol says that it cannot be reset"));
                }
                verdict => {
                    is_condemned = verdict == Verdict::InvalidatePool;
                    return Ok(verdict.reason(CloseReason::ResetFailed));
                }
            }
            let unfit = conn.stream().unfit(Ending::Answered);
            // What outlives an earlier user may have asked for something since the protocol was.
            if is_again || unfit != Some(CloseReason::Unfinished) {
                return Ok(unfit);
            }
            is_again = true;
        }
    };
    let result = Deadline::after(limit).run(reset).await;
    let failed = match result {
        Ok(Ok(unfit)) => unfit,
        Ok(Err(error)) => {
            telemetry::log_trouble(Some(id), &error, "reset failed");
            // That it had ended says more.
            Some(conn.stream().tainted().unwrap_or(CloseReason::ResetFailed))
        }
        Err(_) => {
            if let Some(after) = limit {
                let (operation, conn) = (Operation::Reset, Some(id));
                pool.emitter().emit(Event::TimedOut { operation, conn, after });
            }
            Some(CloseReason::ResetFailed)
        }
    };
    let has_hook = failed.is_none() && has_reset && pool.hooks.after_connect.is_some();
    if has_hook && protocol.is_unsettled(conn) {
        // The reset may have undone what it had done.
        if let Err((reason, _)) = pool.run_hook(Hook::AfterConnect, conn).await {
            return Outcome { failed: Some(reason), is_condemned };
        }
        pool.settled(conn);
    }
    Outcome { failed, is_condemned }
}

/// A connection that is being reset. Dropped in the middle, it is closed: nobody knows its state.
struct ResetInFlight(Option<Lease>);

impl ResetInFlight {
    /// Before it goes to the next caller, or its slot to another connection.
    fn take(&mut self) -> Option<Lease> {
        let lease = self.0.take()?;
        lease.entry().set_resetting(false);
        lease.inner().resets.count.fetch_sub(1, Ordering::AcqRel);
        Some(lease)
    }
}

impl Drop for ResetInFlight {
    fn drop(&mut self) {
        if let Some(mut lease) = self.take() {
            let closed = lease.inner().is_closed();
            lease.throw_away(match closed {
                true => CloseReason::PoolClosed,
                false => CloseReason::ResetFailed,
            });
        }
    }
}
