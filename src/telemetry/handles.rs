//! The handles of metrics, and the events that feed them.
//!
//! Handles are resolved once for each pool. Recording an event afterwards is an index and an atomic
//! add: no lookup by name, no allocation, no lock of ours.

use std::array::from_fn;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Recorder};

use super::facts::{FactGauges, Facts};
use super::metric::Metric;
use super::names;
use super::otel::OtelHandles;
use super::peer_series::PeerSeries;
use super::register::Register;
use crate::config::MetricsConfig;
use crate::event::{
    CancelOutcome, Check, CheckVerdict, CheckoutOutcome, CloseReason, DialOutcome, Event, Hook,
    Operation, PeerState,
};
use crate::foreign;
use crate::protocol::StatementCounts;

/// The levels of a pool at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Connections that are open and not in use.
    pub(crate) idle: usize,
    /// Connections that are checked out.
    pub(crate) in_use: usize,
    /// Connections that came back and are made fit for the next caller.
    pub(crate) resetting: usize,
    /// Connections that several callers use.
    pub(crate) shared: usize,
    /// Callers who do.
    pub(crate) shares: usize,
    /// Dials under way.
    pub(crate) connecting: usize,
    /// Connections whose peer is silent and being probed.
    pub(crate) quarantined: usize,
    /// Connections that have ended while their peer still works on their request.
    pub(crate) ending: usize,
    /// Connections the pool may have.
    pub(crate) max: usize,
    /// Idle connections there should be.
    pub(crate) min_idle: usize,
    /// Callers waiting for a connection.
    pub(crate) waiters: usize,
    /// Time for which the first caller in the queue has been waiting.
    pub(crate) longest_wait: Duration,
    /// Time for which the caller who has had a connection the longest has had it.
    pub(crate) longest_hold: Duration,
    /// Age of the oldest connection.
    pub(crate) oldest: Duration,
    /// Prepared statements, and looks for one since the pool was built.
    pub(crate) statements: StatementCounts,
    /// Peers by state, in the order of [`PeerState::ALL`].
    pub(crate) peers: [usize; PeerState::ALL.len()],
}

/// The handles of a pool, or of a connector. Arrays are indexed by the enum's value.
pub(super) struct PoolHandles {
    states: [Gauge; names::STATES.len()],
    max: Gauge,
    shares: Gauge,
    waiters: Gauge,
    longest_wait: Gauge,
    longest_hold: Gauge,
    oldest: Gauge,
    peers: [Gauge; PeerState::ALL.len()],
    ejections: Counter,
    hold_warnings: Counter,
    wait_warnings: Counter,
    dials: [Counter; DialOutcome::ALL.len()],
    checkouts: [Counter; CheckoutOutcome::ALL.len()],
    checks: [[Counter; CheckVerdict::ALL.len()]; Check::ALL.len()],
    timeouts: [Counter; Operation::ALL.len()],
    cancels: [Counter; CancelOutcome::ALL.len()],
    statements: Gauge,
    lookups: [Counter; names::LOOKUPS.len()],
    /// How many of these were counted.
    counted_lookups: [AtomicU64; names::LOOKUPS.len()],
    unencrypted: Counter,
    sharing_ended: Counter,
    hook_failures: [Counter; Hook::ALL.len()],
    reconfigurations: Counter,
    checkout_wait: Histogram,
    dial: Histogram,
    cancel: Histogram,
    used: Histogram,
    closes: CloseMetrics,
    /// `None` of a connector, which is no pool.
    facts: Option<FactGauges>,
    /// `None`, unless they were asked for.
    pub(super) by_peer: Option<PeerSeries>,
    /// `None`, unless they were asked for.
    otel: Option<OtelHandles>,
}

