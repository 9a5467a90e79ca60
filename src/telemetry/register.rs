//! The registration of the table of metrics with a recorder.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString};

use super::log::{self, TARGET};
use super::metric::{Kind, Metric};
use super::names::METRICS;
use super::otel::OTEL_METRICS;
use crate::foreign;

const METADATA: Metadata<'static> = Metadata::new(TARGET, Level::INFO, Some(module_path!()));

/// The registration of the metrics of a pool or listener with a recorder.
pub(super) struct Register<'a> {
    recorder: &'a dyn Recorder,
    owner: &'a Arc<str>,
}

impl<'a> Register<'a> {
    /// Describes all metrics whose first label is `label` ("pool" or "listener", or what OpenTelemetry calls
    /// a pool). A second
    /// description, for the next pool, changes nothing.
    pub(super) fn new(recorder: &'a dyn Recorder, label: &str, owner: &'a Arc<str>) -> Self {
        let all = METRICS.iter().chain(OTEL_METRICS);
        for metric in all.filter(|metric| metric.labels[0].name == label) {
            let name = KeyName::from_const_str(metric.name);
            let unit = Some(metric.unit.of_recorder());
            let description = metric.description.into();
            // A description that is lost costs nothing.
            let _ = foreign::call(|| match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, description),
                Kind::Gauge => recorder.describe_gauge(name, unit, description),
                Kind::Histogram => recorder.describe_histogram(name, unit, description),
            });
        }
        Self { recorder, owner }
    }

    /// The same for more series of an owner whose metrics were described.
    pub(super) fn again(recorder: &'a dyn Recorder, owner: &'a Arc<str>) -> Self {
        Self { recorder, owner }
    }

    /// A counter; `values` are those of the labels after the first.
    pub(super) fn counter(&self, metric: &Metric, values: &[&'static str]) -> Counter {
        self.counter_at(&self.key(metric, values))
    }

    /// A counter whose second label is `text`, which is not known before.
    pub(super) fn counter_of(
        &self,
        metric: &Metric,
        text: &SharedString,
        value: &'static str,
    ) -> Counter {
        self.counter_at(&self.key_of(metric, text, value))
    }

    fn counter_at(&self, key: &Key) -> Counter {
        let counter = foreign::call(|| self.recorder.register_counter(key, &METADATA));
        counter.unwrap_or_else(|_| self.lost(Counter::noop()))
    }

    /// The counters for each value of the second label. All exist from now on, so that a scrape
    /// shows them at 0 and the first increase is seen as one.
    pub(super) fn counters<const N: usize>(
        &self,
        metric: &Metric,
        values: [&'static str; N],
    ) -> [Counter; N] {
        values.map(|value| self.counter(metric, &[value]))
    }

    pub(super) fn gauge(&self, metric: &Metric, values: &[&'static str]) -> Gauge {
        self.gauge_at(&self.key(metric, values))
    }

    /// As [`counter_of`](Self::counter_of).
    pub(super) fn gauge_of(
        &self,
        metric: &Metric,
        text: &SharedString,
        value: &'static str,
    ) -> Gauge {
        self.gauge_at(&self.key_of(metric, text, value))
    }

    fn gauge_at(&self, key: &Key) -> Gauge {
        let gauge = foreign::call(|| self.recorder.register_gauge(key, &METADATA));
        gauge.unwrap_or_else(|_| self.lost(Gauge::noop()))
    }

    pub(super) fn histogram(&self, metric: &Metric) -> Histogram {
        let key = self.key(metric, &[]);
        let histogram = foreign::call(|| self.recorder.register_histogram(&key, &METADATA));
        histogram.unwrap_or_else(|_| self.lost(Histogram::noop()))
    }

    /// Logs that the recorder panicked, and gives a handle that does nothing for the series it
    /// lost.
    fn lost<T>(&self, noop: T) -> T {
        log::panicked(self.owner, "a recorder, asked to register a metric,");
        noop
    }

    fn key(&self, metric: &Metric, values: &[&'static str]) -> Key {
        self.key_with(metric, values.iter().map(|value| SharedString::const_str(value)))
    }

    fn key_of(&self, metric: &Metric, text: &SharedString, value: &'static str) -> Key {
        self.key_with(metric, [text.clone(), SharedString::const_str(value)])
    }

    fn key_with(&self, metric: &Metric, values: impl IntoIterator<Item = SharedString>) -> Key {
        // The first label is the owner's; the text is shared by all series of it.
        let values = std::iter::once(Arc::clone(self.owner).into()).chain(values);
        let labels = metric.labels.iter().zip(values);
        let labels: Vec<_> =
            labels.map(|(label, value)| metrics::Label::new(label.name, value)).collect();
        Key::from_parts(metric.name, labels)
    }
}
