//! [`Common`]: what every connection of a pool shares.

use std::time::Duration;

use super::closing::Closing;
use super::generation::Generation;
use super::inbox::Inbox;
use super::peers::Peers;
use super::quarantine::Suspects;
use super::registry::Registry;
use super::slots::Slots;
use crate::config::Settings;
use crate::event::CloseReason;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::telemetry::Emitter;

/// What every connection of a pool shares. It holds no connection and no pool.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) emitter: Arc<Emitter>,
    /// Older proof than this needs a new one: by a look at `TCP_INFO`, or by a probe.
    pub(super) max_silence: Option<Duration>,
    /// The same for a connection that was used lately; not longer.
    pub(super) max_silence_after_use: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) registry: Registry,
    pub(super) inbox: Inbox,
    pub(super) suspects: Suspects,
    pub(super) closing: Closing,
    pub(super) peers: Peers,
    pub(super) slots: Arc<Slots>,
    pub(super) generation: Generation,
    paused: AtomicBool,
    closed: AtomicBool,
    /// Something was said against the connections to a peer, and they have not been asked yet.
    pub(super) has_doubts: AtomicBool,
    /// A connection has ended since the store was last swept.
    pub(super) ended: AtomicBool,
    /// Whether holders are noted.
    pub(super) notes_holders: bool,
}

impl Common {
    pub(super) fn new(emitter: Arc<Emitter>, settings: &Settings) -> Self {
        let slots = Slots::new(settings.max_size);
        Self {
            max_silence: settings.max_silence,
            max_silence_after_use: settings.max_silence_after_use,
            max_lifetime: settings.max_lifetime,
            registry: Registry::default(),
            inbox: Inbox::default(),
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
    pub(super) fn close(&self) -> bool {
        let closed = self.closed.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// What, when it changes, may make many connections unwanted.
    pub(super) fn demands(&self) -> (u64, usize) {
        (self.generation.now(), self.slots.limit())
    }

    /// Why a connection of this generation must not be used again, if so.
    pub(super) fn retired(&self, generation: u64) -> Option<CloseReason> {
        if self.is_paused() { Some(CloseReason::Paused) } else { self.generation.ended(generation) }
    }
}
