//! [`PeerSeries`]: the metrics with the label `peer`, for as many peers as were asked for.
//!
//! A series is never taken back from a recorder, and addresses come and go. So the first ones that are met
//! have series of their own, and all others one set together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::{Counter, Gauge, SharedString};

use super::handles::dispose;
use super::lazy::with_installed;
use super::names::{self, STATES};
use super::register::Register;
use crate::event::{CloseReason, DialOutcome};
use crate::net::PeerAddr;

/// The label of all peers that have no series of their own.
const OTHER: &str = "other";

/// Connections to one peer, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerLevels {
    pub(crate) idle: usize,
    pub(crate) in_use: usize,
    pub(crate) connecting: usize,
    pub(crate) quarantined: usize,
    pub(crate) shared: usize,
    pub(crate) resetting: usize,
}

impl PeerLevels {
    /// In the order of [`STATES`].
    fn by_state(&self) -> [usize; STATES.len()] {
        let Self { idle, in_use, connecting, quarantined, shared, resetting } = *self;
        // Whose place is kept is open to no peer.
        [idle, in_use, connecting, quarantined, 0, shared, resetting]
    }
}

/// The series of a pool's peers.
pub(super) struct PeerSeries {
    most: usize,
    pool: Arc<str>,
    /// Looked up and inserted under this lock; recorders are called, and handles dropped, without it.
    own: Mutex<HashMap<PeerAddr, Arc<PeerHandles>>>,
    other: OnceLock<Arc<PeerHandles>>,
}

impl PeerSeries {
    /// For so many peers. `None`, if that is none.
    pub(super) fn new(most: usize, pool: &Arc<str>) -> Option<Self> {
        let (own, other) = (Mutex::default(), OnceLock::new());
        (most > 0).then(|| Self { most, pool: Arc::clone(pool), own, other })
    }

    pub(super) fn dialed(&self, peer: &PeerAddr, outcome: DialOutcome) {
        if let Some(handles) = self.of(peer) {
            handles.dials[outcome as usize].increment(1);
        }
    }

    pub(super) fn closed(&self, peer: &PeerAddr, reason: CloseReason) {
        if let Some(handles) = self.of(peer) {
            handles.closed[reason as usize].increment(1);
        }
    }

    /// Sets the gauges. A peer that is not named has no connection.
    pub(super) fn set_levels(&self, levels: &HashMap<PeerAddr, PeerLevels>) {
        // Those that are met for the first time have their series now.
        for peer in levels.keys() {
            self.of(peer);
        }
        // Copied: recorders are foreign code.
        let own = self.own().clone();
        let mut others = [0; STATES.len()];
        for (peer, levels) in levels {
            if !own.contains_key(peer) {
                others.iter_mut().zip(levels.by_state()).for_each(|(sum, one)| *sum += one);
            }
        }
        for (peer, handles) in own {
            let levels = levels.get(&peer).copied().unwrap_or_default();
            handles.set(&levels.by_state());
        }
        if let Some(handles) = self.other.get() {
            handles.set(&others);
        }
    }

    /// The handles of this peer, or of all others. `None` while no recorder is installed.
    fn of(&self, peer: &PeerAddr) -> Option<Arc<PeerHandles>> {
        let is_full = {
            let own = self.own();
            if let Some(handles) = own.get(peer) {
                return Some(Arc::clone(handles));
            }
            own.len() >= self.most
        };
        if is_full {
            return self.others();
        }
        // Two threads may both get here; registering is idempotent.
        let new = self.register(peer.to_string().into())?;
        let mut own = self.own();
        if own.len() < self.most || own.contains_key(peer) {
            let known = Arc::clone(own.entry(peer.clone()).or_insert_with(|| Arc::clone(&new)));
            drop(own);
            return Some(known);
        }
        drop(own);
        self.others()
    }

    fn others(&self) -> Option<Arc<PeerHandles>> {
        if let Some(handles) = self.other.get() {
            return Some(Arc::clone(handles));
        }
        let new = self.register(OTHER.into())?;
        Some(Arc::clone(self.other.get_or_init(|| new)))
    }

    fn register(&self, label: SharedString) -> Option<Arc<PeerHandles>> {
        with_installed(|recorder| {
            let register = Register::again(recorder, &self.pool);
            Arc::new(PeerHandles {
                states: STATES
                    .map(|state| register.gauge_of(&names::PEER_CONNECTIONS, &label, state)),
                dials: names::DIALS
                    .map(|outcome| register.counter_of(&names::PEER_DIALS_TOTAL, &label, outcome)),
                closed: names::REASONS
                    .map(|reason| register.counter_of(&names::PEER_CLOSED_TOTAL, &label, reason)),
            })
        })
    }

    fn own(&self) -> MutexGuard<'_, HashMap<PeerAddr, Arc<PeerHandles>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handles of one peer. Arrays are indexed by the enum's value.
struct PeerHandles {
    states: [Gauge; STATES.len()],
    dials: [Counter; DialOutcome::ALL.len()],
    closed: [Counter; CloseReason::ALL.len()],
}

impl PeerHandles {
    fn set(&self, levels: &[usize; STATES.len()]) {
        for (gauge, level) in self.states.iter().zip(levels) {
            gauge.set(*level as f64);
        }
    }
}

impl Drop for PeerHandles {
    fn drop(&mut self) {
        let Self { states, dials, closed } = self;
        dispose(states, Gauge::noop);
        dispose(dials.iter_mut().chain(closed), Counter::noop);
    }
}
