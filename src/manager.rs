//! A manager for plain deadpool pools, and its connections.

use std::ops::Deref;
use std::task::Waker;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::time::Instant;

use crate::config::{Config, ConfigError};
use crate::error::ConnectError;
use crate::event::{CloseReason, Observer};
use crate::liveness::{self, Liveness};
use crate::pool::jittered;
use crate::stream::{Connector, Ending, Ledger, Stream, delegate_io};

/// A [`deadpool::managed::Manager`] that makes and checks our connections, for programs that
/// already run a deadpool pool.
///
/// `create` dials as a [`Pool`](crate::Pool) does, within `timeouts.connect`; `recycle` answers at
/// once from taint, peek and lifetime. A read that waits looks after its peer, as in a pool.
/// Features that deadpool has no hook for are missing: idle connections are not watched (a dead one
/// is found at its next checkout) and not pinged, idle time is not counted, and there is no
/// deadline over the whole checkout. Use [`Pool`](crate::Pool) for those.
///
/// deadpool returns whatever is dropped, so a connection has to be told that its exchange is
/// complete: call [`Connection::finish`], or it is thrown away at its next checkout.
#[derive(Debug, Clone)]
pub struct Manager {
    connector: Connector,
}

impl Manager {
    /// Makes a manager after checking the configuration. A setting that deadpool decides itself
    /// (`max_size`, who waits and for how long) or has no hook for has to be left at its default:
    /// no setting is ignored.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem of the configuration.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        // Before the other rules: who takes a pool's configuration is told what a plain deadpool
        // lacks.
        config.check_for_deadpool()?;
        Ok(Self { connector: Connector::new(config)? })
    }

    /// As [`new`](Self::new), and sends every event to `observer`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_observer(config: &Config, observer: impl Observer) -> Result<Self, ConfigError> {
        config.check_for_deadpool()?;
        Ok(Self { connector: Connector::with_observer(config, observer)? })
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let mut stream = self.connector.connect().await?;
        let settings = self.connector.settings();
        stream.watch_peer(settings.max_silence);
        stream.begin_operation();
        let lifetime = settings.max_lifetime.map(jittered);
        // A lifetime beyond what the clock can count is none.
        let expires = lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime));
        Ok(Connection { stream, expires })
    }

    async fn recycle(&self, conn: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        match conn.unfit() {
            None => {
                // deadpool has no hook at return: what the last user set ends here.
                conn.stream.rest();
                conn.stream.begin_operation();
                Ok(())
            }
            Some(reason) => {
                conn.stream.taint(reason);
                Err(RecycleError::message(reason.as_str()))
            }
        }
    }
}

/// A connection in a plain deadpool pool, made by [`Manager`].
///
/// The close event carries the reason the connection was thrown away for, or `discarded` when its
/// pool was dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    expires: Option<Instant>,
}

impl Connection {
    /// Says that the exchange is complete, as [`Guard::release`](crate::Guard::release) does, and
    /// checked in the same way. Returns the reason if the connection will not be reused.
    pub fn finish(&mut self) -> Option<CloseReason> {
        let unfit = self.stream.unfit(Ending::Answered);
        match unfit {
            None => drop(self.stream.rest()),
            Some(reason) => self.stream.taint(reason),
        }
        unfit
    }

    /// The stream, to set its timeouts.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// See [`Stream::count_debt`]. The counting ends with [`finish`](Self::finish).
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&mut self) -> Ledger {
        self.stream.count_debt()
    }

    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn unfit(&self) -> Option<CloseReason> {
        if let Some(reason) = self.stream.unfit(Ending::Silent) {
            return Some(reason);
        }
        if self.expires.is_some_and(|expires| Instant::now() >= expires) {
            return Some(CloseReason::MaxLifetime);
        }
        // No waker to leave behind: deadpool does not watch idle connections.
        match liveness::check(self.stream.io(), true, Waker::noop()) {
            Liveness::Alive => None,
            Liveness::Dead(reason) => Some(reason),
        }
    }
}

impl Deref for Connection {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

delegate_io!(impl[] for Connection);
