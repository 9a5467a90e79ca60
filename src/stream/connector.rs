//! Making one timed, keepalive-enabled connection; the pool's dials and unpooled ones alike.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::{AfterConnect, Handshake, Refused, Reported, Stream};
use crate::config::{
    Config, ConfigError, LiveSettings, MetricsConfig, Settings, SettingsNow, StreamSettings,
};
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId, DialOutcome, Event, Observer, Operation};
use crate::net::{
    self, AttemptGuard, ConnectAttempt, ConnectError, DialTarget, Directory, NoDirectory, PeerAddr,
    Resolve, Resolver,
};
use crate::pool::HookError;
use crate::protocol::{Asides, Conn};
use crate::sync::Arc;
use crate::sync::atomic::AtomicUsize;
use crate::telemetry::{Emitter, Span};

/// Makes connections as a pool would, without a pool: every address of the upstream, the socket
/// options of the configuration, one deadline over all of it.
///
/// Cloning is cheap. The parts of the [`Config`] that concern a pool are checked and not used.
///
/// ```
/// use livepool::{Config, Connector};
/// use tokio::io::AsyncWriteExt;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let connector = Connector::new(&Config::new("log.internal:514"))?;
/// let mut stream = connector.connect().await?;
/// stream.write_all(b"hello\n").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Connector {
    settings: Arc<LiveSettings>,
    emitter: Arc<Emitter>,
    reported: Arc<Reported>,
    resolver: Resolver,
    asides: Arc<Asides>,
}

impl Connector {
    /// Checks the configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Self::observed(config, None)
    }

    /// As [`new`](Self::new), and sends every event to `observer`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_observer(config: &Config, observer: impl Observer) -> Result<Self, ConfigError> {
        Self::observed(config, Some(Arc::new(observer)))
    }

    pub(crate) fn observed(
        config: &Config,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, ConfigError> {
        // It knows of no peers, and counts none.
        let metrics = config.metrics.with_peers(0);
        Self::emitting(config, metrics, |name| Emitter::of_connector(name, observer))
    }

    /// As [`with_observer`](Self::with_observer), for a pool, whose gauges are kept by its name.
    pub(crate) fn of_pool(
        config: &Config,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, ConfigError> {
        Self::emitting(config, config.metrics, |name| match config.name.is_empty() {
            true => Emitter::of_unnamed_pool(name, observer),
            false => Emitter::of_named_pool(name, observer),
        })
    }

    fn emitting(
        config: &Config,
        metrics: MetricsConfig,
        emitter: impl FnOnce(&str) -> Emitter,
    ) -> Result<Self, ConfigError> {
        let settings = config.to_settings()?;
        let emitter = emitter(&settings.name).with_metrics(metrics);
        let (settings, emitter) = (LiveSettings::new(settings), Arc::new(emitter));
        Ok(Self {
            asides: Asides::new(&settings, &emitter),
            settings,
            emitter,
            reported: Arc::default(),
            resolver: Resolver::default(),
        })
    }

    /// The same with names looked up by this resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        self.resolved_by(Resolver::custom(resolver))
    }

    pub(crate) fn resolved_by(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// The same for another upstream, whatever that of the configuration was.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if this is not one: `"host:port"`, `"192.0.2.1:80"` or `"unix:/path"`.
    pub fn to(&self, upstream: &str) -> Result<Self, ConfigError> {
        let settings = self.settings.now().with_upstream(upstream)?;
        Ok(Self { settings: LiveSettings::new(settings), ..self.clone() })
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    #[inline]
    pub(crate) fn live(&self) -> &Arc<LiveSettings> {
        &self.settings
    }

    pub(crate) fn settings(&self) -> SettingsNow {
        self.settings.now()
    }

    /// The connections beside those that it makes.
    pub(crate) fn asides(&self) -> &Asides {
        &self.asides
    }

    pub(crate) fn emitter(&self) -> &Arc<Emitter> {
        &self.emitter
    }

    /// Makes a connection, within `timeouts.connect`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] with what happened at every address.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes every socket it had opened.
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        let settings = self.settings.snapshot();
        let route = Route {
            settings: &settings,
            directory: &NoDirectory,
            only: None,
            handshake: None,
            after_connect: None,
            limit: settings.timeouts.connect,
        };
        match self.connect_by(route).await? {
            Conn::Raw(stream) => Ok(*stream),
            Conn::Client(_) => unreachable!("without a handshake there is no client"),
        }
    }

    /// As [`connect`](Self::connect), by this route.
    pub(crate) async fn connect_by(&self, route: Route<'_>) -> Result<Conn, ConnectError> {
        let upstream = net::upstream_text(&route.settings.endpoints);
        let span = Span::of_dial(self.emitter.name(), &upstream);
        span.instrument(self.dial(route, &span)).await
    }

    async fn dial(&self, route: Route<'_>, span: &Span) -> Result<Conn, ConnectError> {
        let began = Instant::now();
        let mut report = Report { emitter: &self.emitter, began, open: true };
        let mut dial = AddressWalk {
            connector: self,
            settings: route.settings,
            began,
            tried: HashSet::new(),
            attempts: Arc::new(AtomicUsize::new(net::MAX_ATTEMPTS)),
            failed: Vec::new(),
        };
        match dial.run(&route).await {
            Ok(conn) => {
                let (id, peer) = {
                    let stream = conn.stream();
                    (stream.id(), stream.peer_addr().clone())
                };
                span.record_conn(id, &peer);
                report.opened(id, &peer);
                Ok(conn)
            }
            Err(error) => {
                if let Some(after) = route.limit
                    && error.is_timeout()
                {
                    let operation = match error.is_in_handshake() {
                        true => Operation::Handshake,
                        false => Operation::Connect,
                    };
                    self.emitter.emit(Event::TimedOut { operation, conn: None, after });
                }
                report.failed(error.kind(), &error);
                Err(error)
            }
        }
    }
}

/// One dial: to one address after the other, until the program at one of them shakes hands.
struct AddressWalk<'a> {
    connector: &'a Connector,
    settings: &'a Settings,
    began: Instant,
    /// Peers that refused the handshake in this dial.
    tried: HashSet<PeerAddr>,
    /// How many attempts may still begin.
    attempts: Arc<AtomicUsize>,
    failed: Vec<ConnectAttempt>,
}

