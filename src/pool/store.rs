//! The store: idle connections and their order, kept by deadpool. Its types stay in this file.
//!
//! deadpool is used for what it does well: a stack (or queue) of objects and recycle-on-checkout.
//! Everything it does not do is around it: the limit is [`Slots`](super::slots::Slots)', the order of
//! callers [`Line`](super::line::Line)'s, the deadline the checkout's; recycle and create never wait,
//! so that `get` is over in one poll and no caller can be cancelled inside it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolConfig, QueueMode, RecycleError, Timeouts};
use futures_util::FutureExt;
use tokio::time::Instant;

use super::core::Core;
use crate::config::Order;
use crate::stream::Conn;

thread_local! {
    /// A connection on its way into the store, whose `get` has no arguments. Set and taken within
    /// one poll of `get`, on one thread, with no foreign code between.
    static ADOPTED: Cell<Option<Arc<Core>>> = const { Cell::new(None) };
}

/// What deadpool holds: a connection, and what is used of it while that is on its way to a guard.
#[derive(Debug)]
pub(super) struct Handle {
    core: Arc<Core>,
    claimed: Option<(Conn, Instant)>,
}

/// A connection taken from the store.
pub(super) struct Taken {
    pub(super) place: Place,
    pub(super) conn: Conn,
    pub(super) since: Instant,
}

/// The place a connection in use keeps in the store. Dropping it puts the connection back, if it is
/// idle again; otherwise the place is given up.
pub(super) struct Place(Option<managed::Object<Shelf>>);

impl Place {
    pub(super) fn core(&self) -> &Arc<Core> {
        match &self.0 {
            Some(object) => &object.core,
            None => unreachable!("only drop takes it"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        // A handle without a stream must never be offered to anybody.
        if object.core.is_out() {
            drop(managed::Object::take(object));
        }
    }
}

/// How many callers may look at the same time without waiting for each other's permits: more than
/// there are threads.
const LOOKING: usize = 256;

/// Neither waiting for a permit nor a timer of deadpool's: it needs no runtime.
const AT_ONCE: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };

/// The idle connections of a pool.
pub(super) struct Store {
    pool: managed::Pool<Shelf>,
}

impl Store {
    /// Room for `size` connections.
    pub(super) fn new(size: usize, order: Order) -> Self {
        // More permits than connections: a caller holds one for the moment it looks.
        let mut config = PoolConfig::new(size + LOOKING);
        config.queue_mode = match order {
            Order::Lifo => QueueMode::Lifo,
            Order::Fifo => QueueMode::Fifo,
        };
        let shelf = Shelf::default();
        let pool = managed::Pool::builder(shelf).config(config).build();
        // The only error is a missing runtime for timeouts, and none are set here.
        Self { pool: pool.expect("a store without timeouts needs no runtime") }
    }

    /// Makes room for `size` connections. There is never less room than there was.
    pub(super) fn grow(&self, size: usize) {
        if size + LOOKING > self.pool.status().max_size {
            self.pool.resize(size + LOOKING);
        }
    }

    /// A usable connection, if there is one. Those found unusable on the way are closed.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut object = self.get()?;
        let claimed = object.claimed.take();
        let place = Place(Some(object));
        let (conn, since) = claimed?;
        Some(Taken { place, conn, since })
    }

    /// Waits for no connection, and for a permit only as long as others look.
    fn get(&self) -> Option<managed::Object<Shelf>> {
        loop {
            match self.pool.timeout_get(&AT_ONCE).now_or_never()? {
                Ok(object) => return Some(object),
                Err(managed::PoolError::Timeout(_)) => std::thread::yield_now(),
                Err(_) => return None,
            }
        }
    }

    /// Gives a connection that was just made, and is in use, its place.
    pub(super) fn adopt(&self, core: &Arc<Core>, conn: Conn) -> Taken {
        ADOPTED.set(Some(Arc::clone(core)));
        // A guard gives its place back before its slot, so whoever holds a slot finds a place; the
        // store is never closed; and both create and recycle take the connection in.
        let Some(object) = self.get() else {
            ADOPTED.take();
            unreachable!("a connection with a slot always finds a place");
        };
        Taken { place: Place(Some(object)), conn, since: Instant::now() }
    }

    /// Offers an idle connection that has no place: the next caller who finds nothing else gets it.
    pub(super) fn offer(&self, core: Arc<Core>) {
        self.pool.manager().ready().push_back(core);
    }

    /// Forgets the handles of connections that have ended.
    pub(super) fn sweep(&self) {
        use super::core::State;
        drop(self.pool.retain(|handle, _| !handle.core.is(State::Closed)));
        self.pool.manager().ready().retain(|core| !core.is(State::Closed));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// deadpool's view of us.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Idle connections without a place. Pushed and popped under this lock, nothing else.
    ready: Mutex<VecDeque<Arc<Core>>>,
}

/// There is nothing to take.
#[derive(Debug)]
pub(super) struct Empty;

impl Shelf {
    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Core>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_ready(&self) -> Option<Handle> {
        loop {
            let core = self.ready().pop_front()?;
            let now = Instant::now();
            if let Some(conn) = core.claim(now) {
                return Some(Handle { core, claimed: Some((conn, now)) });
            }
        }
    }
}

impl managed::Manager for Shelf {
    type Type = Handle;
    type Error = Empty;

    async fn create(&self) -> Result<Handle, Empty> {
        if let Some(core) = ADOPTED.take() {
            return Ok(Handle { core, claimed: None });
        }
        self.next_ready().ok_or(Empty)
    }

    async fn recycle(&self, handle: &mut Handle, _: &Metrics) -> managed::RecycleResult<Empty> {
        if let Some(core) = ADOPTED.take() {
            // It takes the place of an idle connection, which waits beside the store from now on.
            let idle = std::mem::replace(&mut handle.core, core);
            self.ready().push_back(idle);
            return Ok(());
        }
        let now = Instant::now();
        let conn = handle.core.claim(now).ok_or(RecycleError::Backend(Empty))?;
        handle.claimed = Some((conn, now));
        Ok(())
    }
}
