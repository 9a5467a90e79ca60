//! Figures, kept for the report.

use std::path::PathBuf;

use serde_json::Value;

/// Where benches leave their figures: beside Cargo's own output, which is not committed.
pub fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program");
    // target/release/deps/program
    program.ancestors().nth(3).expect("in a target folder").join("livepool-bench")
}

/// Keeps the figures of one bench.
pub fn save(name: &str, figures: &Value) {
    if !super::measures() {
        return;
    }
    let file = folder().join(format!("{name}.json"));
    std::fs::create_dir_all(folder()).expect("a writable target folder");
    std::fs::write(&file, format!("{figures:#}\n")).expect("a writable target folder");
    println!("figures: {}", file.display());
}

/// The figures of one bench, if it was run.
pub fn load(name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).ok()?;
    Some(serde_json::from_str(&text).expect("what was saved"))
}
