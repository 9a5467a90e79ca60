//! `docs/sockets.md` names a test for every topic, and each of them exists.

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../docs/sockets.md");

/// The headings of the text the page answers, in its order.
const TOPICS: [&str; 4] = [
    "## Setting timeouts",
    "## Address reuse (SO_REUSEADDR)",
    "## TCP keepalive",
    "## Timeout or keepalive?",
];

/// The names of all tests in the Rust files below this folder.
fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests_of(&std::fs::read_to_string(path).unwrap(), names);
        }
    }
}

/// The names of the functions that stand below a test attribute.
fn tests_of(source: &str, names: &mut BTreeSet<String>) {
    let mut marked = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            let end = rest.find('(').expect("a function has parameters");
            names.insert(rest[..end].to_owned());
            marked = false;
        }
    }
}

/// The rows of the table at the end of the page: topic, API, tests.
fn rows() -> Vec<[&'static str; 3]> {
    let (_, table) = PAGE.split_once("## Where each of this is tested").unwrap();
    table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| topic "))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            cells.try_into().unwrap_or_else(|_| panic!("not three cells: {line}"))
        })
        .collect()
}

/// What stands in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_test_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    tests_below(&root.join("tests"), &mut tests);
    tests_below(&root.join("src"), &mut tests);
    let missing: Vec<_> = rows()
        .into_iter()
        .flat_map(|[topic, _, names]| quoted(names).into_iter().map(move |name| (topic, name)))
        .filter(|(_, name)| !tests.contains(*name))
        .collect();
    assert!(missing.is_empty(), "docs/sockets.md names tests that do not exist: {missing:#?}");
}

#[test]
fn every_topic_of_the_page_names_its_api_and_at_least_one_test() {
    let rows = rows();
    assert!(rows.len() > 20, "the table was not found");
    for [topic, api, names] in rows {
        assert!(!topic.is_empty() && !quoted(api).is_empty(), "{topic}: no API");
        assert!(!quoted(names).is_empty(), "{topic}: no test");
    }
}

#[test]
fn the_page_keeps_the_order_of_the_text_it_answers_and_shows_code_for_each_topic() {
    let places: Vec<_> = TOPICS
        .iter()
        .map(|topic| PAGE.find(topic).unwrap_or_else(|| panic!("{topic} is missing")))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    let sections: Vec<_> = PAGE.split("\n## ").skip(1).collect();
    for (topic, section) in TOPICS.iter().zip(sections) {
        assert!(section.starts_with(&topic[3..]), "{topic}");
        assert!(section.contains("```rust\n"), "{topic} has no example");
    }
}
