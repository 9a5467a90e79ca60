//! The accepting side: options on every client, a deadline on every operation, and no client is
//! kept that vanished.

mod accept_backoff;
mod bind;
mod reaper;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::config::{ListenerConfig, ListenerSettings};
use crate::deadline::Deadline;
use crate::event::{ConnId, Event, Observer, Operation};
use crate::net::{self, Io, PeerAddr};
use crate::stream::{OpTimeout, Reported, Stream};
use crate::telemetry::Emitter;

use accept_backoff::AcceptBackoff;
use reaper::Reaper;

pub use bind::BindError;

/// A TCP or Unix listener whose clients are timed, kept alive and, when they vanish, let go.
///
/// Every accepted [`Stream`] has the configured socket options and timeouts. A client that sends
/// and receives nothing for `idle_timeout` (10 minutes by default) is *reaped*: one task per
/// listener interrupts its stream, whose next operation fails with
/// [`Interrupted`](crate::Interrupted) and the reason `idle_timeout`. A client that vanished
/// without a word is found earlier by keepalive, if somebody reads from or writes to its stream:
/// the operation fails and the stream ends with reason `keepalive_timeout`. The metrics count both.
///
/// The reaper's task is started by `bind` and ends when the listener and all its clients are gone.
///
/// ```no_run
/// use livepool::{Listener, ListenerConfig};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = Listener::bind("127.0.0.1:8080", &ListenerConfig::default()).await?;
/// loop {
///     let mut client = match listener.accept().await {
///         Ok(client) => client,
///         // Nobody came for `timeouts.accept`.
///         Err(error) if livepool::is_timeout(&error) => continue,
///         Err(error) => return Err(error.into()),
///     };
///     tokio::spawn(async move {
///         let mut ask = [0; 4];
///         client.read_exact(&mut ask).await?;
///         client.write_all(&ask).await
///     });
/// }
/// # }
/// ```
pub struct Listener {
    socket: Socket,
    local: PeerAddr,
    settings: ListenerSettings,
    reported: Reported,
    reaper: Arc<Reaper>,
}

enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `address`: `"127.0.0.1:8080"`, `"[::]:0"`, `"localhost:8080"` or `"unix:/path"`.
    /// Port 0 asks the system for a free one; see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    ///
    /// [`BindError`], which says which address failed and why: among others whether an address in
    /// use is held by a live listener or by connections that an earlier one left behind.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn bind(address: &str, config: &ListenerConfig) -> Result<Self, BindError> {
        Self::bind_observed(address, config, None).await
    }

    /// As [`bind`](Self::bind), and sends every event to `observer`.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub async fn bind_with_observer(
        address: &str,
        config: &ListenerConfig,
        observer: impl Observer,
    ) -> Result<Self, BindError> {
        Self::bind_observed(address, config, Some(Arc::new(observer))).await
    }

    async fn bind_observed(
        address: &str,
        config: &ListenerConfig,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, BindError> {
        let settings = config.to_settings().map_err(BindError::Config)?;
        let (socket, local, unavailable) = bind::bind(address, &settings).await?;
        let name = if settings.name.is_empty() { local.to_string() } else { settings.name.clone() };
        let emitter = Arc::new(Emitter::of_listener(&name, observer));
        // As those of a pool, its series are there from now on.
        emitter.set_connections(0);
        let reported = Reported::default();
        reported.report(&emitter, &unavailable);
        let reaper = Reaper::start(emitter, settings.idle_timeout);
        Ok(Self { socket, local, settings, reported, reaper })
    }

    /// The address that the listener is bound to, with the port the system chose.
    pub fn local_addr(&self) -> &PeerAddr {
        &self.local
    }

    /// Waits for the next client, for `timeouts.accept` at most.
    ///
    /// Errors that pass do not end the wait. When the process is out of file descriptors or memory,
    /// `accept` pauses (10 ms, doubling to 1 s) and tries again, and reports that as
    /// [`Event::AcceptFailed`](crate::Event::AcceptFailed). A client that went away before it was
    /// accepted is skipped without a report: clients are not to decide how fast your log grows.
    ///
    /// # Errors
    ///
    /// An [`OpTimeout`] when nobody came in time ([`is_timeout`](crate::is_timeout) tells); any other
    /// error means that the listening socket itself is broken.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no client.
    pub async fn accept(&self) -> io::Result<Stream> {
        let limit = self.settings.timeouts.accept;
        let deadline = Deadline::after(limit);
        match deadline.run(self.next_client()).await {
            Ok(result) => result,
            Err(_) => {
                let after = limit.unwrap_or_default();
                let operation = Operation::Accept;
                self.emitter().emit(Event::TimedOut { operation, conn: None, after });
                let setting = "timeouts.accept";
                Err(OpTimeout { operation, after, of_exchange: false, setting }.into())
            }
        }
    }

    async fn next_client(&self) -> io::Result<Stream> {
        let mut backoffs = AcceptBackoff::default();
        loop {
            let (error, backoff) = match self.accept_one().await {
                // No await from here on: a client that was accepted is never dropped half-way.
                Ok(io) => {
                    // Whoever has reset the connection has no address any more.
                    let Ok(peer) = io.peer_addr() else { continue };
                    match self.admit(io, peer) {
                        Ok(stream) => return Ok(stream),
                        // Whatever is wrong with this client, the next one may be fine.
                        Err(error) => (error, Duration::ZERO),
                    }
                }
                Err(error) if accept_backoff::is_client_gone(&error) => continue,
                Err(error) => match backoffs.next(&error) {
                    Some(backoff) => (error, backoff),
                    None => return Err(error),
                },
            };
            let error = error.to_string().into();
            self.emitter().emit(Event::AcceptFailed { error, backoff });
            if !backoff.is_zero() {
                tokio::time::sleep(backoff).await;
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Io> {
        match &self.socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| Io::Tcp(stream)),
            #[cfg(unix)]
            Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| Io::Unix(stream)),
        }
    }

    /// Makes a stream of a client: options, timeouts, number, and a place on the reaper's list.
    fn admit(&self, io: Io, peer: PeerAddr) -> io::Result<Stream> {
        let local = io.local_addr()?;
        let unavailable = match &peer {
            PeerAddr::Tcp(peer) => {
                net::apply_accepted(&io.sock_ref(), *peer, &self.settings.socket)?
            }
            PeerAddr::Unix(_) => net::apply_unix(&io.sock_ref(), &self.settings.socket)?,
        };
        self.reported.report(self.emitter(), &unavailable);
        let (id, emitter) = (ConnId::next(), Arc::clone(self.emitter()));
        emitter.emit(Event::Accepted { conn: id, peer: peer.clone() });
        let stream = Stream::new(io, id, peer, local, Arc::clone(&self.settings.timeouts), emitter);
        self.reaper.add(stream.link());
        Ok(stream)
    }

    fn emitter(&self) -> &Arc<Emitter> {
        self.reaper.emitter()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reaper.close();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local", &self.local).finish_non_exhaustive()
    }
}
