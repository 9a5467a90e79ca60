//! The bell of a shared stream: whatever happens to the socket rings for its reader and for its owner.
//!
//! tokio keeps one waker per socket for reading. A client's driver task needs it to read, and the
//! pool needs it to notice the end of an idle connection; so the stream leaves its own there, which
//! wakes both.

use std::fmt;
use std::task::{Wake, Waker};

use crate::stream::Link;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, OnceLock};

/// The pool's ear on a connection while nobody uses it.
pub(crate) trait Keeper: Send + Sync {
    /// Tells that the socket has stirred.
    fn stirred(&self);

    /// The peer said that this connection and all that are as old are of no use.
    fn condemned(&self);
}

/// The waker of a shared stream.
pub(crate) struct Bell {
    link: Arc<Link>,
    /// The connection is in nobody's use: only then is its keeper told.
    is_idle: AtomicBool,
    keeper: OnceLock<Arc<dyn Keeper>>,
}

impl Bell {
    pub(super) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { link, is_idle: AtomicBool::new(false), keeper: OnceLock::new() })
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Once: from now on this one looks after it.
    pub(super) fn keep(&self, keeper: Arc<dyn Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// To be said before the look at the socket that decides whether the connection may wait: what comes
    /// later is told, and what came before is seen.
    pub(super) fn set_idle(&self, is_idle: bool) {
        self.is_idle.store(is_idle, Ordering::SeqCst);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::SeqCst)
    }

    pub(super) fn keeper(&self) -> Option<&Arc<dyn Keeper>> {
        self.keeper.get()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.link.reader().wake();
        // A user's own answers ring as well.
        if self.is_idle()
            && let Some(keeper) = self.keeper()
        {
            keeper.stirred();
        }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}
