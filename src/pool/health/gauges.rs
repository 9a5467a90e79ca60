//! What a look at all connections tells the gauges, once per tick. The hot path tells them nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::SettingsNow;
use crate::net::PeerAddr;
use crate::pool::conn::entry::{Entry, Held};
use crate::pool::inner::PoolInner;
use crate::protocol::StatementCounts;
use crate::status::Status;
use crate::sync::Arc;
use crate::telemetry::{Gauges, PeerLevels};

/// The longest times of a pool at one moment; zero where nobody waits, holds or is open.
#[derive(Debug, Clone, Copy, Default)]
struct Longest {
    wait: Duration,
    hold: Duration,
    age: Duration,
}

impl PoolInner {
    pub(in crate::pool) fn refresh_gauges(&self) {
        let status = self.status();
        let Status { max_size, idle, in_use, shared, shares, connecting, .. } = status;
        let Status { resetting, quarantined, ending, waiting, .. } = status;
        let all = self.registry.all();
        let Longest { wait, hold, age } = self.longest(&all);
        let settings = self.settings();
        let gauges = Gauges {
            idle,
            // Each connection in one state: nobody has one that is being reset.
            in_use: in_use.saturating_sub(resetting),
            resetting,
            shared,
            shares,
            quarantined,
            ending,
            connecting,
            max: max_size,
            min_idle: settings.min_idle,
            waiters: waiting,
            longest_wait: wait,
            longest_hold: hold,
            oldest: age,
            statements: self.statement_counts(),
            peers: self.peers.counts(),
        };
        // Not kept while the recorder is called.
        let settings = SettingsNow::into_inner(settings);
        self.emitter().set_gauges(&gauges);
        self.emitter().set_facts(&settings);
        if self.emitter().knows_peers() {
            self.emitter().set_peer_levels(&self.peer_levels(&all));
        }
    }

    fn statement_counts(&self) -> StatementCounts {
        let counts = self.protocol.as_ref().and_then(|protocol| protocol.statement_counts());
        counts.unwrap_or_default()
    }

    fn longest(&self, all: &[Arc<Entry>]) -> Longest {
        let now = Instant::now();
        let mut longest = Longest::default();
        for entry in all {
            let age = entry.age_at(now);
            longest.age = longest.age.max(age.duration());
            if let Some((since, _)) = entry.taken() {
                longest.hold = longest.hold.max(age.since(since));
            }
        }
        let shares = self.sharers(now).into_iter().map(|holder| holder.held);
        longest.hold = shares.fold(longest.hold, Duration::max);
        let since = self.wait_queue.first_since();
        longest.wait = since.map(|at| now.saturating_duration_since(at)).unwrap_or_default();
        longest
    }

    /// How many connections there are to each known peer, by state.
    fn peer_levels(&self, all: &[Arc<Entry>]) -> HashMap<PeerAddr, PeerLevels> {
        let mut peers: HashMap<_, PeerLevels> = HashMap::new();
        for (peer, attempts) in self.peers.attempts() {
            peers.entry(peer).or_default().connecting = attempts;
        }
        for entry in all {
            let levels = peers.entry(entry.peer.addr().clone()).or_default();
            let level = match entry.held() {
                Held::Idle => &mut levels.idle,
                Held::InUse => &mut levels.in_use,
                Held::Shared => &mut levels.shared,
                Held::Resetting => &mut levels.resetting,
                Held::Checked => &mut levels.quarantined,
                Held::Closed => continue,
            };
            *level += 1;
        }
        peers
    }
}
