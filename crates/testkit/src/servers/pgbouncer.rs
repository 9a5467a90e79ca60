//! A real PgBouncer.

use std::process::Command;

use super::Postgres;
use super::dir::{Dir, root};
use super::port::{ask, free_port};
use super::postgres::PASSWORD;
use super::postgres_files::{as_owner, own, owned_dir};
use super::process::{Process, controls};
use super::programs::program;

/// In front of a [`Postgres`], whose roles `postgres` and `app` and whose database `app` it knows. It
/// asks for no password and gives the right one to the server.
pub struct PgBouncer {
    process: Process,
    port: u16,
    dir: Dir,
}

impl PgBouncer {
    /// With these settings of its section `[pgbouncer]`: `("pool_mode", "transaction")`. Where they
    /// say nothing, PgBouncer's own defaults hold: sessions are pooled, 20 connections per user and
    /// database go to the server, 100 clients may come. Only `server_login_retry` is a second for 15: a
    /// `PAUSE` that meets a connection at its login counts as a login that failed.
    pub fn start(server: &Postgres, settings: &[(&str, &str)]) -> Self {
        let (dir, port) = (owned_dir("pgb"), free_port());
        let root = dir.path().display();
        let mut config = format!(
            "[databases]\napp = host=127.0.0.1 port={} dbname=app\n\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {root}\n\
             auth_type = trust\nauth_file = {root}/users\nadmin_users = postgres\n\
             server_login_retry = 1\n",
            server.port()
        );
        for (name, value) in settings {
            config.push_str(&format!("{name} = {value}\n"));
        }
        let users = ["postgres", "app"].map(|user| format!("\"{user}\" \"{PASSWORD}\"\n"));
        for (name, text) in [("pgbouncer.ini", config), ("users", users.concat())] {
            std::fs::write(dir.join(name), text).unwrap();
            own(&dir.join(name));
        }
        let process = launch(&dir);
        let mut pgbouncer = Self { process, port, dir };
        pgbouncer.wait();
        pgbouncer
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's, as [`Postgres::url`].
    pub fn url(&self) -> String {
        format!("postgres://postgres:open%20sesame@127.0.0.1:{}/app", self.port)
    }

    /// As [`Postgres::app_url`].
    pub fn app_url(&self) -> String {
        format!("postgres://app:open%20sesame@127.0.0.1:{}/app", self.port)
    }

    /// What its admin console answers: `PAUSE`, `RESUME`, `RECONNECT`, `SHOW POOLS`. `PAUSE` returns
    /// when every connection to the server has been given back and closed.
    pub fn admin(&self, command: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.arg("-h").arg(self.dir.path()).args(["-p", &self.port.to_string()]);
        psql.args(["-U", "postgres", "-d", "pgbouncer", "-XqAt", "-c", command]);
        let output = psql.current_dir(root()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What it has written about itself.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Whether it still runs. One that died by itself shows it here only.
    pub fn is_alive(&self) -> bool {
        super::process::is_alive(self.process.id())
    }

    pub fn stop(&mut self) {
        // At once, whichever version it is: newer ones wait for their clients when they get SIGTERM,
        // older ones have no handler for this one.
        self.process.end(libc::SIGQUIT);
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
        // A request for TLS, which it declines: no connection to the server is made for that.
        let port = self.port;
        self.process.ready(|| ask(port, &[0, 0, 0, 8, 4, 210, 22, 47]).as_deref() == Some(b"N"));
    }
}

/// It does not run as root either.
fn launch(dir: &Dir) -> Process {
    let mut command = as_owner("pgbouncer", dir);
    command.arg(dir.join("pgbouncer.ini"));
    Process::start(command, dir)
}
