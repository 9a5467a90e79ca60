//! Pages that name tests, held against the code.

use std::collections::BTreeSet;
use std::path::Path;

use super::ROOT;

/// The names of all tests of the workspace.
pub fn all_tests() -> BTreeSet<String> {
    let root = Path::new(ROOT);
    let mut names = BTreeSet::new();
    for folder in ["src", "tests", "crates"] {
        tests_below(&root.join(folder), &mut names);
    }
    names
}

/// The rows of a table in Markdown, without its head.
pub fn table<const N: usize>(text: &str, head: &str) -> Vec<[String; N]> {
    text.lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            cells.try_into().unwrap_or_else(|_| panic!("not {N} cells: {line}"))
        })
        .collect()
}

/// What stands in backquotes.
pub fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

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