impl AddressWalk<'_> {
    async fn run(&mut self, route: &Route<'_>) -> Result<Conn, ConnectError> {
        let deadline = Deadline::after(route.limit);
        let Connector { resolver, emitter, reported, asides, .. } = self.connector;
        let settings = self.settings;
        loop {
            let left = deadline.instant().map(|at| at.saturating_duration_since(Instant::now()));
            let (directory, only) = (route.directory, route.only);
            let endpoints = &settings.endpoints;
            // Few: each of them was an attempt.
            let except = self.tried.clone();
            let (except, attempts) = (&except, Arc::clone(&self.attempts));
            let target = DialTarget {
                endpoints,
                only,
                except,
                attempts_left: &attempts,
                resolver,
                directory,
            };
            let (dialed, attempt) = match net::dial(target, &settings.socket, left).await {
                Ok(dialed) => dialed,
                Err(error) => {
                    let failed = std::mem::take(&mut self.failed);
                    return Err(error.after(failed, self.began.elapsed(), route.limit));
                }
            };
            reported.report(emitter, &dialed.unavailable);
            let peer = dialed.peer.clone();
            let timeouts = StreamSettings::live(&self.connector.settings);
            let stream = Stream::dialed(dialed, timeouts, Arc::clone(emitter), Arc::clone(asides));
            let began = Instant::now();
            let made = match route.handshake {
                None => Ok(Ok(Conn::Raw(Box::new(stream)))),
                Some(handshake) => {
                    let shaken = handshake.shake_hands(Box::new(stream), settings.limits, deadline);
                    deadline.run(shaken).await
                }
            };
            let refused = match made {
                Ok(Ok(conn)) => match greet(route, conn, deadline).await {
                    Ok(mut conn) => {
                        attempt.end(DialOutcome::Ok);
                        conn.stream_mut().announce();
                        return Ok(conn);
                    }
                    Err(error) => {
                        attempt.end(DialOutcome::Hook);
                        self.hook_failed(peer, error, began);
                        if only.is_some() {
                            return Err(self.failed());
                        }
                        continue;
                    }
                },
                Ok(Err(refused)) => refused,
                Err(_) => return Err(self.late(&peer, began, attempt, route)),
            };
            attempt.end(DialOutcome::Handshake);
            let Refused { error, is_permanent, is_doubtful } = refused;
            let took = began.elapsed();
            let doubt = is_doubtful.then(|| route.handshake.map_or("", Handshake::speaks));
            self.failed.push(ConnectAttempt::handshake(
                peer.to_string(),
                error,
                took,
                is_permanent,
                doubt,
            ));
            self.tried.insert(peer);
            // Every try of a wrong password brings an account nearer to its lock.
            if is_permanent || only.is_some() {
                return Err(self.failed());
            }
        }
    }

    fn upstream(&self) -> String {
        net::upstream_text(&self.settings.endpoints)
    }

    /// The error of a dial that ends here.
    fn failed(&mut self) -> ConnectError {
        let failed = std::mem::take(&mut self.failed);
        ConnectError::failed(self.upstream(), failed, self.began.elapsed())
    }

    /// The hook after connect failed: the next address may do better.
    fn hook_failed(&mut self, peer: PeerAddr, error: HookError, began: Instant) {
        let (target, took) = (peer.to_string(), began.elapsed());
        self.failed.push(ConnectAttempt::hook(target, io::Error::other(error), took));
        self.tried.insert(peer);
    }

    /// The deadline passed in the middle of a handshake.
    fn late(
        &mut self,
        peer: &PeerAddr,
        began: Instant,
        attempt: AttemptGuard<'_>,
        route: &Route<'_>,
    ) -> ConnectError {
        attempt.end(DialOutcome::Timeout);
        let mut failed = std::mem::take(&mut self.failed);
        let speaks = route.handshake.map_or("", Handshake::speaks);
        let (peer, waited) = (peer.to_string(), began.elapsed());
        failed.push(ConnectAttempt::unfinished_handshake(peer, waited, speaks));
        let took = self.began.elapsed();
        let limit = route.limit.unwrap_or(took);
        ConnectError::timed_out(self.upstream(), failed, took, limit)
    }
}

