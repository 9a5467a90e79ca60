//! `docs/failure-modes.md` names tests, close reasons and metrics, and each of them exists.

use livepool::CloseReason;
use livepool::event::{CheckoutOutcome, DialOutcome, Operation};
use livepool::telemetry::METRICS;
use livepool_testkit::pages::{all_tests, quoted, table};

const PAGE: &str = include_str!("../docs/failure-modes.md");

/// What goes wrong, noticed by, within, event and metric, tests.
fn rows() -> Vec<[String; 5]> {
    table(PAGE, "| what goes wrong ")
}

#[test]
fn every_failure_names_tests_and_each_of_them_exists() {
    let tests = all_tests();
    let rows = rows();
    assert!(rows.len() > 15, "the table was not found");
    for [failure, .., names] in &rows {
        assert!(!quoted(names).is_empty(), "{failure}: no test");
        for name in quoted(names) {
            assert!(tests.contains(name), "{failure}: there is no test {name}");
        }
    }
}

#[test]
fn every_reason_and_metric_exists() {
    let words = [
        CloseReason::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>(),
        DialOutcome::ALL.iter().map(|value| value.as_str()).collect(),
        CheckoutOutcome::ALL.iter().map(|value| value.as_str()).collect(),
        Operation::ALL.iter().map(|value| value.as_str()).collect(),
        METRICS.iter().map(|metric| metric.name).collect(),
    ]
    .concat();
    for [failure, _, _, counted, _] in rows() {
        for word in quoted(&counted) {
            assert!(words.contains(&word), "{failure}: there is no {word}");
        }
    }
}
