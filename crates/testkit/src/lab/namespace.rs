//! A network namespace: a thread that lives in it.
#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// Holds the namespace, together with the sockets that were made in it and the threads that were
/// started there: those stay in it for life.
pub(super) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub(super) fn new(name: String) -> io::Result<Self> {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // SAFETY: unshare(2) takes flags and touches no memory of ours. This flag concerns the
            // calling thread only.
            let entered = match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            let _ = tell.send(entered);
            for job in todo {
                job();
            }
        })?;
        told.recv().expect("the thread tells before it ends")?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `job` on the thread and waits for it. A panic in it is the caller's.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job = move || drop(tell.send(catch_unwind(AssertUnwindSafe(job))));
        self.jobs.as_ref().expect("taken in drop").send(Box::new(job)).expect("it waits for jobs");
        told.recv().expect("every job answers").unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().expect("taken in drop only").join();
    }
}
