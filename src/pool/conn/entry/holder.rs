//! Who has a connection, since when, and where it was taken: noted only if `hold_warning` is set.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use super::Entry;
use crate::error::Holder;
use crate::event::Event;
use crate::pool::conn::age::Age;
use crate::sync::Arc;
use crate::telemetry::Span;

/// Who has a connection.
#[derive(Debug)]
pub(in crate::pool) struct Held {
    since: Instant,
    taken_at: &'static Location<'static>,
    /// What its caller was doing.
    span: Arc<Span>,
    reported: bool,
}

impl Entry {
    /// Notes who has it from now on.
    pub(in crate::pool) fn taken_by(&self, since: Age, taken_at: &'static Location<'static>) {
        if self.common.notes_holders {
            let since = self.moment(since);
            let holder = Held { since, taken_at, span: Arc::new(Span::current()), reported: false };
            let last = self.home().holder.replace(Box::new(holder));
            drop(last);
        }
    }

    /// Nobody has it any more.
    pub(in crate::pool) fn let_go(&self) {
        if self.common.notes_holders {
            let last = self.home().holder.take();
            drop(last);
        }
    }

    /// Who has it, if that is noted.
    pub(in crate::pool) fn holder(&self, now: Instant) -> Option<Holder> {
        let home = self.home();
        let Held { since, taken_at, .. } = home.holder.as_deref()?;
        Some(Holder { conn: self.id, held: now.saturating_duration_since(*since), taken_at })
    }

    /// Reports that it was held for longer than `limit`. Once per checkout.
    pub(in crate::pool) fn report_holder(&self, now: Instant, limit: Duration) {
        let (held, taken_at, span) = {
            let mut home = self.home();
            let Some(holder) = &mut home.holder else { return };
            let held = now.saturating_duration_since(holder.since);
            if holder.reported || held < limit {
                return;
            }
            holder.reported = true;
            (held, holder.taken_at, Arc::clone(&holder.span))
        };
        let (conn, peer) = (self.id, self.peer.addr().clone());
        // The log line says what the caller was doing.
        let event = Event::HeldTooLong { conn, peer, held, taken_at };
        span.in_scope(|| self.common.emitter.emit(event));
    }
}
