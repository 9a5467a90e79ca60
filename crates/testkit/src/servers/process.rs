//! One server process and its children.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::dir::Dir;
pub use super::port::{ask, local};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something outside this process; fails after half a minute.
pub fn wait_for(what: &str, ready: impl FnMut() -> bool) {
    assert!(is_in_time(ready), "{what}: not within {PATIENCE:?}");
}

fn is_in_time(mut ready: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The process of a server. It, and all it has started, is killed when this is dropped, and by the
/// guard of its directory when the test binary is killed.
pub struct Process {
    child: Child,
    dir: PathBuf,
    /// It has ended and its id may be somebody else's.
    ended: bool,
}

impl Process {
    /// Starts it in this directory, with its output in a file `log` there.
    pub fn start(mut command: Command, dir: &Dir) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // A group of its own: Ctrl-C is for the tests only.
        command.process_group(0).current_dir(dir.path());
        // What was started in the background of a script ignores these, and so would it.
        let heeds = || {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                // SAFETY: signal() is async-signal-safe, and touches nothing of ours.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec it does the above, and nothing else.
        unsafe { command.pre_exec(heeds) };
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        std::fs::write(dir.join("leader"), child.id().to_string()).unwrap();
        Self { child, dir: dir.path().to_owned(), ended: false }
    }

    /// Waits until it answers; fails with its log at once if it has ended.
    pub fn ready(&mut self, mut answers: impl FnMut() -> bool) {
        let start = Instant::now();
        while !answers() {
            let ended = self.child.try_wait().unwrap();
            self.ended |= ended.is_some();
            if self.ended || start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                panic!("the server does not answer, status {ended:?}, log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// To this process alone.
    pub fn signal(&self, signal: libc::c_int) {
        assert!(!self.ended, "the server has ended");
        kill(self.child.id(), signal);
    }

    /// It stands still, and so does everything below it, when this returns.
    pub fn freeze(&self) {
        assert!(self.stop_leader(), "it does not stand still");
        let family = self.family();
        family.iter().for_each(|id| kill(*id, libc::SIGSTOP));
        wait_for("a server stands still", || family.iter().all(|id| stands_still(*id)));
    }

    pub fn thaw(&self) {
        // The children first: their parent may want to hear from them.
        self.family().iter().rev().for_each(|id| kill(*id, libc::SIGCONT));
    }

    /// Asks it to end with this signal, and waits until it has, frozen or not.
    pub fn end(&mut self, signal: libc::c_int) {
        self.signal(signal);
        self.thaw();
        wait_for("a server ends when asked to", || self.child.try_wait().unwrap().is_some());
        self.forget();
    }

    /// When this returns, all of it has ended and its sockets are closed.
    pub fn kill_9(&mut self) {
        if self.ended {
            return;
        }
        // It must not start others for those it loses.
        self.stop_leader();
        let family = self.family();
        family.iter().for_each(|id| kill(*id, libc::SIGKILL));
        let is_gone = is_in_time(|| !family.iter().any(|id| is_alive(*id)));
        // A second panic would end all tests, and nobody would read about the first.
        assert!(is_gone || std::thread::panicking(), "{family:?} outlive a SIGKILL");
        let _ = self.child.wait();
        self.forget();
    }

    /// Those below it. What it does without them is its own business.
    pub fn kill_children(&self) {
        self.children().into_iter().for_each(|id| kill(id, libc::SIGKILL));
    }

    /// Nobody is to kill it any more.
    fn forget(&mut self) {
        let _ = std::fs::remove_file(self.dir.join("leader"));
        self.ended = true;
    }

    /// From now on it starts no others.
    fn stop_leader(&self) -> bool {
        self.signal(libc::SIGSTOP);
        is_in_time(|| stands_still(self.id()))
    }

    /// The processes below it, whatever group they are in, without itself.
    pub fn children(&self) -> Vec<u32> {
        self.family().split_off(1)
    }

    /// This process, those below it, and those that lost their parent and work in its directory. Who has
    /// ended is none of them.
    pub fn family(&self) -> Vec<u32> {
        let mut family = vec![self.id()];
        let all: Vec<u32> = processes().collect();
        let mut known = 0;
        while known < family.len() {
            known = family.len();
            for id in &all {
                let is_child = || stat(*id).is_some_and(|stat| family.contains(&stat.parent));
                let is_new = !family.contains(id) && is_alive(*id);
                if is_new && (works_in(*id, &self.dir) || is_child()) {
                    family.push(*id);
                }
            }
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

fn kill(id: u32, signal: libc::c_int) {
    // SAFETY: kill(2) takes numbers only. A process that has ended meanwhile is no error here.
    unsafe { libc::kill(id as libc::pid_t, signal) };
}

pub fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Stopped, by a signal or a debugger, or ended.
fn stands_still(id: u32) -> bool {
    stat(id).is_none_or(|stat| "TtZX".contains(stat.state))
}

/// One that has ended has closed its sockets, even if nobody has asked for its status.
pub fn is_alive(id: u32) -> bool {
    stat(id).is_some_and(|stat| !"ZX".contains(stat.state))
}

/// Whether this process lives and has its working directory in or below `dir`, as far as we may know.
pub fn works_in(id: u32, dir: &Path) -> bool {
    std::fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|path| path.starts_with(dir))
}

struct Stat {
    state: char,
    parent: u32,
}

/// As proc(5) has it. None when there is no such process.
fn stat(id: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut words = stat.rsplit(')').next()?.split_whitespace();
    Some(Stat { state: words.next()?.chars().next()?, parent: words.next()?.parse().ok()? })
}

/// What every server lets a test do to its `process`. The server says how it is launched again on the
/// same port, and waits until it answers.
macro_rules! controls {
    () => {
        pub fn kill_9(&mut self) {
            self.process.kill_9();
        }

        /// On the same port.
        pub fn start_again(&mut self) {
            assert!(self.process.has_ended(), "it runs");
            self.process = self.launch();
            self.wait();
        }

        pub fn freeze(&self) {
            self.process.freeze();
        }

        pub fn thaw(&self) {
            self.process.thaw();
        }

        pub fn process(&self) -> &Process {
            &self.process
        }
    };
}
pub(super) use controls;
