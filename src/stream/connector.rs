//! Making one timed, keepalive-enabled connection; the pool's dials and unpooled ones alike.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Reported, Stream};
use crate::config::{Config, ConfigError, Settings};
use crate::event::{ConnId, DialOutcome, Event, Observer, Operation};
use crate::net::{self, ConnectError, Directory, Nobody, PeerAddr, Resolve, Resolver, Target};
use crate::telemetry::{self, Emitter, Telemetry};

/// Makes connections as a pool would, without a pool: every address of the upstream, the socket
/// options of the configuration, one deadline over all of it.
///
/// Cloning is cheap. The parts of the [`Config`] that concern a pool are checked and not used.
#[derive(Clone)]
pub struct Connector {
    settings: Arc<Settings>,
    emitter: Arc<Emitter>,
    reported: Arc<Reported>,
    resolver: Resolver,
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
        let settings = config.settle()?;
        let emitter = Emitter::new(Telemetry::pool(&settings.name), observer);
        Ok(Self {
            settings: Arc::new(settings),
            emitter: Arc::new(emitter),
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

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
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
        self.connect_by(Route { directory: &Nobody, only: None, limit: self.limit() }).await
    }

    fn limit(&self) -> Option<Duration> {
        self.settings.timeouts.connect
    }

    /// As [`connect`](Self::connect), by this route.
    pub(crate) async fn connect_by(&self, route: Route<'_>) -> Result<Stream, ConnectError> {
        let span = telemetry::dial_span(
            self.emitter.name(),
            &net::upstream_text(&self.settings.endpoints),
        );
        self.dial(route).instrument(span).await
    }

    async fn dial(&self, route: Route<'_>) -> Result<Stream, ConnectError> {
        let Route { directory, only, limit } = route;
        let mut report = Report { emitter: &self.emitter, began: Instant::now(), open: true };
        let endpoints = &self.settings.endpoints;
        let target = Target { endpoints, only, resolver: &self.resolver, directory };
        match net::dial(target, &self.settings.socket, limit).await {
            Ok(dialed) => {
                self.reported.report(&self.emitter, &dialed.unavailable);
                let (id, peer) = (ConnId::next(), dialed.peer);
                tracing::Span::current()
                    .record("peer", tracing::field::display(&peer))
                    .record("conn_id", id.get());
                report.opened(id, &peer);
                let timeouts = self.settings.timeouts;
                let emitter = Arc::clone(&self.emitter);
                Ok(Stream::new(dialed.io, id, peer, dialed.local, timeouts, emitter))
            }
            Err(error) => {
                if let Some(after) = limit
                    && error.is_timeout()
                {
                    let operation = Operation::Connect;
                    self.emitter.emit(Event::TimedOut { operation, conn: None, after });
                }
                report.failed(error.kind(), &error);
                Err(error)
            }
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
    pub(crate) directory: &'a dyn Directory,
    /// To this address and no other.
    pub(crate) only: Option<&'a PeerAddr>,
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
            self.failed(DialOutcome::Cancelled, &"the caller went away");
        }
    }
}