impl PoolHandles {
    pub(super) fn resolve(
        recorder: &dyn Recorder,
        name: &Arc<str>,
        facts: Option<&Facts>,
        config: MetricsConfig,
    ) -> Self {
        let register = Register::new(recorder, "pool", name);
        // Those for which OpenTelemetry has a name.
        let is_ours = config.names.has_ours();
        let gauge = |metric, values: &[&'static str]| match is_ours {
            true => register.gauge(metric, values),
            false => Gauge::noop(),
        };
        let histogram = |metric| match is_ours {
            true => register.histogram(metric),
            false => Histogram::noop(),
        };
        Self {
            states: names::STATES.map(|state| gauge(&names::CONNECTIONS, &[state])),
            max: gauge(&names::CONNECTIONS_MAX, &[]),
            shares: register.gauge(&names::SHARES, &[]),
            waiters: gauge(&names::WAITERS, &[]),
            longest_wait: register.gauge(&names::LONGEST_WAIT, &[]),
            longest_hold: register.gauge(&names::LONGEST_HOLD, &[]),
            oldest: register.gauge(&names::OLDEST_CONNECTION, &[]),
            peers: names::PEER_STATES.map(|state| register.gauge(&names::PEERS, &[state])),
            ejections: register.counter(&names::PEER_EJECTIONS_TOTAL, &[]),
            hold_warnings: register.counter(&names::HOLD_WARNINGS_TOTAL, &[]),
            wait_warnings: register.counter(&names::WAIT_WARNINGS_TOTAL, &[]),
            dials: register.counters(&names::DIALS_TOTAL, names::DIALS),
            checkouts: register.counters(&names::CHECKOUTS_TOTAL, names::CHECKOUTS),
            checks: names::CHECKS.map(|check| {
                names::VERDICTS
                    .map(|verdict| register.counter(&names::CHECKS_TOTAL, &[check, verdict]))
            }),
            timeouts: register.counters(&names::TIMEOUTS_TOTAL, names::OPERATIONS),
            cancels: register.counters(&names::CANCELS_TOTAL, names::CANCELS),
            statements: register.gauge(&names::STATEMENTS, &[]),
            lookups: register.counters(&names::STATEMENT_LOOKUPS_TOTAL, names::LOOKUPS),
            counted_lookups: Default::default(),
            unencrypted: register.counter(&names::UNENCRYPTED_TOTAL, &[]),
            sharing_ended: register.counter(&names::SHARING_ENDED_TOTAL, &[]),
            hook_failures: register.counters(&names::HOOK_FAILURES_TOTAL, names::HOOKS),
            reconfigurations: register.counter(&names::RECONFIGURATIONS_TOTAL, &[]),
            checkout_wait: histogram(&names::CHECKOUT_WAIT),
            dial: histogram(&names::DIAL),
            cancel: register.histogram(&names::CANCEL),
            used: histogram(&names::USE),
            closes: CloseMetrics::resolve(
                &register,
                &names::CLOSED_TOTAL,
                &names::EVICTIONS_TOTAL,
                &names::CONNECTION_AGE,
            ),
            facts: facts.map(|facts| FactGauges::resolve(&register, facts)),
            by_peer: PeerSeries::new(config.peers, name),
            otel: config.names.has_open_telemetrys().then(|| OtelHandles::resolve(recorder, name)),
        }
    }

    /// The pool is gone: a recorder keeps the last value of a gauge for ever.
    pub(super) fn clear_gauges(&self) {
        self.set_gauges(&Gauges::default());
        if let Some(facts) = &self.facts {
            facts.clear();
        }
        if let Some(by_peer) = &self.by_peer {
            by_peer.set_levels(&HashMap::new());
        }
    }

    /// Records an event.
    pub(super) fn record(&self, event: &Event) {
        match event {
            Event::CheckedOut { waited, .. } => self.record_checkout(CheckoutOutcome::Ok, *waited),
            Event::CheckoutFailed { outcome, waited } => self.record_checkout(*outcome, *waited),
            Event::Returned { used, .. } => self.record_return(*used),
            Event::Checked { check, verdict, .. } => self.record_check(*check, *verdict),
            Event::Opened { took, .. } => {
                self.record_dial(DialOutcome::Ok, *took);
                if let Some(otel) = &self.otel {
                    otel.created(*took);
                }
            }
            Event::DialFailed { outcome, took, .. } => self.record_dial(*outcome, *took),
            Event::Closed { peer, reason, age, used, .. } => {
                self.closes.record(*reason, *age);
                if let Some(by_peer) = &self.by_peer {
                    by_peer.closed(peer, *reason);
                }
                if let Some(used) = used {
                    self.record_return(*used);
                }
            }
            // The only event that feeds timeouts: a dial or a checkout that timed out is an outcome
            // as well, and would count twice.
            Event::TimedOut { operation, .. } => {
                self.timeouts[*operation as usize].increment(1);
                if let (Operation::Checkout, Some(otel)) = (operation, &self.otel) {
                    otel.timed_out();
                }
            }
            Event::PeerChanged { to: PeerState::Ejected, .. } => self.ejections.increment(1),
            Event::HeldTooLong { .. } => self.hold_warnings.increment(1),
            Event::WaitedTooLong { .. } => self.wait_warnings.increment(1),
            Event::Unencrypted { .. } => self.unencrypted.increment(1),
            Event::SharingEnded { .. } => self.sharing_ended.increment(1),
            Event::HookFailed { hook, .. } => self.hook_failures[*hook as usize].increment(1),
            Event::Reconfigured { .. } => self.reconfigurations.increment(1),
            Event::CancelRequested { outcome, took, .. } => {
                self.cancels[*outcome as usize].increment(1);
                self.cancel.record(*took);
            }
            Event::PeerChanged { .. }
            | Event::OptionUnavailable { .. }
            | Event::Accepted { .. }
            | Event::AcceptFailed { .. } => {}
        }
    }

