//! Names are looked up while nothing is dialed, so that an address that has left its name is noticed.

use futures_util::future::join_all;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::net::{self, Directory};
use crate::pool::inner::PoolInner;
use crate::sync::Arc;

/// The last time names were looked up for nobody's dial.
pub(super) struct Lookup {
    began: Instant,
    task: Option<AbortHandle>,
}

impl PoolInner {
    /// Looks names up while nothing is dialed, so that an address that left its name is noticed.
    pub(super) fn look_names_up(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        last: &mut Option<Lookup>,
    ) -> Option<Instant> {
        let every = self.settings().dns_refresh?;
        let now = Instant::now();
        let last = last.get_or_insert(Lookup { began: now, task: None });
        let due = last.began + every;
        if now < due {
            return Some(due);
        }
        last.began = now;
        // A lookup that hangs is not started again beside itself.
        if last.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Some(now + every);
        }
        let pool = Arc::clone(self);
        let task = tasks.spawn(async move {
            let settings = pool.live().snapshot();
            let endpoints = settings.endpoints.iter().enumerate();
            let names = endpoints.filter(|(_, endpoint)| net::literal_addr(endpoint).is_none());
            // All at once: one whose server does not answer keeps no other from being looked up.
            let lookups = names.map(|(index, endpoint)| {
                let pool = &pool;
                let limit = Deadline::after(settings.timeouts.connect);
                async move {
                    // A name server that does not answer changes nothing.
                    let resolved = limit.run(pool.connector.resolver().resolve(endpoint)).await;
                    if let Ok(Ok(addrs)) = resolved {
                        pool.peers.resolved(index, &addrs);
                        pool.fired_queue.wake();
                    }
                }
            });
            join_all(lookups).await;
        });
        last.task = Some(task);
        Some(now + every)
    }
}
