//! `docs/deadpool.md` names tests, and each of them exists.

use livepool_testkit::pages::{all_tests, quoted, table};

const PAGE: &str = include_str!("../docs/deadpool.md");

#[test]
fn every_row_of_what_a_plain_deadpool_can_do_names_tests_that_exist() {
    let tests = all_tests();
    let rows: Vec<[String; 4]> = table(PAGE, "| what | `livepool::Pool`");
    assert!(rows.len() > 20, "the table was not found");
    for [what, .., names] in &rows {
        assert!(!quoted(names).is_empty(), "{what}: no test");
        for name in quoted(names) {
            assert!(tests.contains(name), "{what}: there is no test {name}");
        }
    }
}
