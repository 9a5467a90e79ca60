//! [`SideChannel`]: a connection beside one of a pool's, to say something about that one.
//!
//! To some peers it can only be said over another connection that what they work on is to end. The
//! connection is made as the pool makes its own: to the same address, with the same socket options,
//! within the same time; and at most as many at a time as the pool dials.

mod turns;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::config::LiveSettings;
use crate::event::{CancelOutcome, ConnId, DialOutcome, Event};
use crate::net::{self, DialTarget, NoDirectory, PeerAddr, Resolver};
use crate::sync::Arc;
use crate::sync::atomic::AtomicUsize;
use crate::telemetry::Emitter;

use turns::{Turn, Turns};

/// Where making a connection has no limit, asking a peer to stop has this one.
const LIMIT: Duration = Duration::from_secs(5);

/// The side channels of one pool.
pub(crate) struct Asides {
    settings: Arc<LiveSettings>,
    emitter: Arc<Emitter>,
    turns: Arc<Turns>,
    /// Asked for nothing: the address is known.
    resolver: Resolver,
}

impl Asides {
    pub(crate) fn new(settings: &Arc<LiveSettings>, emitter: &Arc<Emitter>) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::clone(settings),
            emitter: Arc::clone(emitter),
            turns: Turns::new(settings.now().max_connecting),
            resolver: Resolver::default(),
        })
    }

    /// From now on at most as many at a time as the pool dials now.
    pub(crate) fn follow(&self) {
        self.turns.set(|| self.settings.now().max_connecting);
    }
}

/// The way to the peer of one connection, beside it: for peers to which it can only be said over another
/// connection that what they work on is to end.
///
/// A connection beside is made as the pool makes its own, to the same address and with the same socket
/// options. Of all connections of a pool at most
/// [`max_connecting`](crate::Config::max_connecting) have one at a time. Cloning is cheap.
///
/// ```no_run
/// use livepool::event::CancelOutcome;
/// use livepool::protocol::SideChannel;
/// use tokio::io::AsyncWriteExt;
/// use tokio::time::{Instant, timeout_at};
///
/// /// Asks the server to stop what it does for session number `session`.
/// async fn cancel(side: &SideChannel, session: u32) -> std::io::Result<()> {
///     let (began, deadline) = (Instant::now(), side.deadline());
///     let asked = timeout_at(deadline, async {
///         let permit = side.permit().await;
///         let mut stream = side.connect(&permit, deadline).await?;
///         stream.write_all(&session.to_be_bytes()).await
///     });
///     let (outcome, result) = match asked.await {
///         Ok(Ok(())) => (CancelOutcome::Ok, Ok(())),
///         Ok(Err(error)) => (CancelOutcome::Failed, Err(error)),
///         Err(elapsed) => (CancelOutcome::Timeout, Err(elapsed.into())),
///     };
///     side.report_cancel(outcome, began);
///     result
/// }
/// ```
#[derive(Clone)]
pub struct SideChannel {
    pub(super) asides: Arc<Asides>,
    pub(super) conn: ConnId,
    pub(super) peer: PeerAddr,
}

/// The right to make a connection beside one of the pool's now. Get one with
/// [`SideChannel::permit`].
///
/// ```
/// use livepool::protocol::{SideChannel, SidePermit};
///
/// async fn turn(side: &SideChannel) -> SidePermit {
///     // In order of arrival, among all connections of the pool.
///     side.permit().await
/// }
/// ```
#[derive(Debug)]
pub struct SidePermit(#[allow(dead_code, reason = "held, not used")] Option<Turn>);

impl SideChannel {
    /// The peer's address.
    pub fn peer_addr(&self) -> &PeerAddr {
        &self.peer
    }

    /// The moment by which a request that is made now has to be over, the wait for its permit included:
    /// `timeouts.connect` from now, or 5 s where that has no limit.
    pub fn deadline(&self) -> Instant {
        let now = Instant::now();
        let limit = self.asides.settings.now().timeouts.connect.unwrap_or(LIMIT);
        // A limit beyond what the clock can count is none.
        now.checked_add(limit).unwrap_or(now + LIMIT)
    }

    /// Waits until a connection may be made, in order of arrival.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the place in the queue up.
    pub async fn permit(&self) -> SidePermit {
        SidePermit(self.asides.turns.next().await)
    }

    /// Makes a connection, until `deadline` at the latest. Reads and writes on it have no timeouts.
    ///
    /// # Errors
    ///
    /// A [`ConnectError`](crate::ConnectError), as a dial of the pool fails with, inside.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn connect(
        &self,
        permit: &SidePermit,
        deadline: Instant,
    ) -> io::Result<impl AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + use<>> {
        let _ = permit;
        let Asides { settings, resolver, .. } = &*self.asides;
        let settings = settings.snapshot();
        let left = Some(deadline.saturating_duration_since(Instant::now()));
        let (except, attempts) = (HashSet::new(), AtomicUsize::new(1));
        let target = DialTarget {
            endpoints: &settings.endpoints,
            only: Some(&self.peer),
            except: &except,
            attempts_left: &attempts,
            resolver,
            directory: &NoDirectory,
        };
        match net::dial(target, &settings.socket, left).await {
            Ok((dialed, attempt)) => {
                attempt.end(DialOutcome::Ok);
                Ok(dialed.io)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Reports that a request to stop, which was begun at `since`, is over: as
    /// [`Event::CancelRequested`].
    pub fn report_cancel(&self, outcome: CancelOutcome, since: Instant) {
        self.asides.emitter.emit(Event::CancelRequested {
            conn: self.conn,
            peer: self.peer.clone(),
            outcome,
            took: since.elapsed(),
        });
    }
}

impl fmt::Debug for SideChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideChannel")
            .field("conn", &self.conn)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Asides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asides").field("turns", &self.turns).finish_non_exhaustive()
    }
}
