//! What a PostgreSQL keeps on disk, and whom it belongs to.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::dir::Dir;
use super::postgres::PASSWORD;
use super::programs::{is_root, postgres_user, program};

/// A new data directory, `data` in `dir`: a copy of what `initdb` makes once per test binary.
pub fn make_data(dir: &Dir) {
    static TEMPLATE: OnceLock<Dir> = OnceLock::new();
    let template = TEMPLATE.get_or_init(template).join("data");
    run(as_owner("cp", dir).arg("-a").arg(template).arg(dir.join("data")));
}

fn template() -> Dir {
    let dir = owned_dir("pgt");
    let (data, password) = (dir.join("data"), dir.join("password"));
    std::fs::write(&password, PASSWORD).unwrap();
    own(&password);
    let mut initdb = as_owner("initdb", &dir);
    initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password);
    initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"]);
    run(initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]));
    let sql = dir.join("sql");
    // As small as can be, for it is copied for every server.
    let role = format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'");
    let database = "ALTER DATABASE postgres RENAME TO app";
    let owner = "ALTER DATABASE app OWNER TO app";
    let no_template = "UPDATE pg_database SET datistemplate = false WHERE datname = 'template0'";
    let statements = [&role, database, owner, no_template, "DROP DATABASE template0"];
    let mut single = as_owner("postgres", &dir);
    single.args(["--single", "-F", "-j", "-D"]).arg(&data).arg("template1");
    // In this mode a blank line after a semicolon ends a command; errors do not end the program.
    std::fs::write(&sql, statements.map(|statement| format!("{statement};\n\n")).concat()).unwrap();
    run(single.stdin(std::fs::File::open(&sql).unwrap()));
    dir
}

/// PostgreSQL does not run as root: root starts it as the user of its Debian package.
pub fn as_owner(name: &str, dir: &Dir) -> Command {
    let mut command = Command::new(program(name));
    if let Some((user, group)) = owner() {
        command.uid(user).gid(group);
    }
    command.current_dir(dir.path()).stdin(Stdio::null());
    command
}

fn owner() -> Option<(u32, u32)> {
    is_root().then(|| postgres_user().expect("there is a user postgres"))
}

pub fn owned_dir(name: &str) -> Dir {
    let dir = Dir::new(name);
    own(dir.path());
    dir
}

pub fn own(path: &Path) {
    if let Some((user, group)) = owner() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// A server that was killed leaves a segment of shared memory, of which the system has a limited
/// number, and a file that names it: number seven of its lines.
pub fn forget_killed(data: &Path) {
    let path = data.join("postmaster.pid");
    let Ok(file) = std::fs::read_to_string(&path) else { return };
    let segment = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = segment.and_then(|id| id.parse().ok()) {
        // SAFETY: IPC_RMID takes no buffer, and the segment is mapped nowhere in this process.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
    std::fs::remove_file(path).unwrap();
}
