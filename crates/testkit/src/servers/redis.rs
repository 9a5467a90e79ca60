//! A real Redis.

use std::process::Command;
use std::sync::OnceLock;

use super::Certs;
use super::dir::{Dir, root};
use super::port::{ask, free_port};
use super::process::{Process, controls, wait_for};
use super::programs::program;

pub struct Redis {
    process: Process,
    options: Vec<String>,
    port: u16,
    tls_port: Option<u16>,
    dir: Dir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these lines of configuration: `"timeout 1"`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_server(options, None)
    }

    /// With a second port for TLS.
    pub fn start_with_tls(options: &[&str], certs: &Certs) -> Self {
        Self::start_server(options, Some(certs))
    }

    fn start_server(options: &[&str], certs: Option<&Certs>) -> Self {
        let (dir, port) = (Dir::new("redis"), free_port());
        let mut lines: Vec<String> = Vec::new();
        let tls_port = certs.map(|certs| {
            let port = free_port();
            lines.push(format!("tls-port {port}"));
            lines.push(format!("tls-cert-file {}", certs.cert_file().display()));
            lines.push(format!("tls-key-file {}", certs.key_file().display()));
            lines.push(format!("tls-ca-cert-file {}", certs.ca_file().display()));
            lines.push("tls-auth-clients no".to_owned());
            port
        });
        lines.extend(options.iter().map(|line| (*line).to_owned()));
        let options = lines;
        let process = launch(&dir, port, &options);
        let mut redis = Self { process, options, port, tls_port, dir };
        redis.wait();
        redis
    }

    /// One that follows this one: it refuses to write.
    pub fn replica(&self) -> Self {
        let replica = Self::start_with(&[&format!("replicaof 127.0.0.1 {}", self.port)]);
        let follows = || replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
        wait_for("the replica follows", follows);
        replica
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started with TLS")
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new(program("redis-cli"))
            .args(["-p", &self.port.to_string()])
            .args(args)
            .current_dir(root())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ends as it is asked to, with its data gone.
    pub fn restart(&mut self) {
        self.process.end(libc::SIGTERM);
        self.start_again();
    }

    controls!();

    fn launch(&self) -> Process {
        launch(&self.dir, self.port, &self.options)
    }

    fn wait(&mut self) {
        // An answer is one while it wants a password or has too many connections, too.
        let answers = ["+PONG", "-NOAUTH", "-ERR max"];
        self.process.ready(|| {
            let answer = ask(self.port, b"PING\r\n").unwrap_or_default();
            answers.iter().any(|expected| answer.starts_with(expected.as_bytes()))
        });
    }
}

/// The first number of what is written like `Redis server v=7.0.15 sha=...`.
fn major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let output = Command::new(program("redis-server")).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_once("v=").and_then(|(_, rest)| rest.split('.').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    })
}

fn launch(dir: &Dir, port: u16, options: &[String]) -> Process {
    let mut config = format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\ndaemonize no\n\
         repl-diskless-sync-delay 0\ndir {}\n",
        dir.path().display()
    );
    // Before 7 everybody may use DEBUG, and nobody knows the setting.
    if major() >= 7 {
        config.push_str("enable-debug-command yes\n");
    }
    for line in options {
        config.push_str(line);
        config.push('\n');
    }
    std::fs::write(dir.join("redis.conf"), config).unwrap();
    let mut command = Command::new(program("redis-server"));
    command.arg(dir.join("redis.conf"));
    Process::start(command, dir)
}
