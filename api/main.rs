//! Compares the public API of each crate that is published with `api/<crate>.txt`. See `scripts/api`.

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use public_api::Builder;
use serde_json::Value;

/// Traits whose implementations are left out. Some are the compiler's own and come and go with its version;
/// unwind safety changes with what a dependency has in a field, and callers seldom ask for it.
const LEFT_OUT: [&str; 5] = [
    "core::marker::Freeze",
    "core::marker::StructuralPartialEq",
    "core::marker::UnsafeUnpin",
    "core::panic::unwind_safe::RefUnwindSafe",
    "core::panic::unwind_safe::UnwindSafe",
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "\nIf this is meant: ./scripts/api --bless, and CHANGELOG.md tells callers what to change."
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every API is the recorded one. With `--bless` it is recorded instead.
fn run() -> Result<bool, Box<dyn Error>> {
    let options: Vec<String> = env::args().skip(1).collect();
    let bless = match options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--bless"] => true,
        _ => return Err("usage: scripts/api [--bless]".into()),
    };
    let workspace = Workspace::read()?;
    let mut same = true;
    for package in workspace.published() {
        let found = workspace.api(package)?;
        let file = workspace.root.join(format!("api/{package}.txt"));
        if bless {
            fs::write(&file, found.join("\n") + "\n")?;
            println!("{package}: {} lines recorded", found.len());
        } else {
            same &= is_recorded(package, &file, &found)?;
        }
    }
    Ok(same)
}

/// Prints how what was found differs from what is recorded.
fn is_recorded(package: &str, file: &Path, found: &[String]) -> Result<bool, Box<dyn Error>> {
    if !file.exists() {
        println!("{package}: no API is recorded; there are {} lines", found.len());
        return Ok(false);
    }
    let text = fs::read_to_string(file)?;
    let recorded: HashSet<&str> = text.lines().collect();
    let now: HashSet<&str> = found.iter().map(String::as_str).collect();
    let gone = recorded.difference(&now).map(|line| (*line, '-'));
    let new = now.difference(&recorded).map(|line| (*line, '+'));
    let mut changes: Vec<_> = gone.chain(new).collect();
    if changes.is_empty() {
        println!("{package}: as recorded, {} lines", found.len());
        return Ok(true);
    }
    changes.sort_unstable();
    println!("{package}: {} lines differ from api/{package}.txt", changes.len());
    for (line, sign) in changes {
        println!("  {sign} {line}");
    }
    Ok(false)
}

/// What `cargo metadata` says of the workspace.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<Value>,
}

impl Workspace {
    fn read() -> Result<Self, Box<dyn Error>> {
        let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from).ok_or("no such path");
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            packages: metadata["packages"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// Names of the members that `publish = false` does not keep from the registry.
    fn published(&self) -> impl Iterator<Item = &str> {
        self.packages
            .iter()
            .filter(|package| package["publish"].as_array().is_none_or(|to| !to.is_empty()))
            .filter_map(|package| package["name"].as_str())
    }

    /// The public API of a package with all features, one item to a line. What implements a trait stands
    /// behind its type.
    fn api(&self, package: &str) -> Result<Vec<String>, Box<dyn Error>> {
        // Only rustdoc may do what is unstable: cargo and the build scripts of dependencies would
        // build everything anew for it.
        let status = cargo()
            .env("RUSTDOC", self.root.join("api/rustdoc"))
            .args(["rustdoc", "--quiet", "--lib", "--all-features", "-p", package, "--"])
            .args(["-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
            .status()?;
        if !status.success() {
            return Err(format!("{package}: rustdoc failed").into());
        }
        let json = self.target.join("doc").join(package.replace('-', "_") + ".json");
        let api = Builder::from_rustdoc_json(&json).omit_blanket_impls(true).build().map_err(
            |error| {
                format!(
                    "{}: {error}\nIs the compiler newer than the crate public-api in api/Cargo.toml?",
                    json.display()
                )
            },
        )?;
        // A type that has two paths is told of at each.
        let mut seen = HashSet::new();
        let lines = api.items().map(ToString::to_string);
        Ok(lines.filter(|line| is_kept(line) && seen.insert(line.clone())).collect())
    }
}

/// Whether a line is something else than an implementation of one of [`LEFT_OUT`].
fn is_kept(line: &str) -> bool {
    let is_of = |name: &&str| line.contains(&format!("{name} for "));
    !(line.starts_with("impl") && LEFT_OUT.iter().any(is_of))
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
