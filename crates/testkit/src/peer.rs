//! A peer in a process of its own, which can be stopped and continued.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::Upstream;

const MARK: &str = "LIVEPOOL_TEST_PEER";

pub struct Peer {
    process: Child,
    addr: SocketAddr,
}

impl Peer {
    /// Runs the named test again, where this gives `None` when the peer is no longer needed.
    pub fn start(test: &str) -> Option<Self> {
        if std::env::var_os(MARK).is_some() {
            let upstream = Upstream::start();
            println!("\nlistens on {}", upstream.addr());
            // Until the other process closes the pipe, or has ended.
            let _ = std::io::stdin().read(&mut [0]);
            return None;
        }
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(MARK, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let addr = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("listens on ")?.parse().ok())
            .expect("it says where it listens");
        Some(Self { process, addr })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its program does nothing any more; its kernel goes on. Returns when that is so: a signal is
    /// only on its way when it was sent.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        let id = self.process.id() as libc::pid_t;
        // SAFETY: waitpid(2) writes one int, which `status` is; with WUNTRACED it returns for a child
        // that has stopped, and does not take the child's end away from `Child`.
        let waited = unsafe { libc::waitpid(id, &raw mut status, libc::WUNTRACED) };
        assert_eq!(waited, id, "{}", std::io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "it has ended");
    }

    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill(2) takes numbers only, and the process is our child and not waited for yet,
        // so that its id is still its own.
        let result = unsafe { libc::kill(self.process.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Works on a stopped process too.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
