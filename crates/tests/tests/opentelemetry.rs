//! The names of OpenTelemetry, as its own SDK exports them after a pool was used.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livepool::config::{MetricNames, MetricsConfig};
use livepool::telemetry::{Kind, OTEL_METRICS};
use livepool::{Config, Pool};
use livepool_testkit::{Upstream, exchange, until_seen};
use metrics_exporter_otel::OpenTelemetryRecorder;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_semantic_conventions::{attribute, metric};

/// The SDK with its in-memory exporter, for this thread, on which everything in a test's runtime happens.
struct Sdk {
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
    _guard: metrics::LocalRecorderGuard<'static>,
}

/// What the SDK exported of one series: a value, or a count and a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Exported {
    Gauge(f64),
    Counter(u64),
    Histogram(u64, f64),
}

impl Sdk {
    fn install() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone())
            // Asked for, below.
            .with_interval(Duration::from_secs(3600))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let recorder = OpenTelemetryRecorder::new(provider.meter("livepool"));
        // Never freed: the guard's recorder has to outlive it.
        let recorder: &'static OpenTelemetryRecorder = Box::leak(Box::new(recorder));
        Self { exporter, provider, _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// All that is exported now, by name and attributes after the pool's name, whose value is checked.
    fn export(&self) -> BTreeMap<String, Exported> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        exported.iter().flat_map(series).collect()
    }
}

fn series(exported: &ResourceMetrics) -> Vec<(String, Exported)> {
    let mut all = Vec::new();
    let metrics = exported.scope_metrics().flat_map(|scope| scope.metrics());
    for metric in metrics.filter(|metric| metric.name().starts_with("db.")) {
        let name = metric.name();
        let seconds = name.ends_with("_time");
        assert_eq!(metric.unit(), if seconds { "s" } else { "1" }, "{name}");
        assert!(!metric.description().is_empty(), "{name}");
        let mut add = |attributes: Vec<(String, String)>, value| {
            let (pool, rest) = attributes.split_first().expect("the pool's name");
            let expected = (attribute::DB_CLIENT_CONNECTION_POOL_NAME, "orders");
            assert_eq!((pool.0.as_str(), pool.1.as_str()), expected, "{name}");
            let rest: Vec<_> = rest.iter().map(|(key, value)| format!("{key}={value}")).collect();
            all.push((format!("{name} {}", rest.join(",")).trim().to_owned(), value));
        };
        match metric.data() {
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                for point in gauge.data_points() {
                    add(texts(point.attributes()), Exported::Gauge(point.value()));
                }
            }
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                for point in histogram.data_points() {
                    let value = Exported::Histogram(point.count(), point.sum());
                    add(texts(point.attributes()), value);
                }
            }
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                assert!(sum.is_monotonic(), "{name}");
                for point in sum.data_points() {
                    add(texts(point.attributes()), Exported::Counter(point.value()));
                }
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    all
}

fn texts<'a>(
    attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>,
) -> Vec<(String, String)> {
    let mut texts: Vec<_> =
        attributes.map(|pair| (pair.key.to_string(), pair.value.to_string())).collect();
    // The pool's name before the state.
    texts.sort();
    texts
}

fn config(upstream: &Upstream, names: MetricNames) -> Config {
    upstream
        .config()
        .with_name("orders")
        .with_max_size(3)
        .with_min_idle(1)
        // Gauges are set four times a second.
        .with_max_silence(Duration::from_secs(1))
        .with_metrics(MetricsConfig::default().with_names(names))
}

#[test]
fn every_name_is_one_of_the_semantic_conventions() {
    let conventions = [
        (metric::DB_CLIENT_CONNECTION_COUNT, Kind::Gauge),
        (metric::DB_CLIENT_CONNECTION_IDLE_MAX, Kind::Gauge),
        (metric::DB_CLIENT_CONNECTION_IDLE_MIN, Kind::Gauge),
        (metric::DB_CLIENT_CONNECTION_MAX, Kind::Gauge),
        (metric::DB_CLIENT_CONNECTION_PENDING_REQUESTS, Kind::Gauge),
        (metric::DB_CLIENT_CONNECTION_TIMEOUTS, Kind::Counter),
        (metric::DB_CLIENT_CONNECTION_CREATE_TIME, Kind::Histogram),
        (metric::DB_CLIENT_CONNECTION_WAIT_TIME, Kind::Histogram),
        (metric::DB_CLIENT_CONNECTION_USE_TIME, Kind::Histogram),
    ];
    let ours: Vec<_> = OTEL_METRICS.iter().map(|metric| (metric.name, metric.kind)).collect();
    assert_eq!(ours, conventions);
    for metric in OTEL_METRICS {
        let labels: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
        assert_eq!(labels[0], attribute::DB_CLIENT_CONNECTION_POOL_NAME);
        if metric.name == metric::DB_CLIENT_CONNECTION_COUNT {
            assert_eq!(labels[1], attribute::DB_CLIENT_CONNECTION_STATE);
        }
    }
}

#[tokio::test]
async fn the_sdk_exports_what_a_pool_did_under_the_names_of_the_conventions() {
    let sdk = Sdk::install();
    let upstream = Upstream::start();
    let pool = Pool::new(config(&upstream, MetricNames::OpenTelemetry)).unwrap();
    let before = sdk.export();
    assert_eq!(before["db.client.connection.max"], Exported::Gauge(3.0), "before the first event");
    assert_eq!(before["db.client.connection.timeouts"], Exported::Counter(0));

    pool.warm_up(3).await.unwrap();
    let held = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    let third = pool.get().await.unwrap();
    pool.get_by(Instant::now() + Duration::from_millis(20)).await.unwrap_err();
    drop(third);
    let state = |name| format!("db.client.connection.count db.client.connection.state={name}");
    let now =
        until_seen(|| sdk.export(), |seen| seen[&state("used")] == Exported::Gauge(2.0)).await;
    assert_eq!(now[&state("idle")], Exported::Gauge(1.0));
    assert_eq!(now[&state("quarantined")], Exported::Gauge(0.0));
    assert_eq!(now["db.client.connection.idle.max"], Exported::Gauge(3.0));
    assert_eq!(now["db.client.connection.idle.min"], Exported::Gauge(1.0));
    assert_eq!(now["db.client.connection.max"], Exported::Gauge(3.0));
    assert_eq!(now["db.client.connection.pending_requests"], Exported::Gauge(0.0));
    assert_eq!(now["db.client.connection.timeouts"], Exported::Counter(1));
    let count = |name: &str| match now[name] {
        Exported::Histogram(count, sum) => (count, sum > 0.0),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(count("db.client.connection.create_time"), (3, true));
    assert_eq!(count("db.client.connection.wait_time").0, 3, "who waited in vain got none");
    assert_eq!(count("db.client.connection.use_time"), (1, true));
    assert_eq!(now.len(), 11, "all there are: {now:#?}");
    drop((held, pool));
    assert_eq!(sdk.export()[&state("used")], Exported::Gauge(0.0), "it is gone");
}

#[tokio::test]
async fn a_pool_that_was_not_told_to_exports_none_of_them() {
    let sdk = Sdk::install();
    let upstream = Upstream::start();
    let pool = Pool::new(config(&upstream, MetricNames::Livepool)).unwrap();
    exchange(&pool, "ECHO x").await;
    assert_eq!(sdk.export(), BTreeMap::new());
}
