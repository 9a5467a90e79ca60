//! The one place events are emitted from.

use std::fmt;
use std::sync::Arc;

use super::Telemetry;
use crate::event::{Event, Observer};

/// The one way to emit: to the metrics, to the log and to the user's observer.
pub(crate) struct Emitter {
    telemetry: Telemetry,
    observer: Option<Arc<dyn Observer>>,
}

impl Emitter {
    pub(crate) fn new(telemetry: Telemetry, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { telemetry, observer }
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
        // Recorders, subscribers and observers are foreign code, called where a panic would tear a
        // connection out of its owner's hands.
        let call = std::panic::AssertUnwindSafe(|| {
            self.telemetry.record(&event);
            if let Some(observer) = &self.observer {
                observer.on_event(self.name(), &event);
            }
        });
        if std::panic::catch_unwind(call).is_err() {
            tracing::error!(
                target: "livepool",
                name = self.name(),
                "a recorder or observer panicked; the event is lost to it"
            );
        }
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("name", &self.name()).finish_non_exhaustive()
    }
}
