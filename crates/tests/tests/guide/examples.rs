//! Every public type has an example.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates whose API is recorded in `api/`, with their sources.
const CRATES: [(&str, &str); 5] = [
    ("livepool", "src"),
    ("livepool-tls", "crates/livepool-tls/src"),
    ("livepool-postgres", "crates/livepool-postgres/src"),
    ("livepool-redis", "crates/livepool-redis/src"),
    ("livepool-http", "crates/livepool-http/src"),
];

const KINDS: [&str; 4] = ["struct ", "enum ", "trait ", "type "];

/// The name of the type that this line defines.
fn defined(line: &str) -> Option<&str> {
    let rest = line.split_once("pub ")?.1;
    let rest = KINDS.iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':').next()
}

/// The names of the public types that are recorded, without the associated types of others.
fn public_types(recorded: &str) -> BTreeSet<&str> {
    let types = recorded.lines().filter(|line| !line.contains(" fn ")).filter_map(defined);
    types
        .filter_map(|path| {
            let mut path = path.trim_end_matches(':').rsplit("::");
            let name = path.next()?;
            let is_associated = path.next()?.starts_with(char::is_uppercase);
            (!is_associated).then_some(name)
        })
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The documentation above the line with this index: what belongs to the item there.
fn docs_above<'a>(lines: &[&'a str], at: usize) -> Vec<&'a str> {
    let belongs = |line: &&&str| {
        let line = line.trim_start();
        !line.is_empty() && !line.ends_with(['}', ';', '{'])
            || line.starts_with("///")
            || line.starts_with("#[")
    };
    lines[..at].iter().rev().take_while(belongs).map(|line| line.trim_start()).collect()
}

/// The macro that defines enums with names, in `src/event.rs`, has the name on a line of its own.
fn named<'a>(file: &Path, line: &'a str) -> Option<&'a str> {
    if !file.ends_with("src/event.rs") {
        return None;
    }
    let name = line.trim_start().strip_suffix(" {")?;
    (line.starts_with("    ") && name.starts_with(char::is_uppercase)).then_some(name)
}

#[test]
fn every_public_type_has_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut without = Vec::new();
    for (name, source) in CRATES {
        let recorded = fs::read_to_string(root.join(format!("api/{name}.txt"))).unwrap();
        let mut wanted = public_types(&recorded);
        let (all, mut files) = (wanted.clone(), Vec::new());
        sources(&root.join(source), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let lines: Vec<_> = text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                let Some(name) = defined(line).or_else(|| named(&file, line)) else { continue };
                let name = name.trim_end_matches(':');
                if !all.contains(name) || line.trim_start().starts_with("//") {
                    continue;
                }
                wanted.remove(name);
                let docs = docs_above(&lines, at);
                if !docs.iter().any(|line| line.starts_with("/// ```")) {
                    let file = file.strip_prefix(&root).unwrap().display().to_string();
                    without.push(format!("{name} ({file}:{})", at + 1));
                }
            }
        }
        // Defined elsewhere and published here again, or this test does not understand how.
        assert!(wanted.is_empty(), "{name}: not found in {source}: {wanted:?}");
        assert!(!all.is_empty(), "{name}: no types are recorded");
    }
    assert!(without.is_empty(), "without an example, {}: {without:#?}", without.len());
}
