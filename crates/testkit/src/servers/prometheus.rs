//! A real Prometheus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::dir::Dir;
use super::port::{free_port, local};
use super::process::Process;
use super::programs::program;

/// Scrapes its targets and evaluates its rules every so many milliseconds.
pub struct Prometheus {
    _process: Process,
    port: u16,
    _dir: Dir,
}

impl Prometheus {
    /// With one job, which is called `job`, and these rules, a file of theirs in YAML.
    pub fn start(job: &str, targets: &[SocketAddr], rules: &str, every: Duration) -> Self {
        let (dir, port) = (Dir::new("prom"), free_port());
        let every = every.as_millis();
        let targets: Vec<_> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{scrape_interval: {every}ms, scrape_timeout: {every}ms, \
             evaluation_interval: {every}ms}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - {{job_name: {job}, static_configs: [{{targets: [{}]}}]}}\n",
            targets.join(", ")
        );
        std::fs::write(dir.join("rules.yml"), rules).unwrap();
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.arg("--log.level=warn");
        let mut process = Process::start(command, &dir);
        process.ready(|| get(port, "/-/ready").is_some_and(|(status, _)| status == 200));
        Self { _process: process, port, _dir: dir }
    }

    /// What its API answers at this path, `"/api/v1/alerts"`, with these parameters.
    ///
    /// # Panics
    /// With its answer, when that is an error.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let target = format!("{path}?{}", parameters.join("&"));
        let (status, body) = get(self.port, &target).expect("Prometheus answers");
        assert_eq!(status, 200, "{target}: {body}");
        body
    }
}

/// For a query of a URL.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Status and body. HTTP/1.0: the body is neither in chunks nor followed by anything.
fn get(port: u16, target: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(local(port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(format!("GET {target} HTTP/1.0\r\nhost: test\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
