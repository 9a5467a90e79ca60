//! Events as log lines, and the few lines that are no events.
//!
//! The level of a line says who should care: `trace` for what happens all the time, `debug` for
//! what is expected (a rule ended a connection), `info` for a death or a failure that somebody
//! handles, `warn` for what callers feel. Every line has the target `livepool`.

use std::fmt;
use std::panic::Location;

use crate::event::{
    CancelOutcome, CheckVerdict, CheckoutOutcome, CloseReason, ConnId, DialOutcome, Event,
    Operation, PeerState,
};
use crate::foreign;
use crate::text::Escaped;

/// The target of every log line and span, so that one filter directive is enough.
pub(super) const TARGET: &str = "livepool";

/// The owner of an event: either a pool or a listener. The other one leaves no field behind.
#[derive(Clone, Copy)]
pub(super) struct EventOwner<'a> {
    pub(super) pool: Option<&'a str>,
    pub(super) listener: Option<&'a str>,
}

/// Writes a log line with its owner as the first field. `tracing` wants the level at compile time,
/// so the level is the name of its macro.
macro_rules! entry {
    ($level:ident, $owner:ident, $($rest:tt)+) => {
        tracing::$level!(
            target: TARGET,
            pool = $owner.pool,
            listener = $owner.listener,
            $($rest)+
        )
    };
}

/// Whether a subscriber may read the lines of every checkout.
pub(super) fn is_traced() -> bool {
    tracing::level_filters::LevelFilter::current() == tracing::level_filters::LevelFilter::TRACE
}

