//! The alert rules and the dashboard in `ops/`, with a real Prometheus that scrapes real pools: each alert
//! is fired by its fault, a pool that is well fires none, and each query of the dashboard has an answer.
//! What the files name is compared with the table of metrics in `ops_files.rs`.
#![cfg(target_os = "linux")]

#[path = "ops/exporter.rs"]
mod exporter;
#[path = "ops/faults.rs"]
mod faults;
#[path = "ops/kit.rs"]
mod kit;
#[path = "ops/postgres.rs"]
mod postgres;
#[path = "ops/silence.rs"]
mod silence;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faults::Faults;
use kit::{RULES, alerts, list, targets, text, variables};
use livepool::{Config, Listener, ListenerConfig};
use livepool_testkit::alone::alone;
use livepool_testkit::descriptors::allow_only;
use livepool_testkit::servers::programs::program;
use livepool_testkit::servers::{Prometheus, are_here};
use serde_json::Value;
use tokio::net::TcpStream;

/// Every duration in the rules is divided by this: `[5m]` and `for: 5m` are two seconds.
const FASTER: u32 = 150;
/// Between two scrapes, and between two evaluations of the rules. A range of two seconds has six.
const EVERY: Duration = Duration::from_millis(300);
/// The longest that a rule has to hold is six seconds, over a range of four.
const PATIENCE: Duration = Duration::from_secs(40);
/// On a machine that is so busy that scrapes fail, everything goes so many times slower.
const SLOWER: u32 = 5;

#[test]
fn promtool_takes_the_rules_and_their_unit_tests_hold() {
    if !are_here(&["promtool"]) {
        return;
    }
    let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops");
    for (what, file) in [("check", "livepool-alerts.yml"), ("test", "livepool-alerts.test.yml")] {
        let mut promtool = Command::new(program("promtool"));
        let output = promtool.args([what, "rules", file]).current_dir(&ops).output().unwrap();
        let told = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap()).concat();
        assert!(output.status.success(), "{told}");
    }
}

#[test]
fn each_alert_is_fired_by_its_fault_and_each_query_of_the_dashboard_has_an_answer() {
    // It has the recorder of its process, and the limit of descriptors.
    let name = "each_alert_is_fired_by_its_fault_and_each_query_of_the_dashboard_has_an_answer";
    if !are_here(&["prometheus", "postgres"]) || !alone(name) {
        return;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(everything_goes_wrong());
}

async fn everything_goes_wrong() {
    let exporter = exporter::start();
    let mut faults = Faults::default();
    postgres::add_all(&mut faults);
    faults::add_all(&mut faults);
    silence::add_all(&mut faults);
    let mut well = tokio::task::JoinSet::new();
    well.spawn(faults::calm(Config::new("").with_name("calm")));
    let clients = tokio::spawn(faults::clients("clients"));

    let mut expected: BTreeSet<_> = faults.all.iter().map(|it| fired(it.alert, it.of)).collect();
    let mut seen = Seen::begin(exporter, 1);
    if let Err(missing) = seen.until(&expected, async || faults.go_on()).await {
        eprintln!("once more, slower, for this machine is busy: {missing}");
        seen = Seen::begin(exporter, SLOWER);
        seen.until(&expected, async || faults.go_on()).await.unwrap();
    }
    // The next one takes descriptors away from everybody.
    faults.stop().await;
    assert!(!clients.is_finished(), "{:?}", clients.await);
    clients.abort();
    let _ = clients.await;
    let accepts = fired("LivepoolAcceptFails", "accepts");
    let config = ListenerConfig::default().with_name("accepts");
    let listener = Listener::bind("127.0.0.1:0", &config).await.unwrap();
    let short = async || out_of_descriptors(&listener).await;
    seen.until(&BTreeSet::from([accepts.clone()]), short).await.unwrap();
    assert!(well.try_join_next().is_none(), "the pool that is well has ended");
    well.shutdown().await;
    expected.insert(accepts);

    let alerts: BTreeSet<_> = expected.iter().map(|(alert, _)| alert.clone()).collect();
    assert_eq!(alerts, kit::alerts().iter().map(kit::name).collect(), "no fault");
    for fault in &faults.all {
        let also = fault.also.iter().chain(&["LivepoolCallersWait"]);
        expected.extend(also.map(|also| fired(also, fault.of)));
    }
    let others: Vec<_> =
        seen.whatever_fired().into_iter().filter(|it| !expected.contains(it)).collect();
    assert_eq!(others, [], "not by their fault");
    seen.every_alert_was_readable();
    seen.every_rule_could_be_evaluated();
    seen.every_query_of_the_dashboard_has_an_answer();
}

/// An alert, and the pool or listener that it is about.
type Fired = (String, String);

fn fired(alert: &str, of: &str) -> Fired {
    (alert.to_owned(), of.to_owned())
}

fn owner(labels: &Value) -> String {
    text(if labels["pool"].is_null() { &labels["listener"] } else { &labels["pool"] })
}

fn unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The rules, with every `[5m]` and `for: 5m` divided.
fn faster(rules: &str, by: u32) -> String {
    let faster = |line: &str| {
        let after = line.split_once("for: ").filter(|(indent, _)| indent.trim().is_empty());
        if let Some((indent, duration)) = after {
            return format!("{indent}for: {}\n", divided(duration, by));
        }
        let mut parts = line.split('[');
        let mut result = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (range, behind) = part.split_once(']').expect(line);
            result += &format!("[{}]{behind}", divided(range, by));
        }
        result + "\n"
    };
    rules.lines().map(faster).collect()
}

