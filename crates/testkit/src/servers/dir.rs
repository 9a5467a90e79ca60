//! Private directories, and a guard that clears up after a test binary that was killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory that is gone when this is dropped.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        // Short: the path of a Unix socket has 107 bytes.
        let path = root().join(format!("{name}-{count}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The directory above all directories of this test binary. Nothing is dropped in a binary that is
/// killed, and statics are dropped in none: a guard waits for its end and removes what is left.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let start = || {
        let path = std::env::temp_dir().join(format!("lp-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        // A group of its own: Ctrl-C, which ends the tests, must not end the guard.
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&path)
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (path, guard)
    };
    &ROOT.get_or_init(start).0
}

/// Its standard input ends when the test binary does, however that happens. It kills the servers
/// whose process is named in a file `leader`, their children, and whatever else works in one of the
/// directories; PostgreSQL would leave a segment of shared memory too (the seventh line of its file).
const GUARD: &str = r#"
read -r _
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for file in "$1"/*/leader; do
        [ -e "$file" ] || continue
        leader=$(cat "$file")
        kill -STOP "$leader"
        kill -KILL "$leader" $(cat "/proc/$leader/task/$leader/children")
        rm -f "$file"
        found=yes
    done
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd") in
            "$1" | "$1"/*) kill -KILL "${process#/proc/}"; found=yes;;
        esac
    done
    [ -n "$found" ] || break
done
for file in "$1"/*/data/postmaster.pid; do
    [ -e "$file" ] || continue
    segment=$(sed -n 7p "$file")
    ipcrm -m "${segment##* }"
done
rm -rf "$1"
"#;
