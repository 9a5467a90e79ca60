//! [`Emitter`]: every event is emitted here.

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::Facts;
use super::handles::{Gauges, ListenerHandles, PoolHandles};
use super::lazy::Lazy;
use super::log;
use super::owner_name::OwnerName;
use super::peer_series::PeerLevels;
use super::recent::RecentErrors;
use super::seldom::Seldom;
use crate::config::{MetricsConfig, Settings};
use crate::event::{Check, CheckVerdict, CheckoutOutcome, ConnId, DialOutcome, Event, Observer};
use crate::foreign::{self, Held};
use crate::net::PeerAddr;
use crate::report::ErrorReport;

/// The log, the metrics and the observer of one pool, connector or listener.
///
/// A subscriber, recorder or observer is foreign code: one that panics loses the event, the others
/// do not.
pub(crate) struct Emitter {
    name: OwnerName,
    pub(super) handles: Handles,
    observer: Option<Held<Arc<dyn Observer>>>,
    /// Of a pool, as it was built.
    facts: OnceLock<Facts>,
    /// What is recorded, and under which names.
    metrics: MetricsConfig,
    /// For whoever asks what went wrong.
    recent: RecentErrors,
    /// Lines of long waits: where all callers wait, each has one.
    wait_lines: Seldom,
    hook_lines: Seldom,
}

pub(super) enum Handles {
    Pool(Lazy<PoolHandles>),
    Listener(Lazy<ListenerHandles>),
}

impl Emitter {
    /// The emitter of a connector: its label is `pool`. Gauges, which are kept by name, are not set.
    pub(crate) fn of_connector(name: &str, observer: Option<Arc<dyn Observer>>) -> Self {
        Self::new(OwnerName::uncounted(name), Handles::Pool(Lazy::new()), observer)
    }

    /// The emitter of a pool that its user gave this name.
    pub(crate) fn of_named_pool(name: &str, observer: Option<Arc<dyn Observer>>) -> Self {
        Self::new(OwnerName::given(name), Handles::Pool(Lazy::new()), observer)
    }

    /// The emitter of a pool without a name of its own, which gets this one, or the next free one.
    pub(crate) fn of_unnamed_pool(name: &str, observer: Option<Arc<dyn Observer>>) -> Self {
        Self::new(OwnerName::default(name), Handles::Pool(Lazy::new()), observer)
    }

    /// The emitter of a listener: its label is `listener`.
    pub(crate) fn of_listener(name: &str, observer: Option<Arc<dyn Observer>>) -> Self {
        Self::new(OwnerName::uncounted(name), Handles::Listener(Lazy::new()), observer)
    }