/// Has the pool's user do to a new connection what is to be done, if anything. Where that fails, or is given
/// up, the connection is closed.
async fn greet(route: &Route<'_>, conn: Conn, deadline: Deadline) -> Result<Conn, HookError> {
    let Some(hook) = route.after_connect else { return Ok(conn) };
    let mut new = NewConn { conn: Some(conn), reason: CloseReason::Superseded };
    let Some(conn) = &mut new.conn else { unreachable!("it is there until its end") };
    let greeted = hook.after_connect(conn, deadline).await;
    new.reason = CloseReason::HookFailed;
    greeted?;
    let Some(conn) = new.conn.take() else { unreachable!("it is there until its end") };
    Ok(conn)
}

/// A connection that is closed when it is dropped: the task of its client may wait for an answer, and keep the
/// socket open until then. It has no place yet in which the peer's end could be waited for.
struct NewConn {
    conn: Option<Conn>,
    reason: CloseReason,
}

impl Drop for NewConn {
    fn drop(&mut self) {
        let kept = self.conn.take().and_then(|conn| conn.close(self.reason));
        if let Some(kept) = kept {
            kept.pass();
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// How a dial goes.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    /// All that is configured of it, however long it takes.
    pub(crate) settings: &'a Settings,
    pub(crate) directory: &'a dyn Directory,
    /// To this address and no other.
    pub(crate) only: Option<&'a PeerAddr>,
    /// The handshake that makes a connection of a stream.
    pub(crate) handshake: Option<&'a dyn Handshake>,
    /// What is done to the connection then.
    pub(crate) after_connect: Option<&'a dyn AfterConnect>,
    pub(crate) limit: Option<Duration>,
}

/// Reports the end of a dial exactly once, also when its caller goes away.
struct Report<'a> {
    emitter: &'a Emitter,
    began: Instant,
    open: bool,
}

impl Report<'_> {
    fn opened(&mut self, conn: ConnId, peer: &net::PeerAddr) {
        self.open = false;
        let took = self.began.elapsed();
        self.emitter.emit(Event::Opened { conn, peer: peer.clone(), took });
    }

    fn failed(&mut self, outcome: DialOutcome, error: &dyn fmt::Display) {
        self.open = false;
        let took: Duration = self.began.elapsed();
        self.emitter.emit(Event::DialFailed { outcome, took, error: error.to_string().into() });
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if self.open {
            self.failed(DialOutcome::Cancelled, &"it was given up");
        }
    }
}
