//! Metrics and logs: what an operator sees of a pool.
//!
//! Metrics go through the [`metrics`](https://docs.rs/metrics) facade to whatever recorder the
//! program installs, before or after it builds its pools. [`METRICS`] lists them all;
//! `docs/metrics.md` says what each one tells. Logs go through `tracing`, with the target
//! `livepool`.

use std::fmt;

use self::handles::{ListenerHandles, PoolHandles};
use self::lazy::Lazy;
use self::owner_name::OwnerName;
use crate::event::{Event, PeerState};
use crate::foreign;

mod emitter;
mod handles;
mod lazy;
pub(crate) mod log;
mod metric;

mod names;
mod owner_name;
mod register;
mod span;
// Its libraries are the library's own only.
#[cfg(all(test, not(shuttle)))]
mod tests;

pub(crate) use self::emitter::Emitter;
pub(crate) use self::log::{log_trouble, warn_misuse};
pub use self::metric::{Kind, Label, Metric, Unit};
pub use self::names::METRICS;
pub(crate) use self::span::Span;

/// The metrics and the log of one pool, connector or listener.
pub(crate) struct Telemetry {
    name: OwnerName,
    handles: Handles,
}

enum Handles {
    Pool(Lazy<PoolHandles>),
    Listener(Lazy<ListenerHandles>),
}

/// The levels of a pool at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Connections nobody uses.
    pub(crate) idle: usize,
    /// Connections that are checked out.
    pub(crate) in_use: usize,
    /// Dials under way.
    pub(crate) connecting: usize,
    /// Connections whose peer is silent and being probed.
    pub(crate) quarantined: usize,
    /// Connections that have ended and for which their peer still works.
    pub(crate) ending: usize,
    /// Connections the pool may have.
    pub(crate) max: usize,
    /// Callers waiting for a connection.
    pub(crate) waiters: usize,
    /// Peers in each state.
    pub(crate) peers: [usize; PeerState::ALL.len()],
}

impl Telemetry {
    /// For a connector: the label is `pool`. It has no gauges, which are kept by name.
    pub(crate) fn pool(name: &str) -> Self {
        Self::of_pool(OwnerName::uncounted(name))
    }

    /// For a pool that its user gave this name.
    pub(crate) fn named_pool(name: &str) -> Self {
        Self::of_pool(OwnerName::given(name))
    }

    /// For a pool without a name of its own, which gets this one, or the next free one.
    pub(crate) fn unnamed_pool(name: &str) -> Self {
        Self::of_pool(OwnerName::default(name))
    }

    fn of_pool(name: OwnerName) -> Self {
        Self { name, handles: Handles::Pool(Lazy::new()) }
    }

    /// For a listener: the label is `listener`.
    pub(crate) fn listener(name: &str) -> Self {
        Self { name: OwnerName::uncounted(name), handles: Handles::Listener(Lazy::new()) }
    }

    /// The pool's or listener's name.
    pub(crate) fn name(&self) -> &str {
        self.name.text()
    }

    /// Logs one event and counts it. A recorder or subscriber that panics loses the event, and nobody
    /// else does.
    pub(crate) fn record(&self, event: &Event) {
        let name = Some(self.name());
        let source = match &self.handles {
            Handles::Pool(_) => log::Owner { pool: name, listener: None },
            Handles::Listener(_) => log::Owner { pool: None, listener: name },
        };
        let _ = foreign::call(|| log::event(source, event));
        self.recorded(|| match &self.handles {
            Handles::Pool(handles) => {
                if let Some(handles) = self.resolved_pool(handles) {
                    handles.record(event);
                }
            }
            Handles::Listener(handles) => {
                if let Some(handles) = self.resolved_listener(handles) {
                    handles.record(event);
                }
            }
        });
    }

    /// Counts something of a pool.
    fn count(&self, count: impl FnOnce(&PoolHandles)) {
        self.recorded(|| {
            if let Handles::Pool(handles) = &self.handles
                && let Some(handles) = self.resolved_pool(handles)
            {
                count(handles);
            }
        });
    }

    /// Sets the gauges of a pool. A listener has other ones, and ignores this.
    pub(crate) fn gauges(&self, now: &Gauges) {
        self.count(|handles| handles.gauges(now));
    }

    /// Sets the number of a listener's open connections. A pool ignores this.
    pub(crate) fn connections(&self, open: usize) {
        self.recorded(|| {
            if let Handles::Listener(handles) = &self.handles
                && let Some(handles) = self.resolved_listener(handles)
            {
                handles.connections(open);
            }
        });
    }

    /// Calls the recorder.
    #[inline]
    fn recorded(&self, call: impl FnOnce()) {
        if foreign::call(call).is_err() {
            log::panicked(self.name(), "a recorder");
        }
    }

    fn resolved_pool<'a>(&self, handles: &'a Lazy<PoolHandles>) -> Option<&'a PoolHandles> {
        handles.get_or_resolve(|recorder| PoolHandles::resolve(recorder, self.name.text()))
    }

    fn resolved_listener<'a>(
        &self,
        handles: &'a Lazy<ListenerHandles>,
    ) -> Option<&'a ListenerHandles> {
        handles.get_or_resolve(|recorder| ListenerHandles::resolve(recorder, self.name.text()))
    }
}

/// A recorder keeps the last value of a gauge for ever. What no longer exists has no connections.
impl Drop for Telemetry {
    fn drop(&mut self) {
        self.recorded(|| match &self.handles {
            Handles::Pool(handles) => {
                if let Some(handles) = handles.get() {
                    handles.gauges(&Gauges::default());
                }
            }
            Handles::Listener(handles) => {
                if let Some(handles) = handles.get() {
                    handles.connections(0);
                }
            }
        });
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("name", &self.name()).finish_non_exhaustive()
    }
}
