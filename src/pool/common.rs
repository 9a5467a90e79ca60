//! [`Common`]: what every connection of a pool shares.

use std::time::Duration;

use crate::config::Settings;
use crate::event::CloseReason;
use crate::pool::conn::generation::Generation;
use crate::pool::conn::registry::Registry;
use crate::pool::dial::peers::Peers;
use crate::pool::dial::slots::Slots;
use crate::pool::health::closing::Closing;
use crate::pool::health::fired::FiredQueue;
use crate::pool::health::quarantine::Suspects;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::telemetry::Emitter;

/// What every connection of a pool shares. It holds no connection and no pool.
#[derive(Debug)]
pub(in crate::pool) struct Common {
    pub(in crate::pool) emitter: Arc<Emitter>,
    /// Older proof than this needs a new one: by a look at `TCP_INFO`, or by a probe.
    pub(in crate::pool) max_silence: Option<Duration>,
    /// The same for a connection that was used lately; not longer.
    pub(in crate::pool) max_silence_after_use: Option<Duration>,
    pub(in crate::pool) max_lifetime: Option<Duration>,
    pub(in crate::pool) registry: Registry,
    pub(in crate::pool) fired_queue: FiredQueue,
    pub(in crate::pool) suspects: Suspects,
    pub(in crate::pool) closing: Closing,
    pub(in crate::pool) peers: Peers,
    pub(in crate::pool) slots: Arc<Slots>,
    pub(in crate::pool) generation: Generation,
    paused: AtomicBool,
    closed: AtomicBool,
    /// Something was said against the connections to a peer, and they have not been asked yet.
    pub(in crate::pool) has_doubts: AtomicBool,
    /// A connection has ended since the idle set was last swept.
    pub(in crate::pool) ended: AtomicBool,
    /// Whether holders are noted.
    pub(in crate::pool) notes_holders: bool,
}

impl Common {
    pub(in crate::pool) fn new(emitter: Arc<Emitter>, settings: &Settings) -> Self {
        let slots = Slots::new(settings.max_size);
        Self {
            max_silence: settings.max_silence,
            max_silence_after_use: settings.max_silence_after_use,
            max_lifetime: settings.max_lifetime,
            registry: Registry::default(),
            fired_queue: FiredQueue::default(),
            suspects: Suspects::default(),
            closing: Closing::default(),
            peers: Peers::new(Arc::clone(&emitter), settings),
            emitter,
            slots,
            generation: Generation::default(),
            paused: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            has_doubts: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            notes_holders: settings.hold_warning.is_some(),
        }
    }

    /// Closes the pool. Returns whether it was closed before. What goes idle after this sees it, and
    /// what went idle before is seen by whoever closes.
    pub(in crate::pool) fn close(&self) -> bool {
        let closed = self.closed.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        closed
    }

    pub(in crate::pool) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(in crate::pool) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    pub(in crate::pool) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// What, when it changes, may make many connections unwanted.
    pub(in crate::pool) fn demands(&self) -> (u64, usize) {
        (self.generation.now(), self.slots.limit())
    }

    /// Why a connection of this generation must not be used again, if so.
    pub(in crate::pool) fn retired(&self, generation: u64) -> Option<CloseReason> {
        if self.is_paused() { Some(CloseReason::Paused) } else { self.generation.ended(generation) }
    }
}
