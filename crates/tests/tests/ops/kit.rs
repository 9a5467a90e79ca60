//! What is in `ops/`: the alert rules and the dashboard.

use serde_json::Value;

pub const RULES: &str = include_str!("../../../../ops/livepool-alerts.yml");
pub const DASHBOARD: &str = include_str!("../../../../ops/livepool-dashboard.json");

/// All alerts as the file has them, in its order.
pub fn alerts() -> Vec<Value> {
    let file: Value = serde_yaml_ng::from_str(RULES).unwrap();
    list(&file["groups"]).flat_map(|group| list(&group["rules"]).cloned()).collect()
}

pub fn name(alert: &Value) -> String {
    text(&alert["alert"])
}

/// All queries of the dashboard, with the title of their panel, and its annotations as if they were some. A
/// row that is folded has its panels inside.
pub fn targets() -> Vec<(String, Value)> {
    let board: Value = serde_json::from_str(DASHBOARD).unwrap();
    let annotations = list(&board["annotations"]["list"]);
    let mut targets: Vec<_> = annotations.map(|one| (text(&one["name"]), one.clone())).collect();
    for panel in list(&board["panels"]) {
        for panel in std::iter::once(panel).chain(list(&panel["panels"])) {
            let title = text(&panel["title"]);
            targets.extend(list(&panel["targets"]).map(|target| (title.clone(), target.clone())));
        }
    }
    targets
}

/// The selector and the label of each variable of the dashboard that asks Prometheus:
/// `label_values(selector, label)`.
pub fn variables() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(DASHBOARD).unwrap();
    list(&board["templating"]["list"])
        .filter(|variable| variable["type"] == "query")
        .map(|variable| {
            let query = text(&variable["query"]["query"]);
            let inside = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
            let (selector, label) = inside.and_then(|it| it.rsplit_once(", ")).expect(&query);
            (selector.to_owned(), label.to_owned())
        })
        .collect()
}

/// The items of a list; none, where there is no list.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
