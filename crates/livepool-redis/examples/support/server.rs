//! A `redis-server` of our own.

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A `redis-server` of our own; killed when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) port: u16,
    /// Where a replica puts what it copies.
    dir: PathBuf,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        // Free a moment ago; nobody else on this machine picks it on purpose.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = std::env::temp_dir().join(format!("livepool-redis-{port}"));
        std::fs::create_dir_all(&dir)?;
        let process = Command::new("redis-server")
            .current_dir(&dir)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--repl-diskless-sync-delay", "0"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}; install it, or give --url"))?;
        let server = Self { process, port, dir };
        let began = Instant::now();
        while TcpStream::connect(server.addr()).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err("redis-server did not start within 10 s".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
