//! The idle set: idle connections and their order.
//!
//! A stack or a queue under one lock, and nothing else: the limit is [`Slots`](crate::pool::dial::slots::Slots)',
//! the order of callers [`WaitQueue`](crate::pool::acquire::wait_queue::WaitQueue)'s, the deadline the
//! checkout's, and what a connection has to show before it is handed out the pool's
//! [`take_idle`](crate::pool::inner::PoolInner::take_idle)'s. So no caller ever waits in here, or can be
//! cancelled in here.

use std::collections::VecDeque;

use crate::config::Order;
use crate::pool::conn::entry::{Entry, State};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The idle connections of a pool. A handle may be of a connection that has ended since it was put
/// here: whoever takes it finds out.
#[derive(Debug)]
pub(in crate::pool) struct IdleSet {
    /// In order of return. Pushed and popped under this lock, nothing else.
    idle: Mutex<VecDeque<Arc<Entry>>>,
}

impl IdleSet {
    /// Room for `size` connections, so that returning one needs no memory.
    pub(in crate::pool) fn new(size: usize) -> Self {
        Self { idle: Mutex::new(VecDeque::with_capacity(size)) }
    }

    /// Makes room for `size` connections. The room never shrinks.
    pub(in crate::pool) fn grow(&self, size: usize) {
        let mut idle = self.idle();
        let more = size.saturating_sub(idle.len());
        idle.reserve(more);
    }

    /// The handle of the connection whose turn it is.
    #[inline]
    pub(in crate::pool) fn take(&self, order: Order) -> Option<Arc<Entry>> {
        let mut idle = self.idle();
        match order {
            Order::Lifo => idle.pop_back(),
            Order::Fifo => idle.pop_front(),
        }
    }

    /// Whether there is nothing to take. See
    /// [`WaitQueue::is_empty`](crate::pool::acquire::wait_queue::WaitQueue::is_empty).
    pub(in crate::pool) fn is_empty(&self) -> bool {
        self.idle().is_empty()
    }

    /// Adds a connection that became idle.
    pub(in crate::pool) fn put(&self, entry: Arc<Entry>) {
        self.idle().push_back(entry);
    }

    /// Forgets the handles of connections that have ended.
    pub(in crate::pool) fn sweep(&self) {
        let mut ended = Vec::new();
        self.idle().retain(|entry| {
            let has_ended = entry.is(State::Closed);
            if has_ended {
                ended.push(Arc::clone(entry));
            }
            !has_ended
        });
        // Dropped with no lock held.
        drop(ended);
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
