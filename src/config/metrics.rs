//! [`MetricsConfig`]: what the metrics of a pool are called, and how fine they are.

/// What the metrics of a pool are called, and what it records beyond what every pool does.
///
/// ```
/// use livepool::Config;
/// use livepool::config::MetricsConfig;
///
/// // Three servers behind one name, each with series of its own.
/// let metrics = MetricsConfig::default().with_peers(3);
/// let config = Config::new("db.internal:5432").with_metrics(metrics);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct MetricsConfig {
    /// The names of those metrics for which the semantic conventions of OpenTelemetry have one. Default
    /// [`MetricNames::Livepool`].
    pub names: MetricNames,
    /// The highest number of peers that have series of their own, in the metrics with the label
    /// `peer`. Default 0: there are none of these, since each peer is about 50 series, and an upstream
    /// whose addresses change leaves those of the old ones behind. The first so many peers that the
    /// pool meets have them, for the life of the pool; all others have one set together, with `peer`
    /// being `other`. At most 1000.
    pub peers: usize,
}

impl MetricsConfig {
    setters! {
        with_names names: plain MetricNames;
        with_peers peers: plain usize;
    }
}

/// The names of the metrics for which the semantic conventions of OpenTelemetry for database clients have
/// one (`db.client.connection.*`); all others have ours in any case.
///
/// ```
/// use livepool::Config;
/// use livepool::config::{MetricNames, MetricsConfig};
///
/// let metrics = MetricsConfig::default().with_names(MetricNames::OpenTelemetry);
/// let config = Config::new("db.internal:5432").with_metrics(metrics);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum MetricNames {
    /// Ours, `livepool_*`. The default: they are stable, and say more.
    #[default]
    Livepool,
    /// OpenTelemetry's, in place of ours. Their status is *development*: they may change.
    OpenTelemetry,
    /// Both.
    Both,
}

impl MetricNames {
    pub(crate) fn has_ours(self) -> bool {
        self != Self::OpenTelemetry
    }

    pub(crate) fn has_open_telemetrys(self) -> bool {
        self != Self::Livepool
    }
}
