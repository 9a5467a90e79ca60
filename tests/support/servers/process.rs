//! One server process and its children.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A directory that is gone when this is dropped.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        // Short: the path of a Unix socket has 107 bytes.
        let path = std::env::temp_dir().join(format!("lp-{name}-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that was free a moment ago; nobody else on this machine picks it on purpose.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits for something outside this process; fails after half a minute.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One question to a server, and the beginning of its answer.
pub fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(local(port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = vec![0; 512];
    let count = stream.read(&mut answer).ok()?;
    answer.truncate(count);
    Some(answer)
}

/// A process that leads a group of its own. It, and all it has started, is killed when this is
/// dropped, and when the thread that started it ends.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it; its output goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.process_group(0);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl(2) is one,
        // and takes numbers only.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let name = command.get_program().to_owned();
        Self { child: command.spawn().unwrap_or_else(|error| panic!("{name:?}: {error}")) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// To this process alone.
    pub fn signal(&self, signal: libc::c_int) {
        kill(self.child.id() as libc::pid_t, signal);
    }

    /// To it and everything below it: some servers put their children into groups of their own.
    pub fn signal_all(&self, signal: libc::c_int) {
        for id in self.family() {
            kill(id as libc::pid_t, signal);
        }
    }

    /// It stands still, and so does everything below it, when this returns.
    pub fn freeze(&self) {
        self.signal_all(libc::SIGSTOP);
        wait_for("a process stands still", || {
            self.family().iter().all(|id| state(*id).is_none_or(|state| state == 'T'))
        });
    }

    pub fn thaw(&self) {
        self.signal_all(libc::SIGCONT);
    }

    pub fn wait(&mut self) {
        let _ = self.child.wait();
    }

    pub fn kill_9(&mut self) {
        let family = self.family();
        // The parent first: it must not start others for those it loses.
        self.signal(libc::SIGKILL);
        for id in family {
            kill(id as libc::pid_t, libc::SIGKILL);
        }
        self.wait();
    }

    /// Those below it. What it does without them is its own business.
    pub fn kill_children(&self) {
        for id in self.family().into_iter().filter(|id| *id != self.child.id()) {
            kill(id as libc::pid_t, libc::SIGKILL);
        }
    }

    /// This process and its children, which have none of their own.
    fn family(&self) -> Vec<u32> {
        let own = self.child.id();
        let path = format!("/proc/{own}/task/{own}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        std::iter::once(own).chain(children).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

fn kill(id: libc::pid_t, signal: libc::c_int) {
    // SAFETY: kill(2) takes numbers only. A process that has ended meanwhile is no error here.
    unsafe { libc::kill(id, signal) };
}

/// The state of a process, as proc(5) has it.
fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

/// The path of a program: in PATH, or in one of these directories.
pub fn program(name: &str, directories: &[&str]) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let all = path.split(':').chain(directories.iter().copied());
    all.map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing; ./scripts/test installs it or says how to"))
}
