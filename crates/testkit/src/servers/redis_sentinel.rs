//! A real Redis Sentinel: the same program as the server.

use std::process::Command;

use super::dir::{Dir, root};
use super::port::{ask, free_port};
use super::process::{Process, controls, wait_for};
use super::programs::program;

pub struct RedisSentinel {
    process: Process,
    port: u16,
    dir: Dir,
    password: Option<String>,
}

impl RedisSentinel {
    /// One that watches the master at this port under this name, with such a quorum: a master that is
    /// silent for two seconds is down, and a failover that hangs is over after three.
    pub fn start(master: &str, port: u16, quorum: usize, options: &[&str]) -> Self {
        let (dir, own) = (Dir::new("redis-sentinel"), free_port());
        let mut config = format!(
            "bind 127.0.0.1\nport {own}\ndaemonize no\ndir {}\n\
             sentinel monitor {master} 127.0.0.1 {port} {quorum}\n\
             sentinel down-after-milliseconds {master} 2000\n\
             sentinel failover-timeout {master} 3000\n",
            dir.path().display()
        );
        for line in options {
            config.push_str(line);
            config.push('\n');
        }
        // The sentinel writes its state into the same file.
        std::fs::write(dir.join("sentinel.conf"), config).unwrap();
        let password = options.iter().find_map(|line| line.strip_prefix("requirepass "));
        let password = password.map(str::to_owned);
        let mut sentinel = Self { process: launch(&dir), port: own, dir, password };
        sentinel.wait();
        sentinel
    }

    /// Three of them, who know each other and every replica.
    pub fn three(master: &str, port: u16, replicas: usize, options: &[&str]) -> [Self; 3] {
        let all = [(); 3].map(|()| Self::start(master, port, 2, options));
        for sentinel in &all {
            wait_for("the sentinels know each other and the replicas", || {
                let state = sentinel.cli(&["SENTINEL", "MASTER", master]);
                let field = |name: &str| {
                    let mut lines = state.lines().skip_while(|line| *line != name);
                    lines.nth(1).and_then(|text| text.parse().ok())
                };
                field("num-other-sentinels") == Some(2) && field("num-slaves") == Some(replicas)
            });
        }
        all
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("redis-cli"));
        command.args(["-p", &self.port.to_string()]);
        if let Some(password) = &self.password {
            command.args(["--no-auth-warning", "-a", password]);
        }
        let output = command.args(args).current_dir(root()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    controls!();

    fn launch(&self) -> Process {
        launch(&self.dir)
    }

    fn wait(&mut self) {
        self.process.ready(|| {
            let answer = ask(self.port, b"PING\r\n").unwrap_or_default();
            answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH")
        });
    }
}

fn launch(dir: &Dir) -> Process {
    let mut command = Command::new(program("redis-server"));
    command.arg(dir.join("sentinel.conf")).arg("--sentinel");
    Process::start(command, dir)
}
