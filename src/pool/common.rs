//! [`Common`]: what every connection of a pool shares.

use std::sync::Arc;
use std::time::Duration;

use super::inbox::Inbox;
use super::peers::Peers;
use super::quarantine::Suspects;
use super::registry::Registry;
use crate::config::{Settings, Validation};
use crate::telemetry::Emitter;

/// What every connection of a pool shares. It holds no connection and no pool.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) emitter: Arc<Emitter>,
    pub(super) validation: Validation,
    /// Older proof than this needs a look at `TCP_INFO`; silence beyond it, a probe.
    pub(super) max_silence: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) registry: Registry,
    pub(super) inbox: Inbox,
    pub(super) suspects: Suspects,
    pub(super) peers: Peers,
}

impl Common {
    pub(super) fn new(emitter: Arc<Emitter>, settings: &Settings) -> Self {
        Self {
            validation: settings.validation,
            max_silence: settings.max_silence,
            max_lifetime: settings.max_lifetime,
            registry: Registry::default(),
            inbox: Inbox::default(),
            suspects: Suspects::default(),
            peers: Peers::new(Arc::clone(&emitter), settings),
            emitter,
        }
    }
}
