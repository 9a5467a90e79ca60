//! A real nginx.

use std::process::Command;

use super::Certs;
use super::dir::Dir;
use super::port::{ask, free_port};
use super::process::{Process, controls, wait_for};
use super::programs::{is_root, program};

pub struct Nginx {
    process: Process,
    port: u16,
    tls_port: Option<u16>,
    http2_port: Option<u16>,
    dir: Dir,
}

impl Nginx {
    pub fn start() -> Self {
        Self::start_with("", None)
    }

    /// With these directives in its server: `"keepalive_timeout 1s;"`. It answers `/tag/x` with `x`,
    /// `/` with a line, `/slow` with 200 kB that take seconds, and takes in what is posted.
    pub fn start_with(directives: &str, certs: Option<&Certs>) -> Self {
        Self::start_all(directives, certs, None)
    }

    /// That speaks HTTP/2 as well: in clear at a port of its own, and over TLS to who offers it.
    pub fn start_http2(certs: Option<&Certs>) -> Self {
        Self::start_all("", certs, Some(free_port()))
    }

    fn start_all(directives: &str, certs: Option<&Certs>, http2_port: Option<u16>) -> Self {
        let (dir, port) = (Dir::new("nginx"), free_port());
        let tls_port = certs.map(|_| free_port());
        // As a parameter, which newer versions know, too.
        let (http2, http2_clear) = match http2_port {
            Some(port) => (" http2", format!("listen 127.0.0.1:{port} http2;\n")),
            None => ("", String::new()),
        };
        let tls = match (certs, tls_port) {
            (Some(certs), Some(port)) => format!(
                "listen 127.0.0.1:{port} ssl{http2};\nssl_certificate {};\nssl_certificate_key {};\n",
                certs.cert_file().display(),
                certs.key_file().display()
            ),
            _ => String::new(),
        };
        let root = dir.path().display();
        let config = format!(
            "daemon off;\nworker_processes 1;\nerror_log {root}/error.log;\npid {root}/pid;\n\
             {}events {{ worker_connections 512; }}\n\
             http {{\n access_log off;\n client_body_temp_path {root}/body;\n\
             proxy_temp_path {root}/proxy;\n fastcgi_temp_path {root}/fastcgi;\n\
             uwsgi_temp_path {root}/uwsgi;\n scgi_temp_path {root}/scgi;\n\
             server {{\n listen 127.0.0.1:{port};\n{tls}{http2_clear} root {root}/www;\n{directives}\n\
             location ~ ^/tag/(.*)$ {{ return 200 \"$1\"; }}\n\
             location /slow {{ limit_rate 50k; }}\n\
             location /upload {{ client_max_body_size 64m; proxy_pass http://127.0.0.1:{port}/took; }}\n\
             location /took {{ client_max_body_size 64m; return 200 \"took it\"; }}\n }}\n}}\n",
            // Workers drop to "nobody" otherwise, who may not read our directory.
            if is_root() { "user root;\n" } else { "" },
        );
        std::fs::create_dir_all(dir.join("www")).unwrap();
        std::fs::write(dir.join("www/index.html"), "hello\n").unwrap();
        std::fs::write(dir.join("www/slow"), vec![b'x'; 200_000]).unwrap();
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let process = launch(&dir);
        let mut nginx = Self { process, port, tls_port, http2_port, dir };
        nginx.wait();
        nginx
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started with TLS")
    }

    /// Where HTTP/2 is spoken in clear.
    pub fn http2_url(&self) -> String {
        let port = self.http2_port.expect("it was started with HTTP/2");
        format!("http://127.0.0.1:{port}")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn restart_fast(&mut self) {
        self.process.end(libc::SIGTERM);
        self.start_again();
    }

    /// The worker alone; the master starts another.
    pub fn kill_worker(&self) {
        self.process.kill_children();
    }

    controls!();

    fn launch(&self) -> Process {
        launch(&self.dir)
    }

    /// New workers serve new connections when this returns; the old ones have closed those that
    /// were idle, and end with the last exchange.
    pub fn reload(&self) {
        let old = self.process.children();
        self.process.signal(libc::SIGHUP);
        let gives_up = |id: &u32| {
            std::fs::read_to_string(format!("/proc/{id}/cmdline"))
                .map_or(true, |title| title.is_empty() || title.contains("shutting down"))
        };
        wait_for("nginx reloads", || old.iter().all(gives_up) && answers(self.port));
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.ready(|| answers(port));
    }
}

fn answers(port: u16) -> bool {
    ask(port, b"GET /tag/up HTTP/1.0\r\n\r\n")
        .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn launch(dir: &Dir) -> Process {
    let mut command = Command::new(program("nginx"));
    command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(dir.join("nginx.conf"));
    Process::start(command, dir)
}