    pub(super) fn set_gauges(&self, now: &Gauges) {
        // In the order of `names::STATES`.
        let Gauges { idle, in_use, connecting, quarantined, ending, shared, resetting, .. } = *now;
        let states = [idle, in_use, connecting, quarantined, ending, shared, resetting];
        for (gauge, value) in self.states.iter().zip(states) {
            set(gauge, value);
        }
        for (gauge, value) in self.peers.iter().zip(now.peers) {
            set(gauge, value);
        }
        set(&self.max, now.max);
        set(&self.shares, now.shares);
        set(&self.waiters, now.waiters);
        self.longest_wait.set(now.longest_wait);
        self.longest_hold.set(now.longest_hold);
        self.oldest.set(now.oldest);
        set(&self.statements, now.statements.kept);
        let totals = [now.statements.hits, now.statements.misses];
        for ((counter, counted), total) in
            self.lookups.iter().zip(&self.counted_lookups).zip(totals)
        {
            // Of two samples at a time the later one may come first.
            let before = counted.fetch_max(total, Ordering::Relaxed);
            counter.increment(total.saturating_sub(before));
        }
        if let Some(otel) = &self.otel {
            otel.set_gauges(now);
        }
    }

    /// Sets what is known of the pool.
    pub(super) fn set_facts(&self, facts: &Facts) {
        if let Some(gauges) = &self.facts {
            gauges.tell(facts);
        }
    }

    pub(super) fn record_return(&self, used: Duration) {
        self.used.record(used);
        if let Some(otel) = &self.otel {
            otel.used(used);
        }
    }

    pub(super) fn record_check(&self, check: Check, verdict: CheckVerdict) {
        self.checks[check as usize][verdict as usize].increment(1);
    }

    pub(super) fn record_checkout(&self, outcome: CheckoutOutcome, waited: Duration) {
        self.checkouts[outcome as usize].increment(1);
        self.checkout_wait.record(waited);
        if let (CheckoutOutcome::Ok, Some(otel)) = (outcome, &self.otel) {
            otel.waited(waited);
        }
    }

    fn record_dial(&self, outcome: DialOutcome, took: Duration) {
        self.dials[outcome as usize].increment(1);
        self.dial.record(took);
    }
}

impl Drop for PoolHandles {
    fn drop(&mut self) {
        let Self { states, max, shares, waiters, peers, ejections, hold_warnings, .. } = self;
        let gauges = states.iter_mut().chain(peers).chain([max, shares, waiters]);
        let Self { longest_wait, longest_hold, oldest, .. } = self;
        let gauges = gauges.chain([longest_wait, longest_hold, oldest, &mut self.statements]);
        dispose(gauges, Gauge::noop);
        let Self { dials, checkouts, checks, timeouts, cancels, unencrypted, .. } = self;
        let Self { wait_warnings, sharing_ended, reconfigurations, .. } = self;
        let single = [ejections, hold_warnings, wait_warnings, unencrypted, sharing_ended];
        let single = single.into_iter().chain([reconfigurations]);
        let counters = single.chain(dials).chain(checkouts).chain(cancels);
        let counters = counters.chain(checks.iter_mut().flatten()).chain(timeouts);
        let counters = counters.chain(&mut self.lookups).chain(&mut self.hook_failures);
        dispose(counters, Counter::noop);
        let Self { checkout_wait, dial, cancel, used, .. } = self;
        dispose([checkout_wait, dial, cancel, used], Histogram::noop);
    }
}

