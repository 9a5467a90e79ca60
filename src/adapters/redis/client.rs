//! [`Client`]: a connection to Redis that belongs to one caller.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, PushInfo, RedisFuture, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::scanner::{RedisScanner, Session};
use crate::stream::Ledger;

/// A connection to Redis. Commands of the [`redis`](::redis) crate run on it, through
/// `&mut *guard`:
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool::redis::Redis>) -> Result<(), Box<dyn std::error::Error>> {
/// use livepool::redis::redis::AsyncCommands;
/// let mut conn = pool.get().await?;
/// conn.set::<_, _, ()>("key", 42).await?;
/// let value: i64 = conn.get("key").await?;
/// # Ok(()) }
/// ```
///
/// It is yours alone while you hold its guard: transactions, `WATCH` and commands that wait
/// (`BLPOP`) are safe on it. A command that waits has no read timeout; give it one of its own, or the
/// exchange a deadline ([`Guard::deadline`](crate::Guard::deadline)).
pub struct Client {
    connection: MultiplexedConnection,
    scanner: Arc<Mutex<RedisScanner>>,
    ledger: Ledger,
    pushes: Pushes,
}

/// Where what the server pushes (RESP3) goes, while somebody listens.
pub(super) type Pushes = Arc<Mutex<Option<UnboundedSender<PushInfo>>>>;

impl Client {
    pub(super) fn new(
        connection: MultiplexedConnection,
        scanner: Arc<Mutex<RedisScanner>>,
        ledger: Ledger,
        pushes: Pushes,
    ) -> Self {
        Self { connection, scanner, ledger, pushes }
    }

    /// What the server pushes from now on: messages of channels that this connection subscribes to,
    /// say. Only with RESP3 (`?protocol=resp3` in the URL). A connection that has subscribed is
    /// closed when it comes back.
    pub fn pushes(&mut self) -> UnboundedReceiver<PushInfo> {
        let (sender, receiver) = unbounded_channel();
        *self.pushes.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// How many replies are owed now.
    pub fn owed(&self) -> usize {
        self.ledger.debt()
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn scanner(&self) -> MutexGuard<'_, RedisScanner> {
        self.scanner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn session(&self) -> Session {
        self.scanner().session()
    }
}

impl ConnectionLike for Client {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.connection.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("owed", &self.owed()).finish_non_exhaustive()
    }
}