/// Writes an event. `left_out` of its kind were not written since the last one that was.
pub(super) fn event(owner: EventOwner<'_>, event: &Event, left_out: u64) {
    match event {
        // The events of every checkout are first; each costs a static check while `trace` is off.
        Event::CheckedOut { conn, waited } => {
            entry!(trace, owner, conn_id = conn.get(), ?waited, "checked out");
        }
        Event::Returned { conn, used } => {
            entry!(trace, owner, conn_id = conn.get(), ?used, "returned");
        }
        Event::Checked { conn, check, verdict: verdict @ CheckVerdict::Alive, .. } => {
            entry!(trace, owner, conn_id = conn.get(), %check, %verdict, "checked");
        }
        Event::Checked { conn, check, verdict, heard } => {
            let heard = heard.map(tracing::field::debug);
            entry!(debug, owner, conn_id = conn.get(), %check, %verdict, heard, "checked");
        }
        Event::Opened { conn, peer, took } => {
            entry!(debug, owner, conn_id = conn.get(), %peer, ?took, "connection opened");
        }
        // The dial did not fail: the pool had no use for it any more.
        Event::DialFailed { outcome: outcome @ DialOutcome::Cancelled, took, error } => {
            entry!(debug, owner, %outcome, ?took, error = %error, "dial given up");
        }
        Event::DialFailed { outcome, took, error } => {
            entry!(warn, owner, %outcome, ?took, error = %error, "dial failed");
        }
        Event::CheckoutFailed { outcome, waited } => match outcome {
            // Callers wait in vain, and no other line tells of it.
            CheckoutOutcome::Timeout | CheckoutOutcome::QueueFull | CheckoutOutcome::Hook => {
                entry!(warn, owner, %outcome, ?waited, "checkout failed");
            }
            CheckoutOutcome::Cancelled => {
                entry!(debug, owner, %outcome, ?waited, "checkout failed");
            }
            // The dial that failed is the line that warns, and a pool is closed by its owner.
            CheckoutOutcome::Ok | CheckoutOutcome::ConnectFailed | CheckoutOutcome::Closed => {
                entry!(info, owner, %outcome, ?waited, "checkout failed");
            }
        },
        Event::Closed { conn, peer, reason, age, code, .. } => {
            let (conn_id, code) = (conn.get(), code.as_ref().map(tracing::field::display));
            if reason.is_death() {
                entry!(info, owner, conn_id, %peer, %reason, code, ?age, "connection died");
            // No death, and yet nothing that a rule or a user did: an operator wants to see the
            // code.
            } else if *reason == CloseReason::ProtocolError {
                entry!(info, owner, conn_id, %peer, %reason, code, ?age, "connection closed");
            } else {
                entry!(debug, owner, conn_id, %peer, %reason, code, ?age, "connection closed");
            }
        }
        Event::PeerChanged { peer, from, to } => match to {
            PeerState::Ejected => entry!(warn, owner, %peer, %from, %to, "peer ejected"),
            _ => entry!(info, owner, %peer, %from, %to, "peer changed"),
        },
        Event::HeldTooLong { conn, peer, held, taken_at } => {
            entry!(warn, owner, conn_id = conn.get(), %peer, ?held, %taken_at, "held for too long");
        }
        Event::WaitedTooLong { conn, peer, waited, taken_at } => {
            let (conn_id, left_out) = (conn.get(), (left_out > 0).then_some(left_out));
            entry!(warn, owner, conn_id, %peer, ?waited, %taken_at, left_out, "waited for too long");
        }
        // The failed checkout itself is the line that warns, and a listener with no clients is fine.
        Event::TimedOut {
            operation: operation @ (Operation::Checkout | Operation::Accept),
            conn,
            after,
        } => {
            let conn_id = conn.map(ConnId::get);
            entry!(debug, owner, conn_id, %operation, ?after, "timed out");
        }
        Event::TimedOut { operation, conn, after } => {
            let conn_id = conn.map(ConnId::get);
            entry!(info, owner, conn_id, %operation, ?after, "timed out");
        }
        Event::Unencrypted { conn, peer, was_asked } => {
            let conn_id = conn.get();
            if *was_asked {
                entry!(debug, owner, conn_id, %peer, "not encrypted: the peer does not offer it");
            } else {
                entry!(debug, owner, conn_id, %peer, "not encrypted: the pool has no TLS");
            }
        }
        Event::SharingEnded { conn, peer } => {
            entry!(info, owner, conn_id = conn.get(), %peer, "shared no more");
        }
        Event::CancelRequested { conn, peer, outcome, took } => match outcome {
            CancelOutcome::Ok => {
                entry!(debug, owner, conn_id = conn.get(), %peer, %outcome, ?took, "cancel requested");
            }
            // The peer may still be at work on the request.
            CancelOutcome::Timeout | CancelOutcome::Failed => {
                entry!(info, owner, conn_id = conn.get(), %peer, %outcome, ?took, "cancel requested");
            }
        },
        Event::HookFailed { hook, conn, peer, error } => {
            let left_out = (left_out > 0).then_some(left_out);
            entry!(warn, owner, conn_id = conn.get(), %peer, %hook, error = %error, left_out, "hook failed");
        }
        Event::Reconfigured { changed } => {
            entry!(info, owner, changed = %changed.join(","), "reconfigured");
        }
        Event::OptionUnavailable { option, error } => {
            entry!(warn, owner, option, error = %error, "socket option is not available");
        }
        Event::Accepted { conn, peer } => {
            entry!(debug, owner, conn_id = conn.get(), %peer, "accepted");
        }
        Event::AcceptFailed { error, backoff } => {
            entry!(warn, owner, error = %error, ?backoff, "accept failed");
        }
    }
}

/// Warns of a connection that was dropped after what looks like a complete exchange.
pub(super) fn forgotten_release(pool: &str, conn: ConnId, taken_at: &Location<'static>) {
    tracing::warn!(
        target: TARGET,
        pool,
        conn_id = conn.get(),
        %taken_at,
        "dropped after an answer without release(), and so closed: call release() when an answer was \
         read in full, or discard(); this is said once per pool"
    );
}

/// Writes a line that is no event, at `debug` and with the target `livepool`: a failure that costs
/// nobody anything, or that an event reports as well. The error may be in a peer's words, which are
/// escaped and cut. A subscriber that panics loses the line.
pub fn log_trouble(conn: Option<ConnId>, error: &dyn fmt::Display, what: &'static str) {
    let conn_id = conn.map(ConnId::get);
    let _ = foreign::call(
        || tracing::debug!(target: TARGET, conn_id, error = %Escaped(error), "{what}"),
    );
}

/// Warns of a mistake in the code that uses the pool.
pub(crate) fn warn_misuse(conn: ConnId, what: &'static str) {
    let _ = foreign::call(|| tracing::warn!(target: TARGET, conn_id = conn.get(), "{what}"));
}

/// Logs that foreign code panicked.
#[cold]
pub(super) fn panicked(name: &str, whose: &'static str) {
    let _ = foreign::call(
        // The log is foreign code, too: where it panics itself, nobody is told.
        || tracing::error!(target: TARGET, name, "{whose} panicked; the event is lost to it"),
    );
}
