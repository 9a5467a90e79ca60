//! Where the servers' programs are.

use std::path::{Path, PathBuf};

use crate::not_run::not_run;

/// Whether the test that asks can run: all these programs are here. Says so if not, and fails where
/// no test may be left out.
pub fn are_here(programs: &[&str]) -> bool {
    let absent = |name: &&&str| {
        let drops_root = ["postgres", "pgbouncer"].contains(*name);
        find(name).is_none() || (drops_root && is_root() && postgres_user().is_none())
    };
    let Some(name) = programs.iter().find(absent) else { return true };
    let thread = std::thread::current();
    let why = format!("{name} is missing; ./scripts/test installs it or says how to");
    not_run(thread.name().unwrap_or("a test"), &why);
    false
}

/// The path of a program that has to be here.
pub fn program(name: &str) -> PathBuf {
    find(name)
        .unwrap_or_else(|| panic!("{name} is missing; ./scripts/test installs it or says how to"))
}

/// The directories in `LIVEPOOL_BIN` come first, then PostgreSQL's own: Debian's `psql` in PATH is a
/// slow wrapper. The others are in the PATH of root only.
fn find(name: &str) -> Option<PathBuf> {
    let list = |name| std::env::var(name).unwrap_or_default();
    let (first, path) = (list("LIVEPOOL_BIN"), list("PATH"));
    let first = std::env::split_paths(&first).chain(postgres_bin());
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut all = first.chain(std::env::split_paths(&path)).chain(system);
    all.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
}

/// The newest version that has a server, not only clients.
fn postgres_bin() -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let versions = versions.flatten().map(|entry| entry.path());
    let with_server = versions.filter(|path| path.join("bin/postgres").is_file());
    Some(with_server.max_by_key(version)?.join("bin"))
}

pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    user.split_whitespace().nth(1) == Some("0")
}

/// User and group of PostgreSQL's Debian package.
pub fn postgres_user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