    fn new(name: OwnerName, handles: Handles, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            name,
            handles,
            observer: observer.map(Held::new),
            facts: OnceLock::new(),
            metrics: MetricsConfig::default(),
            recent: RecentErrors::default(),
            wait_lines: Seldom::default(),
            hook_lines: Seldom::default(),
        }
    }

    /// The same, recording what this says.
    pub(crate) fn with_metrics(mut self, metrics: MetricsConfig) -> Self {
        self.metrics = metrics;
        self
    }

    /// The pool's or listener's name.
    pub(crate) fn name(&self) -> &str {
        self.name.text()
    }

    /// Takes in what is known of a pool. Before its first event: a recorder that is found is told.
    pub(crate) fn introduce(&self, facts: Facts) {
        let _ = self.facts.set(facts);
    }

    /// Emits one event. Called with no lock held.
    pub(crate) fn emit(&self, event: Event) {
        self.record(&event);
        if let Some(observer) = &self.observer
            && foreign::call(|| observer.on_event(self.name(), &event)).is_err()
        {
            log::panicked(self.name(), "an observer");
        }
    }

    /// Emits [`Event::CheckedOut`].
    pub(crate) fn checked_out(&self, conn: ConnId, waited: Duration) {
        // Once per use of a connection: nothing is built for a log and an observer that are not there.
        if self.only_counts() {
            self.count(|handles| handles.record_checkout(CheckoutOutcome::Ok, waited));
        } else {
            self.emit(Event::CheckedOut { conn, waited });
        }
    }

    /// Emits [`Event::Returned`], as cheaply as [`checked_out`](Self::checked_out).
    pub(crate) fn returned(&self, conn: ConnId, used: Duration) {
        if self.only_counts() {
            self.count(|handles| handles.record_return(used));
        } else {
            self.emit(Event::Returned { conn, used });
        }
    }

    /// Emits [`Event::Checked`] with [`CheckVerdict::Alive`], as cheaply as
    /// [`checked_out`](Self::checked_out).
    pub(crate) fn found_alive(&self, conn: ConnId, check: Check) {
        let verdict = CheckVerdict::Alive;
        if self.only_counts() {
            self.count(|handles| handles.record_check(check, verdict));
        } else {
            self.emit(Event::Checked { conn, check, verdict, heard: None });
        }
    }

    /// Logs that a connection was dropped after what looks like a complete exchange.
    pub(crate) fn warn_of_forgotten_release(&self, conn: ConnId, taken_at: &Location<'static>) {
        // No event: the close of the connection is one.
        let _ = foreign::call(|| log::forgotten_release(self.name(), conn, taken_at));
    }

    /// Sets the gauges of a pool. A listener has other ones, and ignores this.
    pub(crate) fn set_gauges(&self, now: &Gauges) {
        self.count(|handles| handles.set_gauges(now));
    }

    /// Sets the gauges of a pool's settings, which are these now.
    pub(crate) fn set_facts(&self, settings: &Settings) {
        if let Some(facts) = self.facts.get() {
            let facts = facts.with_settings(settings);
            self.count(|handles| handles.set_facts(&facts));
        }
    }

    /// Whether anybody wants to know of each peer.
    pub(crate) fn knows_peers(&self) -> bool {
        self.metrics.peers > 0
    }

    /// Sets the gauges of a pool's peers. Those that are not named have no connection.
    pub(crate) fn set_peer_levels(&self, levels: &HashMap<PeerAddr, PeerLevels>) {
        self.count(|handles| {
            if let Some(by_peer) = &handles.by_peer {
                by_peer.set_levels(levels);
            }
        });
    }

    /// Counts the end of an attempt to connect to a peer of a pool.
    pub(crate) fn peer_dialed(&self, peer: &PeerAddr, outcome: DialOutcome) {
        if self.knows_peers() {
            self.count(|handles| {
                if let Some(by_peer) = &handles.by_peer {
                    by_peer.dialed(peer, outcome);
                }
            });
        }
    }

    /// Sets the number of a listener's open connections. A pool ignores this.
    pub(crate) fn set_connections(&self, open: usize) {
        self.call_recorder(|| {
            if let Handles::Listener(handles) = &self.handles
                && let Some(handles) = self.listener_handles(handles)
            {
                handles.set_connections(open);
            }
        });
    }

    /// What went wrong lately, the last first.
    pub(crate) fn recent_errors(&self, now: Instant) -> Vec<ErrorReport> {
        self.recent.report(now)
    }

    /// Logs one event, counts it, and keeps it if it is an error.
    pub(super) fn record(&self, event: &Event) {
        self.recent.note(event);
        let name = Some(self.name());
        let owner = match &self.handles {
            Handles::Pool(_) => log::EventOwner { pool: name, listener: None },
            Handles::Listener(_) => log::EventOwner { pool: None, listener: name },
        };
        let left_out = match event {
            Event::WaitedTooLong { .. } => self.wait_lines.next(Instant::now()),
            Event::HookFailed { .. } => self.hook_lines.next(Instant::now()),
            _ => Some(0),
        };
        if let Some(left_out) = left_out {
            let _ = foreign::call(|| log::event(owner, event, left_out));
        }
        self.call_recorder(|| match &self.handles {
            Handles::Pool(handles) => {
                if let Some(handles) = self.pool_handles(handles) {
                    handles.record(event);
                }
            }
            Handles::Listener(handles) => {
                if let Some(handles) = self.listener_handles(handles) {
                    handles.record(event);
                }
            }
        });
    }

    fn only_counts(&self) -> bool {
        self.observer.is_none() && !log::is_traced()
    }

    /// Counts something of a pool.
    fn count(&self, count: impl FnOnce(&PoolHandles)) {
        self.call_recorder(|| {
            if let Handles::Pool(handles) = &self.handles
                && let Some(handles) = self.pool_handles(handles)
            {
                count(handles);
            }
        });
    }

    /// Calls the recorder.
    #[inline]
    fn call_recorder(&self, call: impl FnOnce()) {
        if foreign::call(call).is_err() {
            log::panicked(self.name(), "a recorder");
        }
    }

    #[inline(always)]
    fn pool_handles<'a>(&self, handles: &'a Lazy<PoolHandles>) -> Option<&'a PoolHandles> {
        handles.get_or_resolve(|recorder| {
            PoolHandles::resolve(recorder, self.name.text(), self.facts.get(), self.metrics)
        })
    }

    fn listener_handles<'a>(
        &self,
        handles: &'a Lazy<ListenerHandles>,
    ) -> Option<&'a ListenerHandles> {
        handles.get_or_resolve(|recorder| ListenerHandles::resolve(recorder, self.name.text()))
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        self.call_recorder(|| match &self.handles {
            Handles::Pool(handles) => {
                if let Some(handles) = handles.get() {
                    handles.clear_gauges();
                }
            }
            Handles::Listener(handles) => {
                if let Some(handles) = handles.get() {
                    handles.set_connections(0);
                }
            }
        });
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("name", &self.name()).finish_non_exhaustive()
    }
}