/// Drops handles, which are foreign values, each in a call of its own.
pub(super) fn dispose<'a, T: 'a>(
    handles: impl IntoIterator<Item = &'a mut T>,
    noop: impl Fn() -> T,
) {
    for handle in handles {
        foreign::dispose(std::mem::replace(handle, noop()));
    }
}

/// The handles of a listener.
pub(super) struct ListenerHandles {
    connections: Gauge,
    accepted: Counter,
    accept_errors: Counter,
    timeouts: [Counter; Operation::ALL.len()],
    closes: CloseMetrics,
}

impl ListenerHandles {
    pub(super) fn resolve(recorder: &dyn Recorder, name: &Arc<str>) -> Self {
        let register = Register::new(recorder, "listener", name);
        Self {
            connections: register.gauge(&names::LISTENER_CONNECTIONS, &[]),
            accepted: register.counter(&names::LISTENER_ACCEPTED_TOTAL, &[]),
            accept_errors: register.counter(&names::LISTENER_ACCEPT_ERRORS_TOTAL, &[]),
            timeouts: register.counters(&names::LISTENER_TIMEOUTS_TOTAL, names::OPERATIONS),
            closes: CloseMetrics::resolve(
                &register,
                &names::LISTENER_CLOSED_TOTAL,
                &names::LISTENER_EVICTIONS_TOTAL,
                &names::LISTENER_CONNECTION_AGE,
            ),
        }
    }

    pub(super) fn record(&self, event: &Event) {
        match event {
            Event::Accepted { .. } => self.accepted.increment(1),
            Event::AcceptFailed { .. } => self.accept_errors.increment(1),
            Event::Closed { reason, age, .. } => self.closes.record(*reason, *age),
            Event::TimedOut { operation, .. } => self.timeouts[*operation as usize].increment(1),
            Event::OptionUnavailable { .. }
            | Event::Opened { .. }
            | Event::HookFailed { .. }
            | Event::DialFailed { .. }
            | Event::CheckedOut { .. }
            | Event::CheckoutFailed { .. }
            | Event::Returned { .. }
            | Event::Checked { .. }
            | Event::PeerChanged { .. }
            | Event::Unencrypted { .. }
            | Event::SharingEnded { .. }
            | Event::CancelRequested { .. }
            | Event::Reconfigured { .. }
            | Event::WaitedTooLong { .. }
            | Event::HeldTooLong { .. } => {}
        }
    }

    pub(super) fn set_connections(&self, open: usize) {
        set(&self.connections, open);
    }
}

impl Drop for ListenerHandles {
    fn drop(&mut self) {
        let Self { connections, accepted, accept_errors, timeouts, .. } = self;
        dispose([connections], Gauge::noop);
        dispose([accepted, accept_errors].into_iter().chain(timeouts), Counter::noop);
    }
}

/// The metrics that the end of a connection feeds, on either side.
struct CloseMetrics {
    closed: [Counter; CloseReason::ALL.len()],
    /// The counters of evictions. Where a reason is no eviction a counter stands that does nothing,
    /// so that recording needs no test.
    evictions: [Counter; CloseReason::ALL.len()],
    age: Histogram,
}

impl CloseMetrics {
    fn resolve(register: &Register<'_>, closed: &Metric, evictions: &Metric, age: &Metric) -> Self {
        Self {
            closed: register.counters(closed, names::REASONS),
            evictions: from_fn(|at| match CloseReason::ALL[at] {
                reason if reason.is_eviction() => register.counter(evictions, &[reason.as_str()]),
                _ => Counter::noop(),
            }),
            age: register.histogram(age),
        }
    }

    fn record(&self, reason: CloseReason, age: Duration) {
        self.closed[reason as usize].increment(1);
        self.evictions[reason as usize].increment(1);
        self.age.record(age);
    }
}

impl Drop for CloseMetrics {
    fn drop(&mut self) {
        let Self { closed, evictions, age } = self;
        dispose(closed.iter_mut().chain(evictions), Counter::noop);
        dispose([age], Histogram::noop);
    }
}

/// Sets a gauge.
pub(super) fn set(gauge: &Gauge, value: usize) {
    // Gauges are floating point in every recorder; counts of connections are far below 2^53.
    gauge.set(value as f64);
}
