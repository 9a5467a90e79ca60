//! Metrics and logs: what an operator sees of a pool.
//!
//! Metrics go through the [`metrics`](https://docs.rs/metrics) facade to whatever recorder the
//! program installs, before or after it builds its pools. [`METRICS`] lists them all;
//! `docs/metrics.md` says what each one tells. Logs go through `tracing`, with the target
//! `livepool`.

use std::fmt;
use std::sync::Arc;

use self::handles::{ListenerHandles, PoolHandles};
use self::lazy::Lazy;
use crate::event::{Event, PeerState};

mod emitter;
mod handles;
mod lazy;
mod log;
mod metric;
mod names;
mod register;
// Its libraries are the library's own only.
#[cfg(all(test, not(any(shuttle, fuzzing))))]
mod tests;

pub(crate) use self::emitter::Emitter;
pub(crate) use self::log::{checkout_span, dial_span};
pub use self::metric::{Kind, Label, Metric, Unit};
pub use self::names::METRICS;

/// The metrics and the log of one pool, connector or listener.
pub(crate) struct Telemetry {
    name: Arc<str>,
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
    /// Connections the pool may have.
    pub(crate) max: usize,
    /// Callers waiting for a connection.
    pub(crate) waiters: usize,
    /// Peers in each state.
    pub(crate) peers: [usize; PeerState::ALL.len()],
}

impl Telemetry {
    /// For a pool or a connector: the label is `pool`.
    pub(crate) fn pool(name: &str) -> Self {
        Self { name: name.into(), handles: Handles::Pool(Lazy::new()) }
    }

    /// For a listener: the label is `listener`.
    pub(crate) fn listener(name: &str) -> Self {
        Self { name: name.into(), handles: Handles::Listener(Lazy::new()) }
    }

    /// The pool's or listener's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Logs one event and counts it.
    pub(crate) fn record(&self, event: &Event) {
        match &self.handles {
            Handles::Pool(handles) => {
                log::event(log::Source { pool: Some(&self.name), listener: None }, event);
                if let Some(handles) = self.resolved_pool(handles) {
                    handles.record(event);
                }
            }
            Handles::Listener(handles) => {
                log::event(log::Source { pool: None, listener: Some(&self.name) }, event);
                if let Some(handles) = self.resolved_listener(handles) {
                    handles.record(event);
                }
            }
        }
    }

    /// Sets the gauges of a pool. A listener has other ones, and ignores this.
    pub(crate) fn gauges(&self, now: &Gauges) {
        if let Handles::Pool(handles) = &self.handles
            && let Some(handles) = self.resolved_pool(handles)
        {
            handles.gauges(now);
        }
    }

    /// Sets the number of a listener's open connections. A pool ignores this.
    pub(crate) fn connections(&self, open: usize) {
        if let Handles::Listener(handles) = &self.handles
            && let Some(handles) = self.resolved_listener(handles)
        {
            handles.connections(open);
        }
    }

    /// The metrics of a pool, if somebody records them.
    fn of_pool(&self) -> Option<&PoolHandles> {
        match &self.handles {
            Handles::Pool(handles) => self.resolved_pool(handles),
            Handles::Listener(_) => None,
        }
    }

    fn resolved_pool<'a>(&self, handles: &'a Lazy<PoolHandles>) -> Option<&'a PoolHandles> {
        handles.get_or_resolve(|recorder| PoolHandles::resolve(recorder, &self.name))
    }

    fn resolved_listener<'a>(
        &self,
        handles: &'a Lazy<ListenerHandles>,
    ) -> Option<&'a ListenerHandles> {
        handles.get_or_resolve(|recorder| ListenerHandles::resolve(recorder, &self.name))
    }
}

/// A recorder keeps the last value of a gauge for ever. What no longer exists has no connections.
impl Drop for Telemetry {
    fn drop(&mut self) {
        match &self.handles {
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
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("name", &self.name).finish_non_exhaustive()
    }
}
