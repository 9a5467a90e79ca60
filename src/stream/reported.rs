//! Options that this system lacks are reported once, not once per connection.

use crate::sync::atomic::{AtomicU32, Ordering};

use crate::config::SocketOption;
use crate::event::Event;
use crate::net::Unavailable;
use crate::telemetry::Emitter;

/// Which options were reported, one bit each.
#[derive(Debug, Default)]
pub(crate) struct Reported(AtomicU32);

impl Reported {
    /// Emits an event for each option that was not reported before.
    pub(crate) fn report(&self, emitter: &Emitter, unavailable: &Unavailable) {
        for (option, error) in unavailable {
            let index = SocketOption::ALL.iter().position(|known| known.as_str() == *option);
            let bit = 1_u32 << index.unwrap_or(SocketOption::ALL.len());
            if self.0.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let error = error.as_str().into();
                emitter.emit(Event::OptionUnavailable { option, error });
            }
        }
    }
}
