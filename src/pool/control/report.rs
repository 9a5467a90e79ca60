//! The report: what an operator asks of a pool, collected from the parts that know it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::event::PeerState;
use crate::net::PeerAddr;
use crate::pool::conn::entry::{Entry, Held};
use crate::pool::inner::PoolInner;
use crate::report::{HolderReport, Holds, MOST, PeerReport, Report};
use crate::sync::Arc;

impl PoolInner {
    /// Looks at every connection, peer and caller, each part under its own lock and for a moment.
    pub(in crate::pool) fn report(&self) -> Report {
        let now = Instant::now();
        let status = self.status();
        let all = self.registry.all();
        let mut holders = self.holders(now, &all);
        let more_holders = holders.len().saturating_sub(MOST);
        holders.truncate(MOST);
        let waiting = self.wait_queue.report(now, MOST);
        let mut peers = self.peer_reports(now, &all);
        let more_peers = peers.len().saturating_sub(MOST);
        peers.truncate(MOST);
        Report {
            pool: self.emitter().name().to_owned(),
            config: Config::clone(&self.config()),
            more_waiting: status.waiting.saturating_sub(waiting.len()),
            status,
            holders,
            more_holders,
            waiting,
            peers,
            more_peers,
            dialer: self.report_dialer(now),
            errors: self.emitter().recent_errors(now),
        }
    }

    /// Who has what, the longest first.
    fn holders(&self, now: Instant, all: &[Arc<Entry>]) -> Vec<HolderReport> {
        let mut holders = self.report_shares(now);
        for entry in all {
            let holds = match entry.held() {
                Held::InUse => Holds::Connection,
                Held::Resetting => Holds::Reset,
                // Those of all who share are there.
                Held::Shared | Held::Idle | Held::Checked | Held::Closed => continue,
            };
            let taken = entry.taken();
            holders.push(HolderReport {
                conn: entry.id,
                peer: entry.peer.addr().clone(),
                holds,
                held: taken.map(|(since, _)| entry.age_at(now).since(since)),
                taken_at: taken.map(|(_, taken_at)| taken_at),
                span: entry.span_name(),
            });
        }
        holders.sort_by_key(|holder| (Reverse(holder.held), holder.conn));
        holders
    }

    /// What is known of each peer, those in trouble first.
    fn peer_reports(&self, now: Instant, all: &[Arc<Entry>]) -> Vec<PeerReport> {
        let mut heard: HashMap<PeerAddr, Duration> = HashMap::new();
        for entry in all {
            let ago = entry.unheard_for(entry.age_at(now));
            let known = heard.entry(entry.peer.addr().clone()).or_insert(ago);
            *known = ago.min(*known);
        }
        let mut peers = self.peers.report(now);
        for peer in &mut peers {
            peer.heard = heard.get(&peer.addr).copied();
        }
        // Within each kind as they are known.
        peers.sort_by_key(|peer| match peer.state {
            PeerState::Ejected | PeerState::Probing => 0,
            PeerState::Suspect => 1,
            PeerState::Healthy if peer.pause.is_some() => 2,
            PeerState::Healthy => 3,
            PeerState::Draining => 4,
        });
        peers
    }
}
