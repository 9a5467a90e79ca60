//! The one place events are emitted from.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::handles::PoolHandles;
use super::{Telemetry, log};
use crate::event::{Check, CheckVerdict, CheckoutOutcome, ConnId, Event, Observer};
use crate::foreign::{self, Held};

/// The one way to emit: to the metrics, to the log and to the user's observer. Each of them is foreign
/// code: one that panics loses the event, the others do not.
pub(crate) struct Emitter {
    telemetry: Telemetry,
    observer: Option<Held<Arc<dyn Observer>>>,
}

impl Emitter {
    pub(crate) fn new(telemetry: Telemetry, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { telemetry, observer: observer.map(Held::new) }
    }

    /// The pool's or listener's name.
    pub(crate) fn name(&self) -> &str {
        self.telemetry.name()
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Emits one event. Called with no lock held.
    pub(crate) fn emit(&self, event: Event) {
        self.telemetry.record(&event);
        if let Some(observer) = &self.observer
            && foreign::call(|| observer.on_event(self.name(), &event)).is_err()
        {
            log::panicked(self.name(), "an observer");
        }
    }

    /// [`Event::CheckedOut`], of which there is one for every use of a connection: nothing is built
    /// for a log and an observer that are not there.
    pub(crate) fn checked_out(&self, conn: ConnId, waited: Duration) {
        if self.only_counts() {
            self.count(|handles| handles.checkout(CheckoutOutcome::Ok, waited));
        } else {
            self.emit(Event::CheckedOut { conn, waited });
        }
    }

    /// [`Event::Returned`], in the same way.
    pub(crate) fn returned(&self, conn: ConnId, used: Duration) {
        if self.only_counts() {
            self.count(|handles| handles.returned(used));
        } else {
            self.emit(Event::Returned { conn, used });
        }
    }

    /// [`Event::Checked`] with nothing found, in the same way.
    pub(crate) fn found_alive(&self, conn: ConnId, check: Check) {
        let verdict = CheckVerdict::Alive;
        if self.only_counts() {
            self.count(|handles| handles.checked(check, verdict));
        } else {
            self.emit(Event::Checked { conn, check, verdict, heard: None });
        }
    }

    /// A connection was dropped after what looks like a complete exchange. A line in the log, and no
    /// event: its close is one.
    pub(crate) fn warn_of_forgotten_release(&self, conn: ConnId, taken_at: &Location<'static>) {
        let _ = foreign::call(|| log::forgotten_release(self.name(), conn, taken_at));
    }

    fn only_counts(&self) -> bool {
        self.observer.is_none() && !log::is_traced()
    }

    fn count(&self, count: impl FnOnce(&PoolHandles)) {
        self.telemetry.count(count);
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("name", &self.name()).finish_non_exhaustive()
    }
}
