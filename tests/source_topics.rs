//! `docs/sockets.md` names a test for every topic, and each of them exists.

use livepool_testkit::pages::{all_tests, quoted, table};

const PAGE: &str = include_str!("../docs/sockets.md");

/// The headings of the text the page answers, in its order.
const TOPICS: [&str; 4] = [
    "## Setting timeouts",
    "## Address reuse (SO_REUSEADDR)",
    "## TCP keepalive",
    "## Timeout or keepalive?",
];

/// The rows of the table at the end of the page: topic, API, tests.
fn rows() -> Vec<[String; 3]> {
    table(PAGE, "| topic ")
}

#[test]
fn every_test_the_page_names_exists() {
    let tests = all_tests();
    let rows = rows();
    let named = rows
        .iter()
        .flat_map(|[topic, _, names]| quoted(names).into_iter().map(move |name| (topic, name)));
    let missing: Vec<_> = named.filter(|(_, name)| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/sockets.md names tests that do not exist: {missing:#?}");
}

#[test]
fn every_topic_of_the_page_names_its_api_and_at_least_one_test() {
    let rows = rows();
    assert!(rows.len() > 20, "the table was not found");
    for [topic, api, names] in rows {
        assert!(!topic.is_empty() && !quoted(&api).is_empty(), "{topic}: no API");
        assert!(!quoted(&names).is_empty(), "{topic}: no test");
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
