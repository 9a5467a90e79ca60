//! The description of a metric: name, kind, unit, labels.
//!
//! The types are our own rather than the `metrics` crate's, so that a new major version of that
//! crate is not a new major version of this one.

use std::fmt;

/// A metric that this crate records. [`METRICS`](super::METRICS) lists them all.
///
/// ```
/// for metric in livepool::telemetry::METRICS {
///     println!("{} ({}): {}", metric.name, metric.kind.as_str(), metric.description);
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name, which already carries its unit and, for a counter, `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The unit of the value.
    pub unit: Unit,
    /// The labels. The first one names the owner: `pool` or `listener`.
    pub labels: &'static [Label],
    /// The description, a sentence for a dashboard's tooltip.
    pub description: &'static str,
}

/// A label of a metric.
///
/// ```
/// use livepool::telemetry::{Label, METRICS};
///
/// let labels: Vec<&Label> = METRICS.iter().flat_map(|metric| metric.labels).collect();
/// let reason = labels.iter().find(|label| label.name == "reason").unwrap();
/// assert!(reason.values.contains(&"peer_closed"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// The label's name.
    pub name: &'static str,
    /// Every value that the label can have; empty where it is free text (the name of a pool or
    /// listener, a version, the name of a protocol, an address).
    pub values: &'static [&'static str],
}

/// The kind of a metric.
///
/// ```
/// use livepool::telemetry::{Kind, METRICS};
///
/// let is_total = |name: &str| name.ends_with("_total");
/// assert!(METRICS.iter().all(|metric| (metric.kind == Kind::Counter) == is_total(metric.name)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A count that goes up, and starts at zero with the process.
    Counter,
    /// A level that goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// The unit of a metric.
///
/// ```
/// use livepool::telemetry::{METRICS, Unit};
///
/// let waits = METRICS.iter().filter(|metric| metric.unit == Unit::Seconds);
/// assert!(waits.count() > 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// A number of things.
    Count,
    /// Seconds, with a fraction.
    Seconds,
}

impl Kind {
    /// The kind in lower case, as Prometheus writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Unit {
    /// The unit in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Seconds => "seconds",
        }
    }

    /// The same unit, in the recorder's words.
    pub(super) const fn of_recorder(self) -> metrics::Unit {
        match self {
            Self::Count => metrics::Unit::Count,
            Self::Seconds => metrics::Unit::Seconds,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
