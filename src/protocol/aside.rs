//! [`Aside`]: a connection beside one of a pool's, to say something about that one.
//!
//! To some peers it can only be said over another connection that what they work on is to end. It is
//! made as the pool makes its own: to the same address, with the same socket options, within the same
//! time; and few at a time whatever happens, as many as the pool dials at a time.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Settings;
use crate::deadline::Deadline;
use crate::event::{CancelOutcome, ConnId, Event};
use crate::net::{self, Io, Nobody, PeerAddr, Resolver, Target};
use crate::sync::Arc;
use crate::sync::atomic::AtomicUsize;
use crate::telemetry::Emitter;

/// Where making a connection has no limit, asking a peer to stop has this one.
const LIMIT: Duration = Duration::from_secs(5);

/// Those of one pool.
pub(crate) struct Asides {
    settings: Arc<Settings>,
    emitter: Arc<Emitter>,
    turns: Arc<Semaphore>,
    /// Asked for nothing: the address is known.
    resolver: Resolver,
}

impl Asides {
    pub(crate) fn new(settings: &Arc<Settings>, emitter: &Arc<Emitter>) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::clone(settings),
            emitter: Arc::clone(emitter),
            turns: Arc::new(Semaphore::new(settings.max_connecting.max(1))),
            resolver: Resolver::default(),
        })
    }
}

/// The way to the peer of one connection, beside it.
#[derive(Clone)]
pub(crate) struct Aside {
    pub(super) asides: Arc<Asides>,
    pub(super) conn: ConnId,
    pub(super) peer: PeerAddr,
}

/// The right to make a connection now.
#[derive(Debug)]
pub(crate) struct Turn(#[allow(dead_code, reason = "held, not used")] Option<OwnedSemaphorePermit>);

impl Aside {
    pub(crate) fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    /// By when a request that is made now has to be over, its turn included.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(Some(self.asides.settings.timeouts.connect.unwrap_or(LIMIT)))
    }

    /// In order of arrival.
    pub(crate) async fn turn(&self) -> Turn {
        // It is never closed.
        Turn(Arc::clone(&self.asides.turns).acquire_owned().await.ok())
    }

    /// Makes the connection.
    pub(crate) async fn dial(&self, _: &Turn, deadline: Deadline) -> io::Result<Io> {
        let Asides { settings, resolver, .. } = &*self.asides;
        let left = deadline.instant().map(|at| at.saturating_duration_since(Instant::now()));
        let (except, attempts) = (HashSet::new(), AtomicUsize::new(1));
        let target = Target {
            endpoints: &settings.endpoints,
            only: Some(&self.peer),
            except: &except,
            left: &attempts,
            resolver,
            directory: &Nobody,
        };
        match net::dial(target, &settings.socket, left).await {
            Ok((dialed, attempt)) => {
                attempt.end(Ok(()));
                Ok(dialed.io)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// A request that was made at that moment is over.
    pub(crate) fn report(&self, outcome: CancelOutcome, since: Instant) {
        self.asides.emitter.emit(Event::CancelRequested {
            conn: self.conn,
            peer: self.peer.clone(),
            outcome,
            took: since.elapsed(),
        });
    }
}

impl fmt::Debug for Asides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asides").field("turns", &self.turns).finish_non_exhaustive()
    }
}
