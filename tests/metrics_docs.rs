//! `docs/metrics.md` and the table of metrics say the same. Queries are in `ops/`, and compared with it
//! in `crates/tests/tests/ops_files.rs`.

use std::collections::BTreeSet;

use livepool::telemetry::{Kind, METRICS, Metric, OTEL_METRICS};

const PAGE: &str = include_str!("../docs/metrics.md");

/// The cells of a table's row, without their backquotes.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_matches('|');
    line.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect()
}

/// The rows below the heading that starts with this text, up to the next heading.
fn rows_below(heading: &str) -> Vec<Vec<String>> {
    PAGE.lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with("| `"))
        .map(cells)
        .collect()
}

/// Words made of lower case letters and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).filter(|word| !word.is_empty())
}

#[test]
fn every_metric_has_one_row_with_its_kind_unit_and_labels() {
    let mut rows = rows_below("### A pool");
    rows.extend(rows_below("### A listener"));
    assert!(rows.iter().all(|row| row.len() == 5 && !row[4].is_empty()), "{rows:?}");
    compare(&rows, METRICS);
    compare(&rows_below("## OpenTelemetry"), OTEL_METRICS);
}

/// The rows and the metrics say the same.
fn compare(rows: &[Vec<String>], metrics: &[Metric]) {
    let documented: Vec<_> = rows.iter().map(|row| row[..4].to_vec()).collect();
    let recorded: Vec<_> = metrics
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
            [metric.name, metric.kind.as_str(), metric.unit.as_str(), &labels.join(", ")]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    assert_eq!(documented, recorded);
}

#[test]
fn every_label_lists_its_values_and_no_others() {
    for metric in METRICS {
        for label in metric.labels.iter().filter(|label| !label.values.is_empty()) {
            let rows = rows_below(&heading(metric, label.name));
            let documented: Vec<_> = rows
                .iter()
                .filter(|row| !metric.name.contains("evictions") || row[1] == "yes")
                .map(|row| row[0].as_str())
                .collect();
            assert_eq!(documented, label.values, "{} {}", metric.name, label.name);
        }
    }
}

/// The heading above a label's values. `outcome`, `setting` and `state` mean several things each.
fn heading(metric: &Metric, label: &str) -> String {
    match (label, metric.name) {
        ("outcome", "livepool_dials_total" | "livepool_peer_dials_total") => {
            "### `outcome` of a dial".to_owned()
        }
        ("outcome", "livepool_cancels_total") => "### `outcome` of a cancel".to_owned(),
        ("outcome", "livepool_checkouts_total") => "### `outcome` of a checkout".to_owned(),
        ("setting", "livepool_setting") => "### `setting` that is a number".to_owned(),
        ("setting", _) => "### `setting` that is a time".to_owned(),
        ("state", "livepool_peers") => "### `state` of a peer".to_owned(),
        ("state", _) => "### `state` of a connection".to_owned(),
        _ => format!("### `{label}`"),
    }
}

#[test]
fn no_section_is_left_over_from_a_label_that_is_gone() {
    let labels: BTreeSet<_> =
        METRICS.iter().flat_map(|metric| metric.labels).map(|label| label.name).collect();
    for line in PAGE.lines().filter(|line| line.starts_with("### `")) {
        let name = line.split('`').nth(1).unwrap();
        assert!(labels.contains(name), "{line}");
    }
}

#[test]
fn every_name_on_the_page_exists() {
    let named = words(PAGE).filter(|word| word.starts_with("livepool_") && *word != "livepool_");
    for word in named {
        let exists = METRICS.iter().any(|metric| match metric.kind {
            Kind::Histogram => ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| word.strip_suffix(suffix) == Some(metric.name)),
            _ => word == metric.name,
        });
        assert!(exists, "{word} is on the page and is not recorded");
    }
}
