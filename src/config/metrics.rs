//! [`MetricsConfig`]: how fine the metrics of a pool are.

/// What a pool records beyond what every pool does.
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
    /// The highest number of peers that have series of their own, in the metrics with the label
    /// `peer`. Default 0: there are none of these, since each peer is about 50 series, and an upstream
    /// whose addresses change leaves those of the old ones behind. The first so many peers that the
    /// pool meets have them, for the life of the pool; all others have one set together, with `peer`
    /// being `other`. At most 1000.
    pub peers: usize,
}

impl MetricsConfig {
    setters! {
        with_peers peers: plain usize;
    }
}
