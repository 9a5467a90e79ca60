//! The alert rules and the dashboard in `ops/` name what `telemetry::METRICS` has, and the pages name
//! them. A metric that is new breaks none of this; one that is renamed or gone does. What Prometheus
//! makes of the files is in `ops.rs`, which needs one.

#[path = "ops/kit.rs"]
mod kit;
#[path = "ops/promql.rs"]
mod promql;

use std::collections::BTreeSet;

use kit::{alerts, list, name, targets, text, variables};
use livepool_testkit::pages::{quoted, table};
use promql::named;
use serde_json::Value;

const UNIT_TESTS: &str = include_str!("../../../ops/livepool-alerts.test.yml");
const METRICS_PAGE: &str = include_str!("../../../docs/metrics.md");
const FAILURES_PAGE: &str = include_str!("../../../docs/failure-modes.md");
/// Where the links to that page lead.
const FAILURES_LINK: &str = "/blob/main/docs/failure-modes.md#";

fn alert_names() -> Vec<String> {
    alerts().iter().map(name).collect()
}

/// What stands between `{{` and `}}`.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim())
}

#[test]
fn every_alert_names_what_is_recorded() {
    for alert in alerts() {
        let (name, expr) = (name(&alert), text(&alert["expr"]));
        let named = named(&expr).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let told = alert["annotations"].as_object().unwrap().values().map(text).collect::<String>();
        for placeholder in placeholders(&told) {
            let Some(label) = placeholder.strip_prefix("$labels.") else {
                assert!(placeholder.starts_with("$value"), "{name}: {placeholder}");
                continue;
            };
            assert!(named.groups.iter().any(|group| group == label), "{name}: {placeholder}");
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_links_to_the_failure() {
    for alert in alerts() {
        let (name, annotations) = (name(&alert), &alert["annotations"]);
        for which in ["summary", "description", "runbook", "runbook_url"] {
            assert!(!text(&annotations[which]).is_empty(), "{name}: {which}");
        }
        let link = text(&annotations["runbook_url"]);
        let (_, anchor) = link.split_once(FAILURES_LINK).expect(&name);
        let anchor = format!("<a id=\"{anchor}\"></a>");
        assert_eq!(FAILURES_PAGE.matches(&anchor).count(), 1, "{name}: {anchor}");
    }
}

#[test]
fn every_alert_has_a_unit_test_that_fires_it_and_its_series_are_recorded() {
    let file: Value = serde_yaml_ng::from_str(UNIT_TESTS).unwrap();
    let mut fired = BTreeSet::new();
    for test in list(&file["tests"]) {
        for series in list(&test["input_series"]).map(|input| text(&input["series"])) {
            named(&series).unwrap_or_else(|fault| panic!("{series}: {fault}"));
        }
        let samples = list(&test["promql_expr_test"]).flat_map(|check| list(&check["exp_samples"]));
        for sample in samples {
            let labels = text(&sample["labels"]);
            let name = labels.split("alertname=\"").nth(1).expect(&labels);
            fired.insert(name.split('"').next().unwrap().to_owned());
        }
    }
    assert_eq!(fired, alert_names().into_iter().collect());
}

#[test]
fn every_panel_and_annotation_names_what_is_recorded() {
    for (title, target) in targets() {
        let expr = text(&target["expr"]);
        let named = named(&expr).unwrap_or_else(|fault| panic!("{title}: {fault}\n{expr}"));
        // The first is a panel's, the second an annotation's.
        let told = ["legendFormat", "titleFormat"].map(|which| target[which].as_str());
        for label in told.into_iter().flatten().flat_map(placeholders) {
            assert!(named.groups.iter().any(|group| group == label), "{title}: {label}");
        }
    }
    for (selector, label) in variables() {
        let query = format!("sum by ({label}) ({selector})");
        named(&query).unwrap_or_else(|fault| panic!("{query}: {fault}"));
    }
}

#[test]
fn the_dashboard_has_its_rows_and_no_panel_lies_on_another() {
    let board: Value = serde_json::from_str(kit::DASHBOARD).unwrap();
    let rows = list(&board["panels"]).filter(|panel| panel["type"] == "row");
    let rows: Vec<_> = rows.map(|row| text(&row["title"])).collect();
    assert_eq!(rows, ["Pools", "Peers", "Liveness", "Timeouts", "Protocols", "Listeners"]);
    let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&board["panels"]) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is another's");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|of| panel["gridPos"][of].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another");
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|it| !it.is_empty()), "{title}");
            // The one that whoever imports it has chosen.
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn the_page_of_metrics_lists_every_alert() {
    let rows: Vec<[String; 4]> = table(METRICS_PAGE, "| alert ");
    let listed: Vec<_> = rows.iter().map(|[name, ..]| quoted(name).concat()).collect();
    assert_eq!(listed, alert_names());
    for (rule, [name, severity, after, _]) in alerts().iter().zip(&rows) {
        assert_eq!(text(&rule["labels"]["severity"]), *severity, "{name}");
        assert_eq!(rule["for"].as_str().unwrap_or("at once"), after, "{name}");
    }
}
