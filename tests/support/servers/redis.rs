//! A real Redis.

use std::process::Command;

use super::Certs;
use super::process::{Dir, Process, ask, free_port, program, wait_for};

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
        let redis = Self { process, options, port, tls_port, dir };
        redis.wait();
        redis
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
        let output = Command::new(program("redis-cli", &[]))
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn restart(&mut self) {
        self.process.signal(libc::SIGTERM);
        self.process.wait();
        self.start_again();
    }

    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    pub fn start_again(&mut self) {
        self.process = launch(&self.dir, self.port, &self.options);
        self.wait();
    }

    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn thaw(&self) {
        self.process.thaw();
    }

    fn wait(&self) {
        // With a password it says so, and is ready as well.
        wait_for("redis-server answers", || {
            ask(self.port, b"PING\r\n").is_some_and(|answer| {
                answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH")
            })
        });
    }
}

fn launch(dir: &Dir, port: u16, options: &[String]) -> Process {
    let mut config = format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\ndaemonize no\ndir {}\n\
         enable-debug-command yes\n",
        dir.path().display()
    );
    for line in options {
        config.push_str(line);
        config.push('\n');
    }
    std::fs::write(dir.join("redis.conf"), config).unwrap();
    let mut command = Command::new(program("redis-server", &[]));
    command.arg(dir.join("redis.conf"));
    Process::start(command, &dir.join("log"))
}
