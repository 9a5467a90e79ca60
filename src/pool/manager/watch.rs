//! The watch over a plain deadpool: which of its connections are idle, and which of those have ended.
//!
//! deadpool shows its idle connections in `retain` only, with its lock held. Nothing foreign is called
//! there, and nothing waits: those that have ended are taken out, and those that nobody looks after yet
//! are noted. They are made idle afterwards, and from then on it is the maintenance task that looks after
//! them, as in a pool.

use std::collections::HashMap;
use std::time::Duration;

use deadpool::managed::WeakPool;
use tokio::time::Instant;

use super::{Connection, Manager, Shared};
use crate::deadline::Deadline;
use crate::pool::conn::lease::ParkingKept;
use crate::pool::inner::PoolInner;
use crate::protocol::Protocol;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::tick::first_delay;

/// How long a connection that came back without a word is looked after by nobody, at most.
const PERIOD: Duration = Duration::from_millis(500);
/// Connections that are made idle, some microseconds each, before other tasks run.
const TOGETHER: usize = 16;

/// Says, while it is there, that the pool is watched.
pub(super) struct Watched(Arc<Shared>);

impl Watched {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::Release);
    }
}

/// What one look at the idle connections has shown.
struct Sweep<P: Protocol> {
    /// They have ended, and are out of the pool.
    ended: Vec<Connection<P>>,
    /// They came back without a word.
    returned: Vec<ParkingKept>,
}

/// Runs until the pool is dropped or closed.
pub(super) async fn run<P: Protocol>(
    pool: WeakPool<Manager<P>>,
    inner: Arc<PoolInner>,
    watched: Watched,
) {
    let mut next = Instant::now() + first_delay(PERIOD);
    // Connections that came back while an answer was owed on them, and when that was seen first.
    let mut owed = HashMap::new();
    loop {
        let _ = Deadline::at(next).run(inner.ended.notified()).await;
        // Not kept across a wait.
        let Some(Sweep { ended, returned }) = look(&pool, &inner, &watched) else { return };
        drop(ended);
        let (now, mut left) = (Instant::now(), HashMap::new());
        for (index, parking) in returned.into_iter().enumerate() {
            let id = parking.id();
            let since = owed.get(&id).copied().unwrap_or(now);
            // Nobody reads it any more; it may come all the same.
            if parking.end(now - since < PERIOD) {
                left.insert(id, since);
            }
            if (index + 1) % TOGETHER == 0 {
                tokio::task::yield_now().await;
            }
        }
        owed = left;
        // Judged by the clock: ends that come one after the other must not keep it from coming.
        if now >= next {
            next = now + PERIOD;
        }
    }
}

/// Looks at all idle connections. Returns `None` if there is no pool any more.
fn look<P: Protocol>(
    pool: &WeakPool<Manager<P>>,
    inner: &PoolInner,
    watched: &Watched,
) -> Option<Sweep<P>> {
    let pool = pool.upgrade()?;
    if pool.is_closed() {
        return None;
    }
    let mut returned = Vec::new();
    let ended = pool.retain(|conn: &Connection<P>, _| {
        returned.extend(conn.begin_parking());
        !conn.has_ended()
    });
    let most = pool.status().max_size.max(watched.0.asked.load(Ordering::Acquire));
    if inner.slots.limit() != most {
        inner.slots.set_limit(most);
        inner.slots.announce();
    }
    Some(Sweep { ended: ended.removed, returned })
}
