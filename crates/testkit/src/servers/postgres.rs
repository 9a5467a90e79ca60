//! A real PostgreSQL.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::Certs;
use super::dir::{Dir, root};
use super::port::free_port;
use super::postgres_files::{as_owner, forget_killed, make_data, own, owned_dir, run};
use super::process::{Process, wait_for};
use super::programs::program;

pub const PASSWORD: &str = "open sesame";

/// Superuser `postgres` and role `app`, both with [`PASSWORD`] over TCP, and without one over the
/// Unix socket; database `app`, and none called `postgres`.
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    settings: Vec<(String, String)>,
    dir: Dir,
}

impl Postgres {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings: `("idle_session_timeout", "500ms")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let dir = owned_dir("pg");
        make_data(&dir);
        Self::start_in(dir, settings)
    }

    /// With TLS, which plain connections may do without; clients may show a certificate.
    pub fn start_with_tls(settings: &[(&str, &str)], certs: &Certs) -> Self {
        let dir = owned_dir("pg");
        make_data(&dir);
        let files = [("ca.crt", certs.ca_file()), ("server.crt", certs.cert_file())];
        for (name, file) in files.into_iter().chain([("server.key", certs.key_file())]) {
            let to = dir.join("data").join(name);
            std::fs::copy(file, &to).unwrap();
            own(&to);
        }
        Self::start_in(dir, &[&[("ssl", "on"), ("ssl_ca_file", "ca.crt")], settings].concat())
    }

    /// A standby that follows this one, with the same settings.
    pub fn standby(&self) -> Self {
        let dir = owned_dir("pgs");
        let mut copy = as_owner("pg_basebackup", &dir);
        copy.arg("-h").arg(self.socket_dir()).args(["-p", &self.port.to_string()]);
        run(copy.args(["-U", "postgres", "-N", "-c", "fast", "-D"]).arg(dir.join("data")));
        // Not by `-R`: a newer `pg_basebackup` writes options there that an older server does not know.
        let signal = dir.join("data/standby.signal");
        std::fs::write(&signal, "").unwrap();
        own(&signal);
        let (host, port) = (self.socket_dir().display(), self.port);
        let primary = format!("host={host} port={port} user=postgres");
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let follow = [("primary_conninfo", primary.as_str())];
        let standby = Self::start_in(dir, &settings.chain(follow).collect::<Vec<_>>());
        let status = "SELECT status FROM pg_stat_wal_receiver";
        wait_for("the standby follows", || standby.psql(status) == "streaming");
        standby
    }

    fn start_in(dir: Dir, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let mut server =
            Self { process: None, port: free_port(), settings: settings.collect(), dir };
        server.configure();
        server.start_again();
        server
    }

    fn configure(&self) {
        // Nothing is kept for longer than a test, and nothing outside of the directory.
        let mut config = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\n\
             dynamic_shared_memory_type = mmap\nmax_wal_senders = 4\nhot_standby = on\n",
            self.port,
            self.socket_dir().display()
        );
        for (name, value) in &self.settings {
            config.push_str(&format!("{name} = '{value}'\n"));
        }
        std::fs::write(self.data().join("postgresql.conf"), config).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The superuser's.
    pub fn url(&self) -> String {
        format!("postgres://postgres:open%20sesame@127.0.0.1:{}/app", self.port)
    }

    /// Of a role like any other: what it does leaves the connections reserved for [`Self::psql`].
    pub fn app_url(&self) -> String {
        format!("postgres://app:open%20sesame@127.0.0.1:{}/app", self.port)
    }

    /// What `psql` prints for these statements, as superuser in the database `app`, over the Unix
    /// socket.
    pub fn psql(&self, sql: &str) -> String {
        let output = self.try_psql(sql);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn try_psql(&self, sql: &str) -> Output {
        let mut psql = Command::new(program("psql"));
        psql.arg("-h").arg(self.socket_dir()).args(["-p", &self.port.to_string()]);
        psql.args(["-U", "postgres", "-d", "app", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        psql.current_dir(root()).output().unwrap()
    }

    /// No password is asked for any more.
    pub fn trust_everybody(&self) {
        self.admit("host all all 127.0.0.1/32 trust");
    }

    pub fn set(&self, setting: &str, value: &str) {
        self.psql(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
        self.reload();
    }

    /// What a server is that was superseded: it takes questions and refuses changes.
    pub fn set_read_only(&self, read_only: bool) {
        self.set("default_transaction_read_only", if read_only { "on" } else { "off" });
    }

    /// Replaces the rules for TCP: `"hostssl all all all scram-sha-256 clientcert=verify-ca"`.
    pub fn admit(&self, rules: &str) {
        let rules = format!("local all all trust\nlocal replication all trust\n{rules}\n");
        std::fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        self.reload();
    }

    /// The files as they are now are in force for new connections when this returns.
    pub fn reload(&self) {
        let loaded = || self.psql("SELECT pg_conf_load_time()");
        let before = loaded();
        self.psql("SELECT pg_reload_conf()");
        wait_for("the settings are in force", || loaded() != before);
    }

    /// A standby is a server of its own when this returns.
    pub fn promote(&self) {
        assert_eq!(self.psql("SELECT pg_promote(true)"), "t");
    }

    /// Waits until this standby has all that `primary` has now.
    pub fn catch_up_with(&self, primary: &Self) {
        let position = primary.psql("SELECT pg_current_wal_lsn()");
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        wait_for("the standby has caught up", || self.psql(&sql) == "t");
    }

    /// Ends every connection and stops.
    pub fn stop_fast(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(libc::SIGINT);
        }
    }

    pub fn restart_fast(&mut self) {
        self.stop_fast();
        self.start_again();
    }

    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_9();
            forget_killed(&self.data());
        }
    }

    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = as_owner("postgres", &self.dir);
        command.arg("-D").arg(self.data());
        let mut process = Process::start(command, &self.dir);
        let socket = self.dir.join(&format!(".s.PGSQL.{}", self.port));
        process.ready(|| takes_connections(&socket).unwrap_or(false));
        self.process = Some(process);
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub fn freeze(&self) {
        self.process().freeze();
    }

    pub fn thaw(&self) {
        self.process().thaw();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Whether it lets us in, or refuses for any reason but that it starts up (57P03): it is ready while
/// all its connections are taken, too. Programs that ask this take time from the server that starts.
fn takes_connections(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let parameters = b"user\0postgres\0database\0app\0\0";
    let length = 8 + parameters.len() as u32;
    let version: u32 = 3 << 16;
    let startup = [&length.to_be_bytes()[..], &version.to_be_bytes(), parameters].concat();
    stream.write_all(&startup)?;
    let mut answer = [0; 512];
    let count = stream.read(&mut answer)?;
    let is_starting = answer[..count].windows(6).any(|field| field == b"C57P03");
    Ok(answer[0] == b'R' || (answer[0] == b'E' && !is_starting))
}
