//! A real HAProxy.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use super::dir::Dir;
use super::port::{free_port, local};
use super::process::{Process, controls, wait_for};
use super::programs::program;

/// In front of servers that it calls `s1`, `s2` and so on.
pub struct Haproxy {
    process: Process,
    port: u16,
    dir: Dir,
}

impl Haproxy {
    /// Passes bytes on. Each server as HAProxy has it: `"127.0.0.1:5432 check inter 50ms"`. With these
    /// lines among its defaults, which win over those here: `"timeout client 1s"`.
    pub fn tcp(servers: &[String], lines: &[&str]) -> Self {
        Self::start("tcp", servers, lines)
    }

    /// Understands HTTP, and keeps connections to the servers for whoever comes next.
    pub fn http(servers: &[String], lines: &[&str]) -> Self {
        Self::start("http", servers, lines)
    }

    fn start(mode: &str, servers: &[String], lines: &[&str]) -> Self {
        let (dir, port) = (Dir::new("hap"), free_port());
        let mut config = format!(
            "global\n maxconn 1000\n stats socket {}/admin level admin\n\
             defaults\n mode {mode}\n timeout connect 1s\n timeout client 1h\n timeout server 1h\n",
            dir.path().display()
        );
        for line in lines {
            config.push_str(&format!(" {line}\n"));
        }
        config.push_str(&format!("listen all\n bind 127.0.0.1:{port}\n"));
        for (number, server) in (1..).zip(servers) {
            config.push_str(&format!(" server s{number} {server}\n"));
        }
        std::fs::write(dir.join("haproxy.cfg"), config).unwrap();
        let mut haproxy = Self { process: launch(&dir), port, dir };
        haproxy.wait();
        haproxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it answers to a command of its runtime API: `set server all/s1 state maint`, `show stat`.
    pub fn admin(&self, command: &str) -> String {
        self.try_admin(command).unwrap().trim().to_owned()
    }

    fn try_admin(&self, command: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.dir.join("admin"))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        writeln!(socket, "{command}")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// New connections go to the server of this number alone, and those to the others are ended.
    pub fn switch_to(&self, number: usize) {
        for other in 1..=self.servers() {
            let state = if other == number { "ready" } else { "maint" };
            self.admin(&format!("set server all/s{other} state {state}"));
            if other != number {
                self.admin(&format!("shutdown sessions server all/s{other}"));
            }
        }
    }

    /// Waits until its checks say this of a server: `"UP"`, `"DOWN"`.
    pub fn until_server_is(&self, number: usize, status: &str) {
        wait_for("HAProxy's checks", || self.status(number).starts_with(status));
    }

    /// Column 18 of its statistics, which begin with proxy and server.
    fn status(&self, number: usize) -> String {
        let (stat, name) = (self.admin("show stat"), format!("all,s{number},"));
        let line = stat.lines().find(|line| line.starts_with(&name)).expect("there is one");
        line.split(',').nth(17).unwrap_or_default().to_owned()
    }

    fn servers(&self) -> usize {
        self.admin("show stat").lines().filter(|line| line.starts_with("all,s")).count()
    }

    /// At once, with everything it has open.
    pub fn stop(&mut self) {
        self.process.end(libc::SIGTERM);
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    controls!();

    fn launch(&self) -> Process {
        launch(&self.dir)
    }

    fn wait(&mut self) {
        let (port, admin) = (self.port, self.dir.join("admin"));
        let is_up =
            || UnixStream::connect(&admin).is_ok() && TcpStream::connect(local(port)).is_ok();
        self.process.ready(is_up);
    }
}

fn launch(dir: &Dir) -> Process {
    let mut command = Command::new(program("haproxy"));
    // In the foreground, as one process.
    command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
    Process::start(command, dir)
}
