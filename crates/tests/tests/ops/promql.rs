//! What a query of Prometheus names, held against the table of metrics. Whether it is a query at all,
//! Prometheus says (`ops.rs`).

use std::iter::Peekable;
use std::str::Chars;

use livepool::telemetry::{Kind, METRICS, Metric};

/// Prometheus puts these on all that it scrapes.
const OF_TARGETS: [&str; 2] = ["job", "instance"];
/// Histograms have it on their buckets.
const BUCKET: &str = "le";

/// All that the queries use beside metrics.
const FUNCTIONS: [&str; 9] = [
    "sum",
    "max",
    "rate",
    "increase",
    "max_over_time",
    "histogram_quantile",
    "and",
    "or",
    "unless",
];
/// These have labels in parentheses behind them.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// The query in words, texts and signs. A range in brackets is left out.
fn tokens(query: &str) -> Vec<Token> {
    let mut chars = query.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(&next) = chars.peek() {
        if is_of_word(next) {
            tokens.push(Token::Word(take_while(&mut chars, is_of_word)));
            continue;
        }
        chars.next();
        match next {
            '"' => {
                tokens.push(Token::Text(take_while(&mut chars, |c| c != '"')));
                chars.next();
            }
            '[' => drop(take_while(&mut chars, |c| c != ']')),
            ']' => {}
            _ if next.is_whitespace() => {}
            _ => tokens.push(Token::Sign(next)),
        }
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.".contains(c)
}

fn take_while(chars: &mut Peekable<Chars<'_>>, is_part: impl Fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(next) = chars.next_if(|c| is_part(*c)) {
        taken.push(next);
    }
    taken
}

/// What a query names.
#[derive(Debug, Default)]
pub struct Named {
    metrics: Vec<&'static Metric>,
    /// The labels that it groups by.
    pub groups: Vec<String>,
}

/// What this query names, or the first thing in it that nobody records.
pub fn named(query: &str) -> Result<Named, String> {
    let tokens = tokens(query);
    let mut named = Named::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else {
            if *token == Token::Sign('{') {
                at = selector(&tokens, at, false, &mut named)?;
            }
            continue;
        };
        if GROUPINGS.contains(&word.as_str()) {
            let labels: Vec<_> =
                tokens[at..].iter().take_while(|token| **token != Token::Sign(')')).collect();
            at += labels.len();
            let labels = labels.into_iter().filter_map(|token| match token {
                Token::Word(label) => Some(label.clone()),
                _ => None,
            });
            named.groups.extend(labels);
        } else if !FUNCTIONS.contains(&word.as_str()) && word.parse::<f64>().is_err() {
            let (metric, has_buckets) = metric(word)?;
            named.metrics.push(metric);
            if tokens.get(at) == Some(&Token::Sign('{')) {
                at = selector(&tokens, at + 1, has_buckets, &mut named)?;
            }
        }
    }
    let is_known = |label: &str| {
        named.metrics.iter().all(|metric| has_label(metric, label))
            || OF_TARGETS.contains(&label)
            || (label == BUCKET && query.contains("_bucket"))
    };
    match named.groups.iter().find(|label| !is_known(label)) {
        Some(label) => Err(format!("not all metrics have the label {label}")),
        None if named.metrics.is_empty() => Err("it names no metric".to_owned()),
        None => Ok(named),
    }
}

/// The metric with a series of this name, and whether these are its buckets.
fn metric(series: &str) -> Result<(&'static Metric, bool), String> {
    for metric in METRICS {
        let suffixes: &[&str] = match metric.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in suffixes {
            if series.strip_suffix(suffix) == Some(metric.name) {
                return Ok((metric, *suffix == "_bucket"));
            }
        }
    }
    Err(format!("nobody records {series}"))
}

fn has_label(metric: &Metric, name: &str) -> bool {
    metric.labels.iter().any(|label| label.name == name)
}

/// Reads `label="a|b", ...}`, which is of the last metric if it names none itself, and returns where it
/// ends.
fn selector(
    tokens: &[Token],
    mut at: usize,
    has_buckets: bool,
    named: &mut Named,
) -> Result<usize, String> {
    let mut label = "";
    while tokens.get(at) != Some(&Token::Sign('}')) {
        match tokens.get(at).ok_or("a selector does not end")? {
            Token::Word(word) => label = word,
            Token::Text(value) if label == "__name__" => {
                for name in value.split('|') {
                    named.metrics.push(metric(name)?.0);
                }
            }
            Token::Text(value) => {
                let metric = named.metrics.last().ok_or("a selector of no metric")?;
                check_value(metric, has_buckets, label, value)?;
            }
            Token::Sign(_) => {}
        }
        at += 1;
    }
    Ok(at + 1)
}

fn check_value(metric: &Metric, has_buckets: bool, label: &str, value: &str) -> Result<(), String> {
    if OF_TARGETS.contains(&label) || (has_buckets && label == BUCKET) {
        return Ok(());
    }
    let known = metric.labels.iter().find(|known| known.name == label);
    let known = known.ok_or_else(|| format!("{} has no label {label}", metric.name))?;
    // Those of an owner are any, and a variable of the dashboard's stands for one.
    let is_known = |value: &str| known.values.is_empty() || known.values.contains(&value);
    match value.split('|').find(|value| !is_known(value)) {
        Some(value) => Err(format!("{} has no {label}={value}", metric.name)),
        None => Ok(()),
    }
}

#[test]
fn what_nobody_records_is_found_wherever_it_stands() {
    for (query, fault) in [
        ("livepool_waiter", "nobody records livepool_waiter"),
        ("rate(up[5m])", "nobody records up"),
        ("livepool_use_seconds", "nobody records livepool_use_seconds"),
        ("livepool_waiters_sum", "nobody records livepool_waiters_sum"),
        ("{__name__=~\"livepool_waiters|gone\"}", "nobody records gone"),
        ("livepool_waiters{state=\"idle\"}", "livepool_waiters has no label state"),
        ("livepool_peers{le=\"1\"}", "livepool_peers has no label le"),
        (
            "sum(livepool_connections{pool=\"a\", state=~\"idle|used\"})",
            "livepool_connections has no state=used",
        ),
        (
            "livepool_evictions_total{reason!=\"peer_silent\"}",
            "livepool_evictions_total has no reason=peer_silent",
        ),
        ("sum by (pool, state) (livepool_waiters)", "not all metrics have the label state"),
        ("sum by (le) (livepool_waiters)", "not all metrics have the label le"),
        ("1 > 0", "it names no metric"),
    ] {
        assert_eq!(named(query).unwrap_err(), fault, "{query}");
    }
    for query in [
        "sum by (job, pool) (rate(livepool_closed_total{reason=~\"peer_silent|reset\"}[5m])) > 0.01",
        "histogram_quantile(0.9, sum by (pool, le) (rate(livepool_use_seconds_bucket{le=\"1\"}[$a])))",
        "livepool_connections{pool=~\"$pool\", job=\"x\"}",
    ] {
        named(query).unwrap();
    }
}
