//! A real PostgreSQL.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::Certs;
use super::process::{Dir, Process, free_port, program, wait_for};

pub const PASSWORD: &str = "open sesame";

/// Superuser `postgres` with [`PASSWORD`] over TCP, and without one over the Unix socket; database
/// `app`.
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    dir: Dir,
}

impl Postgres {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings: `("idle_session_timeout", "500ms")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let dir = owned_dir("pg");
        copy(template(), &dir.join("data"));
        let mut server = Self { process: None, port: free_port(), dir };
        server.configure(settings);
        server.start_again();
        server.psql("CREATE DATABASE app");
        server
    }

    /// With TLS, which plain connections may do without.
    pub fn start_with_tls(settings: &[(&str, &str)], certs: &Certs) -> Self {
        let dir = owned_dir("pg");
        copy(template(), &dir.join("data"));
        let mut server = Self { process: None, port: free_port(), dir };
        for (name, file) in [("server.crt", certs.cert_file()), ("server.key", certs.key_file())] {
            let to = server.data().join(name);
            std::fs::copy(file, &to).unwrap();
            own(&to);
            // The server refuses a key that others may read.
            run(Command::new("chmod").arg("0600").arg(&to));
        }
        server.configure(&[&[("ssl", "on")], settings].concat());
        server.start_again();
        server.psql("CREATE DATABASE app");
        server
    }

    /// A standby that follows this one.
    pub fn standby(&self) -> Self {
        let dir = owned_dir("pgs");
        let mut copy = as_owner(bin("pg_basebackup"));
        copy.args(["-h", &self.dir.path().display().to_string(), "-p", &self.port.to_string()]);
        copy.args(["-U", "postgres", "-R", "-c", "fast", "-D"]).arg(dir.join("data"));
        run(&mut copy);
        let mut server = Self { process: None, port: free_port(), dir };
        server.configure(&[]);
        server.start_again();
        server
    }

    pub fn promote(&self) {
        self.psql("SELECT pg_promote(true)");
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let mut config = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\nmax_wal_senders = 4\n\
             hot_standby = on\n",
            self.port,
            self.dir.path().display()
        );
        for (name, value) in settings {
            config.push_str(&format!("{name} = '{value}'\n"));
        }
        let path = self.data().join("postgresql.conf");
        std::fs::write(&path, config).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres:open%20sesame@127.0.0.1:{}/app", self.port)
    }

    /// What `psql` prints for these statements, as superuser, over the Unix socket.
    pub fn psql(&self, sql: &str) -> String {
        let output = self.try_psql(sql);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn try_psql(&self, sql: &str) -> Output {
        Command::new(bin("psql"))
            .args(["-h", &self.dir.path().display().to_string(), "-p", &self.port.to_string()])
            .args(["-U", "postgres", "-d", "postgres", "-qAt", "-c", sql])
            .output()
            .unwrap()
    }

    /// No password is asked for any more.
    pub fn trust_everybody(&self) {
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        std::fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        self.psql("SELECT pg_reload_conf()");
        let wrong = format!("postgres://postgres:wrong@127.0.0.1:{}/app", self.port);
        wait_for("passwords are not asked for", || {
            let psql = Command::new(bin("psql")).args([&wrong, "-c", "SELECT 1"]).output().unwrap();
            psql.status.success()
        });
    }

    pub fn set(&self, setting: &str, value: &str) {
        self.psql(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
        self.psql("SELECT pg_reload_conf()");
        wait_for("the setting is in force", || self.psql(&format!("SHOW {setting}")) == value);
    }

    /// Ends every connection and stops.
    pub fn stop_fast(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(libc::SIGINT);
            process.wait();
        }
    }

    pub fn restart_fast(&mut self) {
        self.stop_fast();
        self.start_again();
    }

    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_9();
        }
    }

    pub fn start_again(&mut self) {
        // Left behind by a kill.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let mut command = as_owner(bin("postgres"));
        command.arg("-D").arg(self.data());
        self.process = Some(Process::start(command, &self.dir.join("log")));
        wait_for("postgres answers", || self.try_psql("SELECT 1").status.success());
    }

    pub fn freeze(&self) {
        self.process.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self) {
        self.process.as_ref().expect("it runs").thaw();
    }
}

fn bin(name: &str) -> PathBuf {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    let versions: Vec<_> = versions.iter().rev().map(|path| path.to_str().unwrap()).collect();
    program(name, &versions)
}

/// A data directory as `initdb` makes it, once per test binary.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<Dir> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| {
            let dir = owned_dir("pgt");
            std::fs::write(dir.join("password"), PASSWORD).unwrap();
            own(&dir.join("password"));
            let mut initdb = as_owner(bin("initdb"));
            initdb.arg("-D").arg(dir.join("data")).arg("--pwfile").arg(dir.join("password"));
            initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
            initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
            run(&mut initdb);
            dir
        })
        .path()
}

fn copy(template: &Path, to: &Path) {
    let mut copy = as_owner(PathBuf::from("cp"));
    copy.arg("-a").arg(template.join("data")).arg(to);
    run(&mut copy);
}

/// PostgreSQL does not run as root: root starts it as the user of its Debian package.
fn owner() -> Option<(u32, u32)> {
    let me = std::fs::read_to_string("/proc/self/status").unwrap();
    if !me.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("there is a user postgres").split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn as_owner(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = owner() {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}

fn owned_dir(name: &str) -> Dir {
    let dir = Dir::new(name);
    own(dir.path());
    dir
}

fn own(path: &Path) {
    if let Some((user, group)) = owner() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}
