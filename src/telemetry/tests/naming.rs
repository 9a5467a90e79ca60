//! The table of metrics, as recorders and exporters see it.

use std::collections::BTreeSet;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::debugging::DebuggingRecorder;

use super::*;
use crate::config::{MetricNames, MetricsConfig};
use crate::telemetry::{Emitter, Kind, METRICS, Metric, OTEL_METRICS, Unit};

#[test]
fn all_series_of_the_table_and_no_others_are_there_from_the_start() {
    let recorder = DebuggingRecorder::new();
    let (pool, listener) = (Emitter::of_connector("a", None), Emitter::of_listener("a", None));
    pool.introduce(facts());
    metrics::with_local_recorder(&recorder, || {
        pool.set_gauges(&Gauges::default());
        listener.set_connections(0);
    });
    let mut expected = BTreeSet::new();
    // Those of each peer come with the peer.
    let of_no_peer = |metric: &&Metric| metric.labels.iter().all(|label| label.name != "peer");
    for metric in METRICS.iter().filter(of_no_peer) {
        let mut sets = vec![format!("{}=a", metric.labels[0].name)];
        for label in &metric.labels[1..] {
            // Free text: what `facts` says.
            let values = match label.name {
                "version" => &[env!("CARGO_PKG_VERSION")],
                "protocol" => &["PostgreSQL"],
                _ => label.values,
            };
            sets = sets
                .iter()
                .flat_map(|set| values.iter().map(move |v| format!("{set},{}={v}", label.name)))
                .collect();
        }
        expected.extend(sets.iter().map(|set| format!("{}{{{set}}}", metric.name)));
    }
    let found: BTreeSet<_> = series(&recorder.snapshotter()).into_keys().collect();
    assert_eq!(found, expected);
}

#[test]
fn every_series_is_described_with_its_unit() {
    let recorder = DebuggingRecorder::new();
    let (pool, listener) = (Emitter::of_connector("a", None), Emitter::of_listener("a", None));
    pool.introduce(facts());
    metrics::with_local_recorder(&recorder, || {
        pool.set_gauges(&Gauges::default());
        listener.set_connections(0);
    });
    for (key, unit, description, _) in recorder.snapshotter().snapshot().into_vec() {
        let name = key.key().name();
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(unit, Some(metric.unit.of_recorder()), "{name}");
        assert_eq!(description.as_deref(), Some(metric.description), "{name}");
    }
}

/// A scrape after every event there is, its lines sorted (the exporter keeps them in hash maps).
/// The buckets are those that `docs/metrics.md` proposes.
fn scrape(recommended_naming: bool) -> Vec<String> {
    let ages = [1.0, 10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
    let times = [0.0001, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let age = Matcher::Full("livepool_connection_age_seconds".into());
    let listener_age = Matcher::Full("livepool_listener_connection_age_seconds".into());
    let recorder = PrometheusBuilder::new()
        .with_recommended_naming(recommended_naming)
        .set_buckets_for_metric(age, &ages)
        .and_then(|builder| builder.set_buckets_for_metric(listener_age, &ages))
        .and_then(|b| b.set_buckets_for_metric(Matcher::Prefix("livepool_".into()), &times))
        .unwrap()
        .build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let pool = Emitter::of_connector("orders", None)
            .with_metrics(MetricsConfig::default().with_peers(1));
        let listener = Emitter::of_listener("front", None);
        pool.introduce(facts());
        for event in events() {
            pool.record(&event);
            listener.record(&event);
        }
        pool.set_gauges(&LEVELS);
        listener.set_connections(5);
        let mut lines: Vec<_> = recorder.handle().render().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    })
}

#[test]
fn the_exporters_recommended_naming_changes_nothing() {
    let scraped = scrape(false);
    assert_eq!(scraped, scrape(true));

    let buckets =
        |series: &str, le| scraped.iter().any(|line| line.starts_with(series) && line.contains(le));
    assert!(buckets("livepool_connection_age_seconds_bucket", r#"le="3600""#));
    assert!(buckets("livepool_dial_seconds_bucket", r#"le="0.0001""#));

    let rendered: BTreeSet<_> =
        scraped.iter().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let table: Vec<_> = METRICS.iter().map(|m| format!("{} {}", m.name, m.kind)).collect();
    assert_eq!(rendered, table.iter().map(String::as_str).collect());
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metric in METRICS {
        assert_eq!(
            metric.name.ends_with("_total"),
            metric.kind == Kind::Counter,
            "{}",
            metric.name
        );
        assert_eq!(
            metric.name.ends_with("_seconds"),
            metric.unit == Unit::Seconds,
            "{}",
            metric.name
        );
    }
    let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
}

/// The names of all series of a pool whose metrics are called so, after every event there is.
fn names_of(names: MetricNames) -> BTreeSet<String> {
    let recorder = DebuggingRecorder::new();
    let pool = Emitter::of_connector("orders", None)
        .with_metrics(MetricsConfig::default().with_names(names));
    pool.introduce(facts());
    metrics::with_local_recorder(&recorder, || {
        pool.set_gauges(&LEVELS);
        events().iter().for_each(|event| pool.record(event));
    });
    let series = series(&recorder.snapshotter()).into_keys();
    series.map(|series| series.split('{').next().unwrap().to_owned()).collect()
}

#[test]
fn the_switch_exchanges_the_names_of_those_that_have_two_and_of_no_others() {
    let [ours, theirs, both] =
        [MetricNames::Livepool, MetricNames::OpenTelemetry, MetricNames::Both].map(names_of);
    let table: BTreeSet<_> = OTEL_METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert!(ours.is_disjoint(&table));
    assert_eq!(both, &ours | &table);
    let gone: Vec<_> = ours.difference(&theirs).map(String::as_str).collect();
    assert_eq!(
        gone,
        [
            "livepool_checkout_wait_seconds",
            "livepool_connections",
            "livepool_connections_max",
            "livepool_dial_seconds",
            "livepool_use_seconds",
            "livepool_waiters",
        ]
    );
    assert_eq!(theirs.difference(&ours).cloned().collect::<BTreeSet<_>>(), table);
}