/// `5m` is `2000ms`.
fn divided(duration: &str, by: u32) -> String {
    let minutes: u32 = duration.strip_suffix('m').and_then(|it| it.parse().ok()).expect(duration);
    format!("{}ms", minutes * 60_000 / by)
}

/// A client comes while the process has no descriptor left, for a moment.
async fn out_of_descriptors(listener: &Listener) {
    let client = TcpStream::connect(listener.local_addr().to_string()).await.unwrap();
    // Those that are open stay; from the lowest free one on there are none.
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let before = allow_only(u64::try_from(free).unwrap());
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    allow_only(before);
    drop((client, accepted));
}

/// What Prometheus has seen.
struct Seen {
    prometheus: Prometheus,
    slower: u32,
    /// In seconds of Unix time.
    began: f64,
    /// With the annotations that they had.
    firing: BTreeMap<Fired, Value>,
}

impl Seen {
    fn begin(exporter: SocketAddr, slower: u32) -> Self {
        let rules = faster(RULES, FASTER / slower);
        let prometheus = Prometheus::start("shop", &[exporter], &rules, EVERY * slower);
        Self { prometheus, slower, began: unix(), firing: BTreeMap::new() }
    }

    /// The data of an answer.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer: Value = serde_json::from_str(&self.prometheus.api(path, parameters)).unwrap();
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// Waits until all of these have fired, each at some time. If some have not in time: which, and what
    /// has.
    async fn until(
        &mut self,
        expected: &BTreeSet<Fired>,
        mut meanwhile: impl AsyncFnMut(),
    ) -> Result<(), String> {
        let began = Instant::now();
        loop {
            for alert in list(&self.ask("/api/v1/alerts", &[])["alerts"]) {
                if alert["state"] == "firing" {
                    let which = (text(&alert["labels"]["alertname"]), owner(&alert["labels"]));
                    self.firing.insert(which, alert["annotations"].clone());
                }
            }
            let missing: Vec<_> =
                expected.iter().filter(|it| !self.firing.contains_key(it)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE * self.slower {
                let others = self.firing.keys();
                return Err(format!("these have not fired: {missing:?}\nthese have: {others:?}"));
            }
            meanwhile().await;
            tokio::time::sleep(EVERY / 2).await;
        }
    }

    /// All that has fired since the beginning, however short.
    fn whatever_fired(&self) -> BTreeSet<Fired> {
        let query = "count_over_time(ALERTS{alertstate=\"firing\"}[10m])";
        let data = self.ask("/api/v1/query", &[("query", query)]);
        let labels = list(&data["result"]).map(|series| &series["metric"]);
        labels.map(|labels| (text(&labels["alertname"]), owner(labels))).collect()
    }

    fn every_alert_was_readable(&self) {
        for (which, annotations) in &self.firing {
            let annotations = annotations.as_object().unwrap();
            assert_eq!(annotations.len(), 4, "{which:?}: {annotations:?}");
            for told in annotations.values().map(text) {
                let is_whole =
                    ["<no value>", "<error", "{{", "NaN"].iter().all(|it| !told.contains(it));
                assert!(is_whole && !told.is_empty(), "{which:?}: {told}");
            }
        }
    }

    fn every_rule_could_be_evaluated(&self) {
        let data = self.ask("/api/v1/rules", &[]);
        let rules: Vec<_> = list(&data["groups"]).flat_map(|group| list(&group["rules"])).collect();
        assert_eq!(rules.len(), alerts().len());
        for rule in rules {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }

    /// As Grafana asks, with "All" in each variable: a value other than 0 at some time.
    fn every_query_of_the_dashboard_has_an_answer(&self) {
        // A second more: what has just happened is in the ranges of the last step, too.
        let (start, end) = (self.began.to_string(), (unix() + 1.0).to_string());
        let mut silent = Vec::new();
        for (title, target) in targets() {
            let query = with_variables(&text(&target["expr"]), self.slower);
            let span = [("start", start.as_str()), ("end", &end), ("step", "1")];
            let asked = [&[("query", query.as_str())][..], &span].concat();
            let data = self.ask("/api/v1/query_range", &asked);
            let values = list(&data["result"]).flat_map(|series| list(&series["values"]));
            let values = values.map(|value| text(&value[1]).parse::<f64>().unwrap());
            if !values.into_iter().any(|value| value.is_finite() && value != 0.0) {
                silent.push(format!("{title}: {query}"));
            }
        }
        assert!(silent.is_empty(), "these show nothing:\n{}", silent.join("\n"));
        for (selector, label) in variables() {
            let path = format!("/api/v1/label/{label}/values");
            let values = self.ask(&path, &[("match[]", &with_variables(&selector, self.slower))]);
            assert!(list(&values).count() > 0, "{label} of {selector}");
        }
    }
}

/// A query of the dashboard as Grafana sends it.
fn with_variables(query: &str, slower: u32) -> String {
    let mut query = query.replace("$__rate_interval", &format!("{}s", 3 * slower));
    for name in ["job", "instance", "pool", "listener"] {
        query = query.replace(&format!("=~\"${name}\""), "=~\".*\"");
    }
    assert!(!query.contains('$'), "{query}: an unknown variable");
    query
}
