//! The names that the semantic conventions of OpenTelemetry have for a pool of database connections.
//!
//! They come beside ours, or in their place, if [`MetricsConfig::names`](crate::config::MetricsConfig)
//! says so. Each of them says less than ours does, or something else: see `docs/metrics.md`.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Recorder};

use super::handles::{Gauges, dispose, set};
use super::metric::{Kind, Label, Metric, Unit};
use super::register::Register;

/// The states of a connection there. The first two are the conventions' own; connections whose peer is
/// silent are neither, and the conventions leave room for more.
const STATES: [&str; 3] = ["idle", "used", "quarantined"];

const POOL: Label = Label { name: "db.client.connection.pool.name", values: &[] };
const STATE: Label = Label { name: "db.client.connection.state", values: &STATES };

macro_rules! table {
    ($($metric:ident: $kind:ident in $unit:ident, $name:literal, $labels:expr, $description:literal;)+) => {
        $(
            const $metric: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &$labels,
                description: $description,
            };
        )+

        /// Every metric with a name of OpenTelemetry's that this crate records, if
        /// [`MetricsConfig::names`](crate::config::MetricsConfig::names) says so.
        ///
        /// `docs/metrics.md` says what each one stands for.
        pub const OTEL_METRICS: &[Metric] = &[$($metric,)+];
    };
}

table! {
    COUNT: Gauge in Count, "db.client.connection.count", [POOL, STATE],
        "The number of connections that are currently in the state.";
    IDLE_MAX: Gauge in Count, "db.client.connection.idle.max", [POOL],
        "The most idle connections that there may be.";
    IDLE_MIN: Gauge in Count, "db.client.connection.idle.min", [POOL],
        "The least idle connections that there should be.";
    MAX: Gauge in Count, "db.client.connection.max", [POOL],
        "The most connections that there may be.";
    PENDING_REQUESTS: Gauge in Count, "db.client.connection.pending_requests", [POOL],
        "Callers that wait for a connection.";
    TIMEOUTS: Counter in Count, "db.client.connection.timeouts", [POOL],
        "Callers whose time was up before they had a connection.";
    CREATE_TIME: Histogram in Seconds, "db.client.connection.create_time", [POOL],
        "The time it took to make a connection.";
    WAIT_TIME: Histogram in Seconds, "db.client.connection.wait_time", [POOL],
        "The time it took to get a connection from the pool.";
    USE_TIME: Histogram in Seconds, "db.client.connection.use_time", [POOL],
        "The time between taking a connection and giving it back.";
}

/// The handles of these metrics.
pub(super) struct OtelHandles {
    count: [Gauge; STATES.len()],
    idle_max: Gauge,
    idle_min: Gauge,
    max: Gauge,
    pending: Gauge,
    timeouts: Counter,
    create: Histogram,
    wait: Histogram,
    used: Histogram,
}

impl OtelHandles {
    pub(super) fn resolve(recorder: &dyn Recorder, pool: &Arc<str>) -> Self {
        let register = Register::new(recorder, POOL.name, pool);
        Self {
            count: STATES.map(|state| register.gauge(&COUNT, &[state])),
            idle_max: register.gauge(&IDLE_MAX, &[]),
            idle_min: register.gauge(&IDLE_MIN, &[]),
            max: register.gauge(&MAX, &[]),
            pending: register.gauge(&PENDING_REQUESTS, &[]),
            timeouts: register.counter(&TIMEOUTS, &[]),
            create: register.histogram(&CREATE_TIME),
            wait: register.histogram(&WAIT_TIME),
            used: register.histogram(&USE_TIME),
        }
    }

    pub(super) fn set_gauges(&self, now: &Gauges) {
        // Whoever has it, or made it fit: nobody else can.
        let used = now.in_use + now.shared + now.resetting;
        for (gauge, value) in self.count.iter().zip([now.idle, used, now.quarantined]) {
            set(gauge, value);
        }
        // No limit of its own: all there may be may be idle.
        set(&self.idle_max, now.max);
        set(&self.idle_min, now.min_idle);
        set(&self.max, now.max);
        set(&self.pending, now.waiters);
    }

    pub(super) fn timed_out(&self) {
        self.timeouts.increment(1);
    }

    pub(super) fn created(&self, took: Duration) {
        self.create.record(took);
    }

    pub(super) fn waited(&self, waited: Duration) {
        self.wait.record(waited);
    }

    pub(super) fn used(&self, used: Duration) {
        self.used.record(used);
    }
}

impl Drop for OtelHandles {
    fn drop(&mut self) {
        let Self { count, idle_max, idle_min, max, pending, timeouts, create, wait, used } = self;
        dispose(count.iter_mut().chain([idle_max, idle_min, max, pending]), Gauge::noop);
        dispose([timeouts], Counter::noop);
        dispose([create, wait, used], Histogram::noop);
    }
}
